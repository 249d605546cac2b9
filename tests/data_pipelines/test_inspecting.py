"""Every damaged image, label, entry and file is counted once, in the right column, and the others are read."""

import io
import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError, OutsideError
from data_pipelines.sources.annotations import read_annotations
from tests.data_pipelines.planting import RULES, counts, easy, found_in, write_document, write_lmdb


def test_sound_records_have_no_problems(tmp_path, training):
    report = easy(tmp_path)
    assert (report.findings.records, counts(report), report.findings.images) == (12, {}, 12)
    assert report.status == "sample"


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def cmyk():
    file = io.BytesIO()
    Image.new("CMYK", (40, 20)).save(file, "JPEG")
    return file.getvalue()


IMAGES = {
    "zero bytes": (lambda jpeg: b"", {"unreadable": 1}),
    "no image": (lambda jpeg: b"<html>not found</html>", {"unreadable": 1}),
    "header only": (lambda jpeg: jpeg[:30], {"unreadable": 1}),
    "bomb": (lambda jpeg: png(np.zeros((8000, 8000), np.uint8)), {"unreadable": 1}),
    "zeros for its end": (lambda jpeg: jpeg[:-2] + bytes(100), {"cut_off": 1}),
    "bytes after its end": (lambda jpeg: jpeg + b"\0" * 100, {}),
    "png in name of jpg": (lambda jpeg: png(np.zeros((20, 40, 3), np.uint8)), {}),
    "16 bits": (lambda jpeg: png(np.zeros((20, 40), np.uint16)), {}),
    "alpha": (lambda jpeg: png(np.zeros((20, 40, 4), np.uint8)), {}),
    "cmyk": (lambda jpeg: cmyk(), {}),
    "just vertical": (lambda jpeg: png(np.zeros((40, 20), np.uint8)), {"vertical": 1}),
    "not quite vertical": (lambda jpeg: png(np.zeros((39, 20), np.uint8)), {}),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_is_counted_by_what_it_is(tmp_path, training, jpeg, kind):
    folder, records = training
    make, expected = IMAGES[kind]
    (folder / records[5][0]).write_bytes(make(jpeg(5)))
    report = easy(tmp_path)
    assert counts(report) == expected
    assert report.findings.images == 12 - expected.get("unreadable", 0)
    assert sum(report.findings.reasons.values()) == expected.get("unreadable", 0)
    for offenders in report.findings.offenders.values():
        assert [offender.name for offender in offenders] == ["Union14M-L/full_images/made/05.jpg"]


def test_a_jpeg_that_is_cut_off_is_counted_once_wherever_it_is_cut(tmp_path, training):
    noise = np.random.default_rng(0).integers(0, 255, (64, 200, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    folder, records = training
    sizes = [2, 100, 700, len(whole) // 2, len(whole) - 1000, len(whole) - 2, len(whole) - 1]
    for (name, _), size in zip(records, sizes, strict=False):
        (folder / name).write_bytes(whole[:size])
    findings = easy(tmp_path).findings
    assert set(findings.counts) <= {"unreadable", "cut_off"}
    assert sum(findings.counts.values()) == len(sizes)
    assert findings.images == 12 - findings.counts["unreadable"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"empty": 1}),
        ("  ", {"empty": 1}),
        ("x" * 46, {}),
        ("x" * 47, {"too_long": 1}),
        ("Müller", {"outside_charset": 1}),
        ("日" * 47, {"too_long": 1, "outside_charset": 1}),
    ],
)
def test_a_label_is_counted_by_what_it_is(tmp_path, training, text, expected):
    folder, records = training
    records[7] = (records[7][0], text)
    write_document(folder / "train_annos/mmocr1.0.x/train_easy.json", records)
    (folder / "train_annos/mmocr-0.x/train_easy.jsonl").unlink()
    report = easy(tmp_path)
    assert counts(report) == expected
    assert report.findings.characters == ({c: 1 for c in set(text) & {"ü", "日"}})


LINES = {
    "{broken": "malformed",
    '{"filename": "full_images/made/00.jpg"}': "malformed",
    '["full_images/made/00.jpg", "a"]': "malformed",
    "[" * 100_000: "malformed",
    '{"filename": "full_images/made/00.jpg", "text": "\xff"}': "malformed",
    '{"filename": "full_images/made/\\ud800.jpg", "text": "a"}': "malformed",
    '{"filename": "full_images/made/0\\u0000.jpg", "text": "a"}': "malformed",
    '{"filename": "../a.jpg", "text": "a"}': "outside",
    '{"filename": "/etc/hostname", "text": "a"}': "outside",
    '{"filename": "full_images/made/none.jpg", "text": "a"}': "missing",
    '{"filename": "full_images/made", "text": "a"}': "unreadable",
}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_bad_line_is_counted_and_the_next_ones_read(tmp_path, training, line):
    path = training[0] / "train_annos/mmocr-0.x/train_easy.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], line.encode("latin-1") + b"\n", *lines[4:]]))
    report = easy(tmp_path)
    assert counts(report) == {LINES[line]: 1}
    assert report.findings.images == 12
    if LINES[line] in ("malformed", "outside"):
        (offender,) = report.findings.offenders[LINES[line]]
        assert "train_easy.jsonl:5: " in offender.detail
        assert report.findings.records == 12


def test_entries_of_a_document_are_counted_and_read_as_far_as_it_goes(tmp_path, training):
    folder, records = training
    path = folder / "train_annos/mmocr1.0/train_easy.json"
    write_document(path, records)
    document = json.loads(path.read_text())
    bad = [{"img_path": "a.jpg"}, {"instances": [{"text": "a"}]}, 3]
    outside = {"img_path": "../a.jpg", "instances": [{"text": "a"}]}
    document["data_list"][6:6] = [*bad, outside]
    errors = []
    for text, expected in (
        (json.dumps(document), [DataError, DataError, OutsideError, DataError]),
        (json.dumps(document)[:-400], [DataError, DataError, OutsideError, DataError]),
        (json.dumps(document).replace("word3", "wo\xff"), [DataError] * 3 + [OutsideError, DataError]),
    ):
        path.write_bytes(text.encode("latin-1"))
        errors.clear()
        _, names, texts, *_ = read_annotations(path, errors.append)
        assert len(names) == len(texts)
        assert sorted(map(str, map(type, errors))) == sorted(map(str, expected))
        assert all(f"{path}:" in str(error) and "\n" not in str(error) for error in errors)
        assert list(names) == [name for name, _ in records if name in set(names)]
        assert len(names) >= 6
    (folder / "train_annos/mmocr-0.x/train_easy.jsonl").unlink()
    assert counts(easy(tmp_path)) == {"malformed": 4, "outside": 1}
    path.write_text("3")
    assert counts(easy(tmp_path)) == {"malformed": 1}
    path.write_text("[]")
    assert counts(easy(tmp_path)) == {"broken_files": 1}
    write_document(path, [])
    assert counts(easy(tmp_path)) == {"broken_files": 1}


def test_a_link_out_of_the_root_is_counted(tmp_path, training, tmp_path_factory, jpeg):
    outside = tmp_path_factory.mktemp("outside") / "a.jpg"
    outside.write_bytes(jpeg(0))
    image = training[0] / training[1][3][0]
    image.unlink()
    image.symlink_to(outside)
    assert counts(easy(tmp_path)) == {"outside": 1}


def test_both_annotation_files_of_a_set_are_compared_and_its_images_read_once(tmp_path, training):
    folder, records = training
    other = folder / "train_annos/mmocr1.0/train_easy.json"
    for changed, expected in (
        (records, {}),
        (records[::-1], {}),
        (records[:-1], {"differing": 1}),
        ([*records[:-1], (records[-1][0], "other")], {"differing": 2}),
    ):
        write_document(other, changed)
        report = easy(tmp_path)
        assert (counts(report), report.findings.images) == (expected, 12)
        assert report.place.paths[0].endswith(".jsonl")


def test_all_images_missing_are_counted_one_by_one(tmp_path, training):
    training[0].joinpath("full_images").rename(tmp_path / "elsewhere")
    report = easy(tmp_path)
    assert counts(report) == {"missing": 12}
    assert len(report.findings.offenders["missing"]) == RULES.listed


LMDBS = {
    "sound": ({}, {}, {}, None),
    "image missing": ({3: None}, {}, {"missing": 1}, 9),
    "label missing": ({}, {3: None}, {"missing_labels": 1}, 9),
    "label broken": ({}, {3: b"\xff\xfe"}, {"broken_labels": 1}, 9),
    "image broken, label too": ({3: b"x"}, {3: b"\xff"}, {"unreadable": 1, "broken_labels": 1}, 9),
    "count too high": ({}, {}, {"wrong_count": 2}, 11),
    "count too low": ({}, {}, {"wrong_count": 4}, 5),
    "no count": ({}, {}, {"wrong_count": 9}, ""),
    "no number": ({}, {}, {"wrong_count": 9}, "many"),
}


@pytest.mark.parametrize("kind", LMDBS)
@pytest.mark.parametrize("folder", ["train_hard", "filter_train_hard"])
def test_an_lmdb_is_counted_by_what_is_wrong(tmp_path, jpeg, kind, folder):
    images, labels, expected, stated = LMDBS[kind]
    all_images = {number: jpeg(number) for number in range(1, 10)} | images
    all_labels = {number: b"word" for number in range(1, 10)} | labels
    write_lmdb(
        tmp_path / folder,
        {number: image for number, image in all_images.items() if image is not None},
        {number: label for number, label in all_labels.items() if label is not None},
        stated,
    )
    report = found_in(tmp_path)["Union14M-L-Filter/filter_train_hard"]
    assert (counts(report), report.findings.records, report.status) == (expected, 9, "unknown")


def test_an_lmdb_that_cannot_be_read_is_counted(tmp_path):
    (tmp_path / "book32_lmdb").mkdir()
    (tmp_path / "book32_lmdb/data.mdb").write_bytes(b"no LMDB" * 1000)
    write_lmdb(tmp_path / "cc_lmdb", {number: bytes(2**20) for number in range(1, 5)})
    os.truncate(tmp_path / "cc_lmdb/data.mdb", 2**21)
    write_lmdb(tmp_path / "openvino_lmdb", {}, stated=4)
    reports = found_in(tmp_path)
    assert [counts(report) for report in reports.values()] == [{"broken_files": 1}] * 2 + [{"wrong_count": 4}]
    details = [report.findings.offenders["broken_files"][0].detail for report in list(reports.values())[:2]]
    assert "cannot be opened" in details[0]
    assert "cut off" in details[1]
    assert "no keys image-000000001" in reports["Union14M-U/openvino_lmdb"].findings.offenders["wrong_count"][0].detail


def test_unlabelled_lmdbs_need_no_labels(tmp_path, jpeg):
    write_lmdb(tmp_path / "Union14M-U/cc_lmdb", {1: jpeg(1), 2: jpeg(2)})
    assert counts(found_in(tmp_path)["Union14M-U/cc_lmdb"]) == {"unlabelled": 2}
