"""Two runs are compared image by image; intervals are those of a bootstrap over images."""

import io
import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from data_pipelines.errors import UserError
from maerec_jax.evaluation.compare import compare, interval, resampled_means, set_seed
from maerec_jax.evaluation.comparison import MEASURES
from maerec_jax.evaluation.table import Table
from maerec_jax.reading.scoring import HEADLINE
from tests.evaluation.making import prediction, words, write


def pair(tmp_path, a, b):
    return write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b)


def read_as(predictions, readings):
    """The predictions with other readings of some, by their place."""
    return [replace(p, reading=readings.get(i, p.reading)) for i, p in enumerate(predictions)]


def shown(comparison, width=160, **kwargs):
    console = Console(width=width, file=io.StringIO())
    console.print(comparison.to_rich(**kwargs))
    return console.file.getvalue()


def test_a_plain_bootstrap_gives_the_same_distribution():
    gained, lost, count, resamples = 12, 5, 60, 20_000
    values_N = np.repeat([1, -1, 0], [gained, lost, count - gained - lost])
    plain_R = np.random.default_rng(3).choice(values_N, (resamples, count)).mean(axis=1)
    ours_R = resampled_means(gained, lost, count, resamples, 4)
    assert ours_R.shape == (resamples,)
    # 5 standard errors of the mean, and of a share of the resamples for the distribution functions.
    assert abs(plain_R.mean() - ours_R.mean()) < 5 * plain_R.std() * (2 / resamples) ** 0.5
    edges = np.unique(values_N.size * plain_R.round(12)) / values_N.size + 1e-6
    below = [np.mean(means_R[:, None] <= edges, axis=0) for means_R in (plain_R, ours_R)]
    assert np.abs(below[0] - below[1]).max() < 5 * (0.5 / resamples) ** 0.5


def test_intervals_cover_the_true_difference():
    generator = np.random.default_rng(0)
    gain, loss, count, runs = 0.10, 0.06, 400, 400
    covered = 0
    for run in range(runs):
        gained, lost, _ = generator.multinomial(count, [gain, loss, 1 - gain - loss]).tolist()
        low, high = interval(resampled_means(gained, lost, count, 2000, run))
        covered += low <= gain - loss <= high
    assert 0.92 < covered / runs < 0.98


def test_identical_runs_differ_by_nothing(tmp_path):
    some = [*words("curve", 50, 30), *words("incomplete", 20, 4), *words("incomplete_ori", 20, 9)]
    found = compare(*pair(tmp_path, some, reversed(some)))
    assert [d.name for d in found.differences] == [
        "curve", "incomplete", "incomplete_ori", "Union14M-Benchmark", "Incomplete, margin",
    ]  # fmt: skip
    for difference in found.differences:
        for metric in MEASURES:
            measure = difference.measures[metric]
            assert (measure.low, measure.difference, measure.high) == (0, 0, 0)
            assert difference.verdict(metric) == "no verdict changed"
    assert (found.fixed, found.broken, found.relabelled, found.only_a, found.only_b) == ((), (), (), {}, {})


def test_differences_are_those_of_the_tables(tmp_path):
    a = [
        *words("curve", 30, 20),
        *words("salient", 10, 5),
        *words("incomplete", 10, 4),
        *words("incomplete_ori", 10, 8),
    ]
    b = read_as(a, {0: "WORD", 1: "wor-d", 2: "x", 25: "word", 35: "word", 45: "word", 50: ""})
    found = compare(*pair(tmp_path, a, b))
    tables = [Table.from_predictions(run) for run in (a, b)]
    lines = [{**{r.name: r.metrics for r in t.sets}, **{m.group.name: m.metrics for m in t.averages}} for t in tables]
    assert {d.name for d in found.differences} == lines[0].keys()
    for difference in found.differences:
        for metric in MEASURES:
            measure, (before, after) = difference.measures[metric], (line[difference.name][metric] for line in lines)
            assert (measure.a, measure.b) == pytest.approx((before, after))
            assert measure.difference == pytest.approx(after - before)
            assert measure.low <= measure.difference <= measure.high


def test_sets_without_a_score_in_one_run_are_left_out(tmp_path):
    lost = [prediction(name="SVT", index=i, outcome="missing") for i in range(3)]
    found = compare(*pair(tmp_path, [*words("curve", 3), *words("SVT", 3)], [*words("curve", 3), *lost]))
    assert "SVT" not in {difference.name for difference in found.differences}
    assert (found.broken, found.only_a, found.to_dict()["without_score"]) == ((), {}, ["SVT"])
    assert "Left out, because a run could use none of their images: SVT." in found.remarks()
    with pytest.raises(UserError, match="no image of SVT could be used in one of them"):
        compare(*pair(tmp_path, lost, lost))


def test_an_average_resamples_each_set_on_its_own(tmp_path):
    a = [*words("curve", 40, 20), *words("salient", 160, 80)]
    b = read_as(a, {i: "word" for i in range(20, 26)} | {i: "word" for i in range(120, 130)})
    found = compare(*pair(tmp_path, a, b), resamples=40_000)
    average = found.differences[-1].measures[HEADLINE]
    spread = (average.high - average.low) / (2 * 1.96)
    variances = [p * (1 - p) / n for p, n in ((6 / 40, 40), (10 / 160, 160))]
    assert spread == pytest.approx((sum(variances) / 4) ** 0.5, rel=0.05)


def test_fixed_and_broken_images_and_those_read_otherwise(tmp_path):
    a = words("curve", 6, 3)
    b = read_as(a, {0: "WO.RD", 1: "ward", 3: "word", 4: "xxxx"})
    found = compare(*pair(tmp_path, a, b))
    assert [(pair.image.place, pair.a.reading, pair.b.reading) for pair in found.fixed] == [(3, "wrod", "word")]
    assert [(pair.image.place, pair.a.reading, pair.b.reading) for pair in found.broken] == [(1, "word", "ward")]
    assert found.differences[0].reworded == 2
    data = json.loads(json.dumps(found.to_dict()))
    assert [image["file"] for image in data["fixed"]] == ["curve/3.jpg"]
    assert [image["file"] for image in data["broken"]] == ["curve/1.jpg"]
    assert data["differences"][0]["metrics"][HEADLINE]["verdict"] == "interval contains 0"


def test_verdicts_tell_the_better_run_and_less_of_the_margin_is_better(tmp_path):
    a = [*words("incomplete", 100, 20), *words("incomplete_ori", 100, 80)]
    b = read_as(a, {i: "word" for i in range(20, 60)})
    found = {d.name: d for d in compare(*pair(tmp_path, a, b)).differences}
    assert found["incomplete"].verdict() == "b is better"
    assert found["incomplete_ori"].verdict() == "no verdict changed"
    assert found["Incomplete, margin"].measures[HEADLINE].high < 0
    assert found["Incomplete, margin"].verdict() == "b is better"


def test_images_and_sets_in_one_run_only_are_counted_and_shown(tmp_path):
    a = [*words("curve", 10), *words("SVT", 4)]
    b = [*words("curve", 12)[3:], *words("CUTE80", 2)]
    found = compare(*pair(tmp_path, a, b))
    assert [(d.name, d.words) for d in found.differences] == [("curve", 7), ("Union14M-Benchmark", 7)]
    data = found.to_dict()
    for run, expected in (
        ("a", {"curve": (3, False), "SVT": (4, True)}),
        ("b", {"curve": (2, False), "CUTE80": (2, True)}),
    ):
        lone = data[f"only_in_{run}"]
        assert {name: (each["images"], each["whole_set"]) for name, each in lone.items()} == expected
    text = shown(found)
    assert "Only in a, not in b: 4 of SVT, the whole set." in text
    assert "Only in b, not in a: 2 of curve, first curve/10.jpg." in text
    assert data["only_in_a"]["curve"]["files"] == ["curve/0.jpg", "curve/1.jpg", "curve/2.jpg"]


def test_file_and_place_both_have_to_be_the_same(tmp_path):
    a = words("curve", 3)
    b = [a[0], replace(a[1], file="other.jpg"), replace(a[2], index=7)]
    found = compare(*pair(tmp_path, a, b))
    assert (found.differences[0].words, len(found.only_a["curve"]), len(found.only_b["curve"])) == (1, 2, 2)


def test_different_labels_are_told_and_each_run_is_judged_by_its_own(tmp_path):
    a = words("curve", 3)
    b = [a[0], replace(a[1], truth="sword"), a[2]]
    found = compare(*pair(tmp_path, a, b))
    assert [(pair.image.place, pair.a.truth, pair.b.truth) for pair in found.relabelled] == [(1, "word", "sword")]
    assert found.differences[0].measures[HEADLINE].b == pytest.approx(2 / 3)
    assert ([pair.image.place for pair in found.broken], found.fixed) == ([1], ())
    assert '"word" and "sword"' in shown(found)


def test_images_that_cannot_be_used_are_wrong(tmp_path):
    a = [prediction("!", "!"), prediction("a", index=1)]
    b = [prediction("!", outcome="missing"), prediction("a", index=1)]
    found = compare(*pair(tmp_path, a, b))
    assert ([pair.image.place for pair in found.broken], found.fixed) == ([0], ())


def test_the_seed_decides_and_what_else_is_compared_does_not(tmp_path):
    a, b = words("curve", 50, 25), read_as(words("curve", 50, 25), {0: "x", 1: "x", 30: "word"})
    files = pair(tmp_path, a, b)
    first = compare(*files).differences[0].measures
    assert compare(*files).differences[0].measures == first
    means = [resampled_means(1, 2, 50, 500, set_seed(seed, "curve", 0)) for seed in (0, 0, 1)]
    assert np.array_equal(means[0], means[1])
    assert not np.array_equal(means[0], means[2])
    more = pair(tmp_path, [*words("SVT", 5), *a], [*words("SVT", 5), *b])
    assert compare(*more).differences[0].measures == first


def test_long_lists_are_shortened_and_complete_in_json(tmp_path):
    a = words("curve", 60, 0)
    found = compare(*pair(tmp_path, a, words("curve", 60)))
    text = shown(found, shown=7)
    assert "fixed, by WAICS: 60" in text
    assert "and 53 more" in text
    assert text.count("curve/") == 7
    assert "has all 60" in text
    assert len(found.to_dict()["fixed"]) == 60


def test_labels_can_neither_style_nor_steer_the_terminal(tmp_path):
    a = [prediction("[red]x[/red]\x1b[2J")]
    text = shown(compare(*pair(tmp_path, a, read_as(a, {0: "\u202eevil"}))))
    assert "[red]x[/red]\\x1b[2J" in text
    assert "\\u202eevil" in text


def test_a_table_leads_to_its_predictions(tmp_path):
    a, b = pair(tmp_path, words("curve", 5, 2), words("curve", 5, 4))
    table = tmp_path / "a.json"
    data = Table.from_predictions(words("curve", 5, 2)).to_dict()
    table.write_text(json.dumps(data | {"predictions": "a.jsonl"}))
    assert compare(table, b).differences == compare(a, b).differences


OUTSIDE = ["../a.jsonl", "/etc/passwd", "sub/../../a.jsonl"]


@pytest.mark.parametrize("name", [*OUTSIDE, None, 5, ""])
def test_a_table_without_predictions_beside_it_is_refused(tmp_path, name):
    write(tmp_path / "a.jsonl", words("curve", 5))
    (tmp_path / "run").mkdir()
    table = tmp_path / "run" / "a.json"
    table.write_text(json.dumps(Table.from_predictions(words("curve", 5)).to_dict() | {"predictions": name}))
    with pytest.raises(UserError, match=r"outside its folder|does not name") as error:
        compare(table, tmp_path / "a.jsonl")
    assert "(.jsonl)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", words("curve", 5))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.jsonl").symlink_to(a)
    table = tmp_path / "run" / "a.json"
    table.write_text(json.dumps(Table.from_predictions(words("curve", 5)).to_dict() | {"predictions": "a.jsonl"}))
    with pytest.raises(UserError, match="outside its folder"):
        compare(table, a)


def test_a_table_of_other_predictions_is_refused(tmp_path):
    write(tmp_path / "a.jsonl", words("curve", 5))
    table = tmp_path / "a.json"
    table.write_text(json.dumps(Table.from_predictions(words("curve", 6)).to_dict() | {"predictions": "a.jsonl"}))
    with pytest.raises(UserError, match=r"5 words of curve.*6"):
        compare(table, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", None, "No such file"),
        ("x.json", None, "No such file"),
        ("x.jsonl", "", "no predictions"),
        ("x.jsonl", "{}\n", "x.jsonl:1: not a prediction: set"),
        ("x.jsonl", b'{"set": "\xff"}\n', "x.jsonl:1: not a prediction"),
        ("x.json", "{", "not a table.*Invalid JSON"),
        ("x.json", b"\xff", "not a table.*Invalid JSON"),
        ("x.json", "[1]", "not a table"),
        ("x.json", "{}", "not a table.*sets"),
        ("x.json", '{"sets": {"curve": {"words": "x"}}}', r"not a table.*sets\.curve\.words"),
        ("x.jsonl", "twice", r"x.jsonl:3: curve/0.jpg of curve appears twice"),
        ("x.jsonl", "confidence", r"x.jsonl:1: not a prediction: confidence"),
        ("x.jsonl", "others", "no image in common"),
    ],
)
def test_broken_files_give_one_line(tmp_path, name, content, message):
    sound = write(tmp_path / "sound.jsonl", words("curve", 2))
    file = tmp_path / name
    lines = {
        "twice": [*words("curve", 2), *words("curve", 1)],
        "confidence": [prediction(confidence=1.5)],
        "others": words("SVT", 2),
    }
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content in lines:
        write(file, lines[content])
    elif content is not None:
        file.write_text(content)
    for files in ((file, sound), (sound, file)):
        with pytest.raises(UserError, match=message) as error:
            compare(*files)
        assert "\n" not in str(error.value)


def test_other_scripts_are_compared_by_all_their_letters(tmp_path):
    a = [prediction(word, "", name="x.txt", index=i) for i, word in enumerate(("Вход", "ХЛЕБ", "صندوق"))]
    found = compare(*pair(tmp_path, a, read_as(a, {0: "ВХОД", 1: "ХЛЕ"})))
    assert [pair.image.place for pair in found.fixed] == [0]
    assert found.differences[0].verdict() == "no verdict changed"
    assert found.differences[0].verdict(found.judged_by) != "no verdict changed"
    assert found.differences[0].reworded == 1
    text = " ".join(shown(found).split())
    assert "fixed, by all letters: 1" in text
    assert "do not count in WAICS: x.txt 3; all letters counts" in text
    data = found.to_dict()
    assert (data["judged_by"], data["letters_dropped"]) == ("word_accuracy_all_letters", {"x.txt": 3})


def test_forms_of_unicode_are_no_difference(tmp_path):
    a = [prediction(word, name="x.txt", index=i) for i, word in enumerate(("Café", "Phở"))]
    apart = [unicodedata.normalize("NFD", p.truth) for p in a]
    b = [replace(p, truth=text, reading=text) for p, text in zip(a, apart, strict=True)]
    found = compare(*pair(tmp_path, a, b))
    assert (found.relabelled, found.differences[0].reworded) == ((), 0)
    assert found.differences[0].measures["word_accuracy"].b == 1


@pytest.mark.parametrize("name", ["x.txt", "a_folder/of/words/with_a/long_name.txt"])
def test_nothing_is_cut_off_in_80_columns(tmp_path, name):
    a = [*words("general", 4_000, 1_900), *[prediction(f"слово{i}", "x", name=name, index=i) for i in range(9)]]
    b = read_as(a, {i: "word" for i in range(1_950, 2_000)} | {4_003: "слово3"})  # noqa: RUF001
    text = shown(compare(*pair(tmp_path, a, b)), width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("contains 0", "b is better", "4,000"):
        assert whole in text
