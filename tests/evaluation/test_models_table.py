"""Several models in one table: published numbers stand beside measured ones where both are of the same words."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from data_pipelines.errors import UserError
from data_pipelines.union14m.catalogue import BENCHMARK, COMMON
from maerec_jax.evaluation.intervals import combined, wilson
from maerec_jax.evaluation.measured_model import MeasuredModel, name_of, names_of
from maerec_jax.evaluation.models_table import ModelsTable
from maerec_jax.evaluation.published import PAPER, RETRAINED, published_results
from maerec_jax.evaluation.table import SetResult, Table
from maerec_jax.reading.scoring import ALL_LETTERS, HEADLINE, METRICS

WORDS = {s.name: s.expected for collection in (BENCHMARK, COMMON) for s in collection.sets}
SIX = ("IIIT5K", "SVT", "IC13", "IC15", "SVTP", "CUTE80")
SEVEN = tuple(s.name for s in BENCHMARK.sets if s.headline)
ASTER = {"kind": "aster", "parameters": 20_985_990}
PUBLISHED = {result.source: result.accuracies for result in published_results(*ASTER.values())}
GREEN, PAPERS = ({name: percent / 100 for name, percent in PUBLISHED[source].items()} for source in (RETRAINED, PAPER))


def model(shares, name="aster", words=WORDS, **about):
    """A model that has these accuracies."""
    sets = (SetResult(words[s], 0, dict.fromkeys(METRICS, share), 0.9, s) for s, share in shares.items())
    return MeasuredModel(name, f"runs/{name}, step 1", Table(tuple(sets)), **{**ASTER, **about})


def of_sets(shares, *sets, **changes):
    return {name: shares[name] for name in sets} | changes


def differing(made):
    return {(c.published.source, c.number.name) for c in made.comparisons if c.differs}


def shown(*models, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(ModelsTable(models).to_rich())
    return console.file.getvalue()


def test_an_average_has_the_interval_of_its_standard_error():
    parts = [(0.5, 0.6, 90_000), (0.5, 0.9, 40_000)]
    low, high = combined(parts)
    error = sum(w * w * p * (1 - p) / n for w, p, n in parts) ** 0.5
    assert (low, high) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=2e-5)
    assert combined([(1.0, 0.98, 50)]) == pytest.approx(wilson(0.98, 50))
    low, high = combined([(1.0, 1.0, 20), (-1.0, 0.5, 20)])
    assert low == pytest.approx(0.5 - ((1 - wilson(1.0, 20)[0]) ** 2 + (wilson(0.5, 20)[1] - 0.5) ** 2) ** 0.5)
    assert high == pytest.approx(0.5 + (0.5 - wilson(0.5, 20)[0]))


def test_intervals_cover_the_true_average():
    generator, truths, counts = np.random.default_rng(0), (0.97, 0.6, 0.85), (60, 300, 100)
    covered = 0
    for _ in range(1000):
        shares = [generator.binomial(n, p) / n for p, n in zip(truths, counts, strict=True)]
        low, high = combined((1 / 3, share, n) for share, n in zip(shares, counts, strict=True))
        covered += low <= sum(truths) / 3 <= high
    assert 0.93 < covered / 1000 < 0.98


def test_a_number_beyond_its_interval_is_named_and_one_inside_is_not():
    assert not {name for source, name in differing(model(of_sets(GREEN, *SIX))) if source == RETRAINED}
    changed = model(of_sets(GREEN, *SIX, IC15=GREEN["IC15"] - 0.05, SVT=GREEN["SVT"] + 0.01))
    assert {name for source, name in differing(changed) if source == RETRAINED} == {"IC15"}
    text = shown(changed)
    assert "73.57*" in text
    assert "78.57*" in text
    assert "89.03 " in text
    some = shown(model({"SVT": GREEN["SVT"]}), model({"SVT": 0.92}, "other", kind="satrn", parameters=65_640_797))
    assert "92.00 " in some  # as the original, but not as the two others
    assert all(number in some for number in ("95.2* ", "95.36*", "91.96 "))
    told = " ".join(text.split())
    low, high = (100 * end for end in wilson(0.7357, 2077))
    assert f"- aster and ASTER (released, retrained): IC15 73.57 [{low:.2f}, {high:.2f}] is below 78.57." in told
    data = json.loads(json.dumps(ModelsTable((changed,)).to_dict()))
    assert {(c["source"], c["name"]) for c in data["comparisons"] if c["differs"]} == differing(changed)


def test_published_numbers_are_rounded():
    general = 0.6689  # its interval begins 0.04 points above what was printed, which stands for up to 0.05 more
    assert wilson(general, 400_000)[0] > PAPERS["general"] > wilson(general, 400_000)[0] - 0.0005
    assert differing(model({"general": general})) == set()
    assert differing(model({"general": general + 0.0002})) == {(PAPER, "general")}


def test_averages_and_the_margin_are_compared():
    low = model({name: PAPERS[name] - 0.012 for name in SEVEN})
    assert (PAPER, "Union14M-Benchmark") in differing(low)
    assert (PAPER, "artistic") not in differing(low)
    pairs = {"incomplete": 0.6, "incomplete_ori": 0.65}
    assert differing(model(pairs)) == {(PAPER, "Incomplete, margin")}
    assert differing(model(pairs | {"incomplete_ori": 0.61})) == set()
    assert "+5.00*" in shown(model(pairs))


@pytest.mark.parametrize("fewer", [1, 500])
def test_samples_are_never_compared(fewer):
    made = model(of_sets(GREEN, *SIX, IC15=0.1), words=WORDS | {"IC15": 2077 - fewer})
    assert {c.number.name for c in made.comparisons} == {"IIIT5K", "SVT", "IC13", "SVTP", "CUTE80"}
    text = " ".join(shown(made).split())
    assert f"published numbers are of other numbers of words: IC15 ({2077 - fewer:,}, not 2,077)." in text
    everything = model(of_sets(GREEN | PAPERS, *SIX, *SEVEN), words=dict.fromkeys(WORDS, 60))
    assert everything.comparisons == []
    assert "released" not in shown(everything)


def test_the_smaller_size_of_a_set_is_not_its_larger_one():
    made = model(of_sets(GREEN, *SIX), words=WORDS | {"IC13": 857, "IC15": 1811})
    assert {c.number.name for c in made.comparisons} == {"IIIT5K", "SVT", "SVTP", "CUTE80"}


def test_other_models_have_nothing_beside_them_and_are_told():
    shares = of_sets(GREEN, "SVT")
    for about, reason in (
        ({"kind": "ctc_words"}, "none has its kind (ctc_words)"),
        ({"parameters": 1_000_000}, "none has its kind (aster) and size (1,000,000 parameters)"),
        ({"kind": "", "parameters": 0}, "of an earlier version"),
        ({"settings": {"lexicon": "12 words, crc32 00000000"}}, "read with a lexicon"),
    ):
        made = model(shares, **about)
        assert made.comparisons == []
        assert reason in " ".join(shown(made).split())
    plain = {"beam": "1", "turn": "False", "int8": "False"}
    assert model(shares, settings=plain).how == ""
    assert "aster: read with --beam 5, --turn." in shown(model(shares, settings=plain | {"beam": "5", "turn": "True"}))


def test_rows_are_models_and_columns_sets_in_80_columns():
    shares = dict.fromkeys([*WORDS, "a/long_folder/with_my_words/annotations.jsonl"], 0.5)
    words = WORDS | {"a/long_folder/with_my_words/annotations.jsonl": 7}
    some = [model(shares, name, words) for name in ("aster", "[red]aster[/red]-with-a-name-that-is-long")]
    text = shown(*some, width=100)
    blocks = text.split("Indented rows")[0]
    assert max(map(len, blocks.splitlines())) <= 80
    assert blocks.count("released, retrained") == blocks.count("released, original") == 2
    assert blocks.count("paper, table 6") >= 6
    assert "[red]" in blocks
    places = [
        blocks.index(f"{title}, WAICS in %") for title in ("common benchmarks", "Union14M-Benchmark", "Incomplete")
    ]
    assert places == sorted(places)
    (seven,) = [b for b in blocks.split("\n\n") if "Union14M-Benchmark, WAICS" in b]
    assert all(line.split()[-1] == "average" for line in seven.splitlines() if "curve" in line and "salient" in line)


def test_json_and_csv_have_all_metrics():
    some = model(of_sets(GREEN, *SIX)), model(of_sets(GREEN, *SIX, SVT=0.5), "other", kind="ctc_words")
    table = ModelsTable(some)
    data = json.loads(json.dumps(table.to_dict()))
    assert list(data["models"]) == ["aster", "other"]
    for each in some:
        assert Table.from_dict(data["models"][each.name]) == each.table
    assert {c["model"] for c in data["comparisons"]} == {"aster"}
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    found = {(line["model"], line["source"], line["name"]): line for line in lines}
    assert len(found) == len(lines)
    assert all(float(found["other", "measured", "SVT"][metric]) == 0.5 for metric in METRICS)
    assert float(found["aster", RETRAINED, "SVT"][HEADLINE]) == 0.8903
    assert found["aster", RETRAINED, "SVT"]["word_accuracy"] == ""


def test_names_are_those_of_runs_and_files():
    for entry, name in (
        ("runs/maerec_s", "maerec_s"),
        ("runs/maerec_s/", "maerec_s"),
        ("gs://bucket/runs/maerec_s", "maerec_s"),
        ("runs/maerec_s/checkpoints/4000", "maerec_s-4000"),
        ("weights/aster.v2.safetensors", "aster.v2"),
        ("old/aster.json", "aster"),
        ("maerec_tiny", "maerec_tiny"),
    ):
        assert name_of(entry) == name
    assert names_of(["a/x", "b/y.json"]) == ["x", "y"]
    with pytest.raises(UserError, match=r"2 models would be called x \(a/x, b/x.json\)"):
        names_of(["a/x", "b/y", "b/x.json"])


def test_models_of_other_sets_are_refused():
    one = model(of_sets(GREEN, "SVT", "IC13"))
    one.check_same_sets("other", one.words)
    for words, told in (
        ({"SVT": 60, "IC13": 1015}, "aster has 647 words of SVT, but other has 60 words of SVT"),
        ({"SVT": 647}, "aster has 1,015 words of IC13, but other has no IC13"),
        (one.words | {"curve": 9}, "aster has no curve, but other has 9 words of curve"),
    ):
        with pytest.raises(UserError, match=told):
            one.check_same_sets("other", words)


def test_a_table_is_taken_as_it_is(tmp_path):
    made = model(of_sets(GREEN, *SIX))
    path = tmp_path / "mine.json"
    about = {"title": made.title, "model": {"kind": made.kind, "parameters": made.parameters}, "beam": "5"}
    path.write_text(json.dumps(about | made.table.to_dict()))
    found = MeasuredModel.from_file(path)
    assert (found.name, found.how) == ("mine", "--beam 5")
    assert replace(found, name="aster", settings={}) == made
    path.write_text(json.dumps(made.table.to_dict()))  # as earlier versions wrote them
    assert (MeasuredModel.from_file(path).kind, MeasuredModel.from_file(path).table) == ("", made.table)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        (json.dumps(ModelsTable((model({"SVT": 0.5}),)).to_dict()), "not a table made by evaluate: sets"),
        (json.dumps(model({"SVT": 0.5}).table.to_dict() | {"model": {"kind": 3}}), "model.kind"),
        (json.dumps(model({"SVT": 0.5}).table.to_dict()).replace("edit_similarity", "cer"), "lacks edit_similarity"),
    ],
)
def test_broken_tables_give_one_line(tmp_path, content, told):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=told) as error:
        MeasuredModel.from_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_models_need_a_score_for_the_same_sets():
    one, other = model(of_sets(GREEN, "SVT", "CUTE80"), "a"), model(of_sets(GREEN, "CUTE80"), "b")
    table = Table((SetResult(647, 647, {}, None, "SVT"), *other.table.sets))
    with pytest.raises(UserError, match="a has a score for SVT, but b could use none of the images"):
        ModelsTable((one, replace(other, table=table)))


def test_sets_of_other_scripts_are_shown_with_all_their_letters():
    metrics = dict.fromkeys(METRICS, 1.0) | {ALL_LETTERS: 0.25}
    other = SetResult(10, 0, metrics, 0.5, "x.txt", {HEADLINE: 8})
    table = Table((*model({"SVT": 0.5}).table.sets, other))
    new = MeasuredModel("new", "new", table, **ASTER)
    assert (new.numbers["SVT"].value, new.numbers["x.txt"].value) == (0.5, 0.25)
    text = " ".join(shown(new).split())
    assert "common benchmarks, WAICS in %" in text
    assert "other sets, all letters in %" in text
    earlier = MeasuredModel("old", "old", Table((table.sets[0], replace(other, letters_dropped={}))), **ASTER)
    with pytest.raises(UserError, match="old and new: the older of their tables does not tell which labels"):
        ModelsTable((new, earlier))
