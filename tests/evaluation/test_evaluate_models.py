"""evaluate --models: several models in one command have the numbers that each has alone."""

import csv
import json

import pytest

from maerec_jax.evaluation.measured_model import MeasuredModel
from maerec_jax.evaluation.table import Table
from tests.evaluation.making import words
from tests.evaluation.test_evaluate import BATCH, refused, run_evaluate

# With the tests of one model, whose run it reads with.
pytestmark = pytest.mark.xdist_group("evaluate")


@pytest.fixture
def earlier(tmp_path):
    """Two tables of earlier evaluations, of the same sets."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, right in zip(paths, (500, 600), strict=True):
        table = Table.from_predictions([*words("SVT", 647, right), *words("CUTE80", 288, 200)])
        about = {"title": path.stem, "model": {"kind": "aster", "parameters": 20_985_990}}
        path.write_text(json.dumps(about | table.to_dict()))
    return paths


def test_several_models_have_the_numbers_that_each_has_alone(trained, real_data, tmp_path, capsys):
    where = ("--data", real_data, "--sets", "multi_words", "incomplete", *BATCH)
    alone = tmp_path / "alone.json"
    assert run_evaluate("--checkpoint", trained, *where, "--json", alone) == 0
    (checkpoint,) = (trained / "checkpoints").glob("[0-9]*")
    models = ("--models", trained, alone, checkpoint)
    table, lines = tmp_path / "all.json", tmp_path / "all.csv"
    before = alone.read_bytes()
    capsys.readouterr()
    assert run_evaluate(*models, *where, "--json", table, "--csv", lines) == 0
    printed = capsys.readouterr()
    assert "run: 1 of 2 to be measured" in printed.err
    assert all(name in printed.out for name in ("multi_", "run", "alone", f"run-{checkpoint.name}", "incomplete"))
    assert alone.read_bytes() == before

    data, one = json.loads(table.read_text()), json.loads(before)
    assert list(data["models"]) == ["run", "alone", f"run-{checkpoint.name}"]
    assert data["models"]["run"]["kind"] == "maerec"
    for found in data["models"].values():
        assert found["sets"] == one["sets"]
        assert found["parameters"] == one["model"]["parameters"]
        assert found["settings"] == data["models"]["run"]["settings"]
    with lines.open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == data["models"].keys()

    own = tmp_path / "all" / "run.json"
    assert {path.name for path in own.parent.iterdir()} == {
        f"{name}{ending}"
        for name in ("run", f"run-{checkpoint.name}")
        for ending in (".json", ".jsonl", ".jsonl.made_with.json")
    }
    assert MeasuredModel.from_file(own).table == MeasuredModel.from_file(alone).table
    assert own.with_suffix(".jsonl").read_bytes() == alone.with_suffix(".jsonl").read_bytes()

    assert run_evaluate("--models", *sorted(own.parent.glob("*.json"))) == 0  # what is beside predictions, too
    assert f"run-{checkpoint.name}" in capsys.readouterr().out

    # The same again is resumed; with other settings it is refused, and so is what would write over something else.
    assert run_evaluate(*models, *where, "--json", table) == 0
    assert "resuming after" in capsys.readouterr().err
    told = refused(run_evaluate(*models, *where, "--json", table, "--beam", 2), capsys)
    assert "made with other settings (beam" in told
    own.with_suffix(".jsonl").unlink()
    assert "run.json exists, but not its predictions" in refused(run_evaluate(*models, *where, "--json", table), capsys)
    told = refused(run_evaluate("--models", trained, alone, "--data", real_data, "--sets", "curve"), capsys)
    assert "alone has no curve, but" in told


def test_tables_alone_need_neither_model_nor_data(earlier, tmp_path, capsys):
    assert run_evaluate("--models", *earlier, "--json", tmp_path / "all.json") == 0
    out = capsys.readouterr().out
    assert "77.28*" in out
    assert "a and ASTER (released, retrained): SVT 77.28" in " ".join(out.split())
    data = json.loads((tmp_path / "all.json").read_text())
    for path in earlier:
        assert data["models"][path.stem]["sets"] == json.loads(path.read_text())["sets"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "all.json", "b.json"]


def test_mistakes_with_several_models_are_one_line(earlier, tmp_path, capsys):
    a, b = earlier
    told = refused(run_evaluate("--models", a, b, "--json", b), capsys)
    assert "b.json exists, and is no table of several models" in told
    assert "2 models would be called a" in refused(run_evaluate("--models", a, a), capsys)
    assert "No such file" in refused(run_evaluate("--models", a, tmp_path / "c.json"), capsys)
    b.write_text(json.dumps(Table.from_predictions(words("SVT", 60)).to_dict()))
    assert "a has 647 words of SVT, but b has 60" in refused(run_evaluate("--models", a, b), capsys)
    b.write_text(a.read_text().replace("edit_similarity", "cer"))
    assert "b.json: not a table made by evaluate: sets.SVT.metrics lacks" in refused(
        run_evaluate("--models", a, b), capsys
    )
    assert "is no table" in refused(run_evaluate("--models", tmp_path / "a.jsonl.made_with.json"), capsys)
    told = refused(run_evaluate("--models", a, tmp_path / "none", "--data", tmp_path), capsys)
    assert "none" in told
    for flags in (("--checkpoint", "x"), ("--report", "x.html"), ("--json", "table"), ("--compare", a, b)):
        with pytest.raises(SystemExit):
            run_evaluate("--models", a, b, *flags)
    with pytest.raises(SystemExit):
        run_evaluate("--models", a, "runs/x")
