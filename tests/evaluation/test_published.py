"""Published numbers are what was printed, under the names that tables use."""

import re

import pytest

from data_pipelines.union14m.catalogue import BENCHMARK, COMMON
from maerec_jax.evaluation.groups import groups
from maerec_jax.evaluation.published import ORIGINAL, PAPER, PUBLISHED, RETRAINED, SCRATCH, published_results
from maerec_jax.models.maerec import MAERecConfig
from tests.conftest import REPOSITORY

WHOLE = {s.name: s.expected for collection in (BENCHMARK, COMMON) for s in collection.sets}
GROUPS = {group.name: group for group in groups(WHOLE)}


def test_all_sets_and_averages_are_known_to_tables():
    for result in PUBLISHED:
        assert result.accuracies.keys() <= WHOLE.keys() | GROUPS.keys()
        assert all(round(value, result.digits) == value for value in result.accuracies.values())


@pytest.mark.parametrize("result", PUBLISHED, ids=lambda result: f"{result.variant}, {result.source}")
def test_averages_are_those_of_the_sets_but_for_two_misprints(result):
    for name in result.accuracies.keys() & GROUPS.keys() - {"Incomplete, margin"}:
        mean = sum(weight * result.accuracies[part] for part, weight in GROUPS[name].weights.items())
        misprinted = (result.variant, result.source) in {("ASTER", RETRAINED), ("SATRN", PAPER)} and "six" in name
        # The means were made of more digits than are printed.
        assert result.accuracies[name] == pytest.approx(mean, abs=0.2 if misprinted else 0.0501)


def test_kind_and_size_tell_which_model_it_is():
    small, base = 35_666_398, 142_111_582
    assert [r.source for r in published_results("maerec", small)] == [PAPER, SCRATCH]
    assert {r.variant for r in published_results("maerec", base)} == {"MAERec-B"}
    # 36 characters, and adapters, change little.
    assert published_results("maerec", small - 60_000) == published_results("maerec", small + 150_000)
    assert published_results("maerec", 5_200_000) == ()
    assert published_results("mae", small) == ()
    for kind, size in (("aster", 20_985_990), ("nrtr", 66_685_534), ("satrn", 65_640_797), ("sar", 57_460_063)):
        assert [r.source for r in published_results(kind, size)] == [PAPER, RETRAINED, ORIGINAL]
    assert RETRAINED not in [r.source for r in published_results("abinet", 36_737_775)]
    assert MAERecConfig.kind in {r.kind for r in PUBLISHED}


def test_the_page_of_results_shows_them_all():
    page = (REPOSITORY / "docs" / "results.md").read_text().split("## Published accuracy")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    found = [tuple(row[:2]) + tuple(re.findall(r"[\d.]+", " ".join(row[2:]))) for row in rows]
    for result in PUBLISHED:
        numbers = [f"{value:.{result.digits}f}" for value in result.accuracies.values()]
        for part in (numbers[:7], numbers[7:]):
            assert not part or (result.variant, result.source, *part) in found
