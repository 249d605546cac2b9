"""The check finds the sets of the catalogue, looks at all of their records, and tells what it found."""

import json
import subprocess
import sys

import pytest

from data_pipelines import check as command
from data_pipelines.check import CheckArguments, check
from data_pipelines.checking.inspecting import NOTES, PROBLEMS
from data_pipelines.checking.report import Report
from data_pipelines.command import run_command
from data_pipelines.union14m.catalogue import BENCHMARK, CATALOGUE, COMMON, UNLABELLED, locate
from tests.data_pipelines.planting import RULES, counts, easy, found_in, write_document, write_lines, write_lmdb


def test_workers_find_what_the_main_process_finds(tmp_path, training, jpeg, monkeypatch):
    folder, records = training
    (folder / records[2][0]).unlink()
    (folder / records[9][0]).write_bytes(b"")
    write_lines(folder / "train_annos/mmocr-0.x/train_hard.jsonl", [(n, t + "é") for n, t in records] * 2)
    write_lmdb(tmp_path / "Union14M-U/cc_lmdb", {n: jpeg(n) if n % 3 else b"" for n in range(1, 12)})
    monkeypatch.setattr(command, "CHUNK", 5)
    alone, together = found_in(tmp_path), found_in(tmp_path, workers=2)
    assert {name: vars(report) for name, report in alone.items()} == {n: vars(r) for n, r in together.items()}
    assert counts(alone["Union14M-L/train_hard"]) == {"missing": 2, "unreadable": 2, "outside_charset": 24}
    assert alone["Union14M-L/train_hard"].findings.characters == {"é": 24}
    assert counts(alone["Union14M-U/cc_lmdb"]) == {"unreadable": 3, "unlabelled": 11}


def test_findings_do_not_grow_with_the_records(tmp_path, training):
    folder, _ = training
    write_lines(folder / "train_annos/mmocr-0.x/train_easy.jsonl", [(f"{n}.jpg", "é" * 60) for n in range(3000)])
    findings = easy(tmp_path).findings
    assert findings.counts == {"missing": 3000, "too_long": 3000, "outside_charset": 3000}
    assert all(len(offenders) == RULES.listed for offenders in findings.offenders.values())
    assert [offender.name for offender in findings.offenders["missing"]] == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize("at", ["", "Union14M-L", "Union14M-L/Union14M-Benchmarks", "linked"])
def test_sets_are_found_from_any_folder_above_them(tmp_path, training, jpeg, at):
    imgs = training[0] / "Union14M-Benchmarks/curve/imgs"
    imgs.mkdir(parents=True)
    (imgs / "1.jpg").write_bytes(jpeg(1))
    write_lines(imgs.parent / "annotation.jsonl", [("imgs/1.jpg", "a")])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/Union14M-L").symlink_to(training[0])
    (training[0] / "back").symlink_to(tmp_path / "linked")
    reports = found_in(tmp_path / at)
    assert reports["Union14M-Benchmark/curve"].findings.images == 1
    assert all(not counts(report) for report in reports.values())


def test_the_common_benchmarks_are_found_by_their_usual_names(tmp_path, jpeg):
    records = [("1.jpg", "a")]
    for name in ("IIIT5K", "icdar2015", "CT80"):
        listing = "textrecog_test.json" if name == "icdar2015" else "annotation.json"
        write_document(tmp_path / name / listing, records)
        (tmp_path / name / "1.jpg").write_bytes(jpeg(1))
    write_document(tmp_path / "icdar2015/textrecog_test_1811.json", records)
    write_document(tmp_path / "icdar2015/textrecog_train.json", records)
    for name in ("evaluation/SVT", "evaluation/svtp", "evaluation/IC13_857", "evaluation/IC13_1015", "training/MJ"):
        write_lmdb(tmp_path / name, {1: jpeg(1)}, {1: b"a"})
    assert set(found_in(tmp_path)) == {f"common benchmarks/{word_set.name}" for word_set in COMMON.sets}
    assert locate(tmp_path)[1] == ["icdar2015/textrecog_train.json", "training/MJ"]


def test_the_catalogue_holds_the_published_counts():
    sizes = {collection.name: [word_set.expected for word_set in collection.sets] for collection in CATALOGUE}
    assert sum(sizes["Union14M-L"][:5]) == 3_230_742
    assert sum(BENCHMARK.sets[place].expected for place in range(9)) == 409_383 + 1_495
    assert sum(word_set.headline for word_set in BENCHMARK.sets) == 7
    assert UNLABELLED.sets[0].compare(2_712_345) == "complete"
    assert UNLABELLED.sets[0].compare(2_600_000) == "sample"
    assert COMMON.sets[4].compare(857) == "complete"
    assert COMMON.sets[4].compare(1_016) == "more"


def run(*arguments):
    return run_command(CheckArguments, check, "check", ["--workers", "0", *map(str, arguments)])


def test_the_command_tells_by_its_status_prints_a_table_and_writes_json(tmp_path, training, capsys):
    folder, records = training
    out = tmp_path / "reports/check.json"
    assert run(tmp_path, "--json", out) == 0
    printed = capsys.readouterr().out
    for expected in ("train_easy", "2,076,161", "sample", "absent: Union14M-U: all of it", "0 problems"):
        assert expected in printed
    (folder / records[0][0]).write_bytes(b"")
    (folder / records[1][0]).write_bytes(b"")
    assert run(tmp_path, "--json", out, "--list", 1) == 1
    printed = capsys.readouterr().out
    assert "2 times: the file is empty" in printed
    assert "made/00.jpg" in printed
    assert "made/01.jpg" not in printed
    result = json.loads(out.read_text())
    (easy_set,) = result["sets"]
    assert easy_set["problems"] == dict.fromkeys(PROBLEMS, 0) | {"unreadable": 2}
    assert easy_set["notes"] == dict.fromkeys(NOTES, 0)
    assert easy_set["unreadable_because"] == {"the file is empty": 2}
    assert easy_set["offenders"] == {
        "unreadable": [{"name": "Union14M-L/full_images/made/00.jpg", "detail": "the file is empty"}]
    }
    assert (result["images"], result["problems"], easy_set["status"]) == (10, 2, "sample")
    assert result["absent"]["Union14M-L"][0] == "train_medium"
    assert result["extra"] == ["reports/check.json"]


def test_a_root_without_sets_is_an_error_of_one_line(tmp_path, capsys):
    assert run(tmp_path / "none") == 2
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 2
    assert run(tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") and str(tmp_path) in line for line in lines)


def test_named_sources_are_checked_whatever_they_are_called(tmp_path, training, jpeg, capsys):
    folder, records = training
    write_lines(tmp_path / "mine.txt.jsonl", [(f"{folder.name}/{name}", text) for name, text in records[:3]])
    write_lmdb(tmp_path / "my words", {1: jpeg(1), 2: b""})
    write_lmdb(tmp_path / "some labels", {1: jpeg(1), 2: jpeg(2)}, {2: b"a"})
    (tmp_path / "names.txt").write_text(f"{folder.name}/{records[0][0]}\n")
    assert run(tmp_path, "--sources", "mine.txt.jsonl", "--json", tmp_path / "report.json") == 0
    assert run(tmp_path, "--sources", "mine.txt.jsonl", "my words", "--characters", "xyz") == 1
    told = capsys.readouterr().out
    assert "mine.txt.jsonl" in told
    assert "my words" in told
    assert "absent" not in told
    assert run(tmp_path, "--sources", "my words", "names.txt", "some labels", "--json", tmp_path / "report.json") == 1
    sets = json.loads((tmp_path / "report.json").read_text())["sets"]
    found = [(each["problems"]["unreadable"], each["problems"]["missing_labels"]) for each in sets]
    assert found == [(1, 0), (0, 0), (0, 1)]
    assert [each["notes"]["unlabelled"] for each in sets] == [2, 1, 0]
    assert run(tmp_path, "--sources", "nothing") == 1
    assert "nothing is not an annotation list, LMDB or prepared set" in capsys.readouterr().err


def test_the_command_explains_itself():
    arguments = [sys.executable, "-m", "data_pipelines.check", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert "Check a download of Union14M" in done.stdout


def test_the_real_words_are_sound(real_data):
    reports = found_in(real_data, workers=2)
    levels = [r for name, r in reports.items() if name.startswith("Union14M-L/train_")]
    assert sum(report.findings.records for report in levels) == 7104
    benchmark = {
        name.split("/")[1]: r.findings.records for name, r in reports.items() if name.startswith(BENCHMARK.name)
    }
    assert benchmark == {"general": 400, "contextless": 100, "multi_words": 59, "multi_oriented": 60} | dict.fromkeys(
        ("curve", "artistic", "salient"), 60
    ) | dict.fromkeys(("incomplete", "incomplete_ori"), 80)
    unlabelled = [reports[f"Union14M-U/{name}_lmdb"].findings.records for name in ("book32", "cc", "openvino")]
    assert unlabelled == [1714, 3820, 1570]
    assert all(report.findings.problems == 0 and report.status == "sample" for report in reports.values())
    assert sum(report.findings.images for report in reports.values()) == 7104 + 300 + 959 + 7104


def test_every_column_has_a_title(tmp_path, training):
    report = Report(tmp_path, list(found_in(tmp_path).values()), [], 1.0)
    assert all(str(column.header) for column in report._table().columns)
