"""The table has the reference's numbers, and says where an average is not the published one."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from data_pipelines.union14m.catalogue import BENCHMARK, COMMON
from maerec_jax.evaluation.groups import groups
from maerec_jax.evaluation.table import Table
from maerec_jax.reading.scoring import METRICS
from tests.evaluation.making import prediction, words

HEADLINE = {s.name: s.expected for s in BENCHMARK.sets if s.headline}
COMMON_WORDS = {s.name: s.expected for s in COMMON.sets}
LARGE = {name: n for name, n in COMMON_WORDS.items() if "_" not in name}
SMALL = {name: n for name, n in COMMON_WORDS.items() if name not in ("IC13", "IC15")}


def shown(table, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(table.to_rich("run"))
    return console.file.getvalue()


def by_name(table):
    return {average.group.name: average for average in table.averages}


def test_totals_equal_the_reference(fixtures):
    metrics = json.loads((fixtures / "metrics.json").read_text())
    pairs = metrics["pairs"]
    (found,) = Table.from_predictions(prediction(p["gt"], p["pred"], index=i) for i, p in enumerate(pairs)).sets
    assert found.words == metrics["n"] == len(pairs) == 70
    assert round(found.metrics["word_accuracy"], 4) == metrics["totals"]["word_acc"]
    assert round(found.metrics["word_accuracy_ignore_case"], 4) == metrics["totals"]["word_acc_ignore_case"]
    symbols = metrics["totals"]["word_acc_ignore_case_symbol"]
    assert round(found.metrics["word_accuracy_ignore_case_symbols"], 4) == symbols
    assert round(found.metrics["edit_similarity"], 4) == metrics["totals"]["1-N.E.D"]
    assert found.confidence == pytest.approx(0.9)


def test_images_that_cannot_be_used_are_wrong_whatever_their_label():
    some = [prediction("a"), prediction("!", outcome="missing", index=1), prediction("", outcome="unreadable", index=2)]
    (found,) = Table.from_predictions(some).sets
    assert (found.words, found.unusable) == (3, 2)
    assert found.metrics == pytest.approx(dict.fromkeys(METRICS, 1 / 3))
    assert found.confidence == pytest.approx(0.3)
    assert "2 images could not be used" in shown(Table((found,)))


def test_a_set_without_a_usable_image_has_no_score_and_is_in_no_average():
    lost = [prediction(name="SVT", index=i, outcome="missing") for i in range(4)]
    some = [*words("CUTE80", 2, 1), prediction(name="CUTE80", index=2, outcome="missing")]
    table = Table.from_predictions([*lost, *some])
    svt, cute = table.sets
    assert (svt.metrics, svt.confidence, table.scored) == ({}, None, (cute,))
    mean = table.averages[0]
    assert (mean.words, mean.metrics["word_accuracy"]) == (3, pytest.approx(1 / 3))
    assert "SVT" in mean.group.missing
    text = " ".join(shown(table).split())
    assert "SVT: none of its 4 images could be used, so it has no score. 1 images could not be used;" in text
    data = json.loads(json.dumps(table.to_dict()))
    assert Table.from_dict(data) == table
    data["sets"]["SVT"] |= {"metrics": dict.fromkeys(METRICS, 0.0), "confidence": 0.0}  # as earlier versions wrote it
    assert Table.from_dict(data) == table
    assert next(csv.DictReader(io.StringIO(table.to_csv())))["word_accuracy"] == ""


def test_plain_and_weighted_means():
    table = Table.from_predictions([*words("SVT", 10, 5), *words("CUTE80", 30, 30)])
    plain, weighted = table.averages
    assert (plain.group.kind, weighted.group.kind) == ("mean", "weighted")
    assert plain.metrics["word_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert weighted.metrics["word_accuracy"] == pytest.approx(35 / 40)
    assert plain.words == weighted.words == 40


def test_the_published_groups_come_from_the_catalogue():
    found = {
        group.name: group for group in groups(HEADLINE | COMMON_WORDS | {"incomplete": 1495, "incomplete_ori": 1495})
    }
    assert all(group.published and not group.remark and group.label == group.short for group in found.values())
    assert {name: (group.kind, set(group.weights)) for name, group in found.items()} == {
        "Union14M-Benchmark": ("mean", set(HEADLINE)),
        "common six with IC13 857 and IC15 1,811": ("mean", set(SMALL)),
        "common six with IC13 857 and IC15 1,811, by words": ("weighted", set(SMALL)),
        "common six with IC13 1,015 and IC15 2,077": ("mean", set(LARGE)),
        "common six with IC13 1,015 and IC15 2,077, by words": ("weighted", set(LARGE)),
        "Incomplete, margin": ("margin", {"incomplete", "incomplete_ori"}),
    }
    assert found["Union14M-Benchmark"].weights["general"] == pytest.approx(1 / 7)
    by_words = found["common six with IC13 1,015 and IC15 2,077, by words"].weights
    assert by_words["CUTE80"] == pytest.approx(288 / sum(LARGE.values()))
    assert all(sum(g.weights.values()) == pytest.approx(0 if g.kind == "margin" else 1) for g in found.values())


def test_a_set_that_is_published_in_two_sizes_belongs_to_the_group_of_its_size():
    small = groups(LARGE | {"IC13": 857, "IC15": 1811})
    assert [group.over for group in small] == ["common six with IC13 857 and IC15 1,811"] * 2
    assert all(group.published and "IC13" in group.weights for group in small)
    mixed = groups(LARGE | {"IC13": 857})
    assert [(group.missing, group.published) for group in mixed] == [(("IC15_1811",), False)] * 2 + [
        (("IC13",), False)
    ] * 2
    large = groups(LARGE)
    assert [group.over for group in large] == ["common six with IC13 1,015 and IC15 2,077"] * 2
    assert all(group.published for group in large)


def test_missing_sets_are_named():
    table = Table.from_predictions([*words("curve", 2426), *words("artistic", 900, 450)])
    (average,) = table.averages
    assert average.metrics["word_accuracy"] == pytest.approx(0.75)
    assert not average.group.published
    assert average.group.missing == ("multi_oriented", "contextless", "salient", "multi_words", "general")
    text = " ".join(shown(table).split())
    assert "average (2 of 7)" in text
    assert "2 of 7: curve, artistic, without multi_oriented, contextless, salient, multi_words, general" in text
    assert "not the published figure" in text


def test_samples_are_marked():
    table = Table.from_predictions([*words("curve", 10), *words("SVT", 647), *words("my/list.tsv", 3)])
    assert [result.coverage for result in table.sets] == ["sample", "complete", "unknown"]
    text = shown(table)
    assert "10/2,426" in text
    assert "647/" not in text
    sample = next(g for g in groups(dict.fromkeys(HEADLINE, 10)) if g.over == "Union14M-Benchmark")
    assert (sample.published, sample.label) == (False, "average (samples)")


def test_the_margin_is_whole_minus_cut_and_needs_both():
    table = Table.from_predictions([*words("incomplete", 1495, 598), *words("incomplete_ori", 1495, 1196)])
    margin = by_name(table)["Incomplete, margin"]
    assert margin.metrics["word_accuracy"] == pytest.approx(0.4)
    assert (margin.confidence, margin.group.published) == (None, True)
    assert "+40.00" in shown(table)
    lone = by_name(Table.from_predictions(words("incomplete", 5)))["Incomplete, margin"]
    assert (lone.metrics, lone.group.missing) == ({}, ("incomplete_ori",))


def test_sets_come_in_the_order_of_the_catalogue():
    names = ["z/list.tsv", "SVT", "general", "a/list.tsv", "incomplete", "curve"]
    table = Table.from_predictions(p for name in names for p in words(name, 2))
    assert [result.name for result in table.sets] == [
        "curve",
        "general",
        "incomplete",
        "SVT",
        "z/list.tsv",
        "a/list.tsv",
    ]
    sections = [[line.label for line in section if line.kind == "set"] for section in table.sections()]
    assert sections == [["curve", "general"], ["incomplete"], ["SVT"], ["z/list.tsv", "a/list.tsv"]]


def test_the_order_of_predictions_does_not_matter():
    some = [*words("curve", 20, 7), *words("SVT", 30, 11)]
    assert Table.from_predictions(some) == Table.from_predictions(reversed(some))


def test_the_dict_says_what_is_published():
    data = json.loads(json.dumps(Table.from_predictions([*words("curve", 20, 7), *words("x", 3)]).to_dict()))
    assert (data["sets"]["curve"]["words"], data["sets"]["curve"]["published_words"]) == (20, 2426)
    assert data["averages"][0]["missing"] == [
        "multi_oriented",
        "artistic",
        "contextless",
        "salient",
        "multi_words",
        "general",
    ]


def test_csv_has_a_line_for_each_set_and_average():
    table = Table.from_predictions([*words("incomplete", 10, 5), *words('a "b", c', 4)])
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [(line["kind"], line["name"]) for line in lines] == [
        ("set", "incomplete"),
        ("set", 'a "b", c'),
        ("margin", "Incomplete, margin"),
    ]
    assert (float(lines[0]["word_accuracy"]), lines[0]["coverage"], lines[0]["words"]) == (0.5, "sample", "10")
    assert (lines[2]["word_accuracy"], lines[2]["coverage"], lines[2]["missing"]) == ("", "partial", "incomplete_ori")


def test_names_of_sets_can_neither_style_nor_steer_the_terminal():
    table = Table.from_predictions([replace(prediction(), set="[red]x[/red]\x1b[2J")])
    assert "[red]x[/red]\\x1b[2J" in shown(table)


def test_it_fits_into_80_columns():
    lines = shown(Table.from_predictions([*words("multi_oriented", 5, 3), *words("IC15", 9)]), width=80).splitlines()
    assert all(heading in lines[1] for heading in ("set", "words", "WAICS", "36 chars", "1-NED", "conf."))


def foreign(name="cyrillic.txt", reading=""):
    return [prediction(word, reading, name=name, index=i) for i, word in enumerate(("Вход", "ХЛЕБ", "Exit"))]


def test_labels_of_other_scripts_are_judged_with_their_letters():
    """A model that reads nothing is right by the paper's metric, which knows none of the letters."""
    table = Table.from_predictions([*foreign()[:2], *words("curve", 3)])
    (curve, cyrillic) = table.sets
    assert cyrillic.metrics["word_accuracy_ignore_case_symbols"] == cyrillic.metrics["edit_similarity"] == 1
    assert cyrillic.metrics["word_accuracy_all_letters"] == 0
    assert curve.metrics["word_accuracy_all_letters"] == 1
    assert table.judged_by == "word_accuracy_all_letters"
    text = " ".join(shown(table, width=80).split())
    assert "all letters" in text
    assert "do not count in WAICS, 36 chars, 1-NED: cyrillic.txt 2; all letters counts those of all scripts" in text
    data = json.loads(json.dumps(table.to_dict()))
    assert data["judged_by"] == "word_accuracy_all_letters"
    assert data["sets"]["cyrillic.txt"]["letters_dropped"]["word_accuracy_ignore_case_symbols"] == 2
    assert Table.from_dict(data) == table


def test_what_the_paper_measures_is_judged_by_its_metric():
    table = Table.from_predictions([*words("curve", 3), prediction("café", name="curve", index=9)])
    assert table.judged_by == "word_accuracy_ignore_case_symbols"
    assert "WAICS, 36 chars, 1-NED: curve 1" in " ".join(shown(table).split())
    plain = Table.from_predictions(words("x.txt", 3))
    assert plain.judged_by == "word_accuracy_ignore_case_symbols"
    assert "all letters" not in shown(plain)


def test_tables_of_earlier_versions_are_read():
    table = Table.from_predictions([*words("curve", 3), *words("x", 2)])
    data = table.to_dict()
    del data["judged_by"]
    for entry in data["sets"].values():
        del entry["letters_dropped"], entry["capitals"], entry["metrics"]["word_accuracy_all_letters"]
    earlier = Table.from_dict(data)
    assert earlier.averages[0].metrics["word_accuracy"] == 1
    assert shown(earlier) == shown(table)


def test_labels_in_capitals_only_are_told():
    some = [prediction("STOP", "stop", name="SVT"), prediction("24", name="SVT", index=1)]
    text = " ".join(shown(Table.from_predictions([*some, *words("x", 2)])).split())
    assert "Labels in capitals only: SVT. WA counts small letters as wrong" in text
    assert "capitals only" not in shown(Table.from_predictions([*some, prediction("Go", name="SVT", index=2)]))
    assert "capitals only" not in shown(Table.from_predictions([prediction("漢字"), prediction("7", index=1)]))


def test_averages_are_called_by_the_sizes_that_are_there():
    def labels(sets):
        return [group.label for group in groups(sets)]

    assert labels({"SVT": 647, "CUTE80": 288}) == ["average (2 of 6)", "by words (2 of 6)"]
    assert labels({"SVT": 647, "IC13_857": 857}) == ["average, 857 (2 of 6)", "by words, 857 (2 of 6)"]
    assert labels({"IC15": 2077, "IC13_857": 857})[::2] == ["average, 857 (1 of 6)", "average, 2,077 (1 of 6)"]
    assert groups({"SVT": 647})[0].remark.startswith("common six, not the published figure")


def test_no_number_is_cut_off_in_80_columns():
    some = [*words("multi_oriented", 1369), *foreign("a_folder/with/a/long/name.txt"), *words("general", 2000, 1)]
    some.append(prediction(outcome="missing", name="general", index=9999))
    for parts in (some, some[:-1], [p for p in some if p.set != "a_folder/with/a/long/name.txt"]):
        lines = shown(Table.from_predictions(parts), width=80).splitlines()
        heading = next(line for line in lines if line.startswith("set"))
        general = next(line for line in lines if line.startswith("general"))
        assert heading.rstrip().endswith("conf.")
        assert general.rstrip().endswith("90.0")
        assert not any("…" in line for line in lines)
    assert "2,001/400,000" in general
