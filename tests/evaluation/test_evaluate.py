"""The evaluate command on real words: the same numbers as predict and Recognizer, on any devices, stopped or not."""

import csv
import json
import tempfile
import time
from pathlib import Path

import jax
import pytest

from data_pipelines.command import run_command
from maerec_jax import ReadingConfig, Recognizer, evaluate, predict
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.evaluation.predictions import Prediction, read_predictions
from maerec_jax.models.sar import SARConfig
from tests.training.processes import PATIENCE, fork, free_port

# The run that they read with is trained once, not by each worker.
pytestmark = pytest.mark.xdist_group("evaluate")

# A size in which all of them compile the same programs.
BATCH = ("--batch-size", "16")


def run_evaluate(*arguments):
    return run_command(evaluate.EvaluateArguments, evaluate.evaluate, "evaluate", list(map(str, arguments)))


def run_predict(*arguments):
    return run_command(predict.PredictArguments, predict.predict, "predict", list(map(str, arguments)))


def refused(status, capsys):
    assert status == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def run(arguments):
    return run_evaluate(*arguments)


def start(*arguments, devices=1):
    """The command in a process of its own, and the files with what it prints."""
    files = [Path(tempfile.mkstemp()[1]) for _ in range(2)]
    return fork(run, list(map(str, arguments)), *files, devices), *files


def finish(process, out, error):
    """What the command has printed on both streams."""
    process.join(PATIENCE)
    told = out.read_text(), error.read_text()
    assert process.exitcode == 0, told[1]
    return told


def by_image(path) -> dict[tuple[str, int], Prediction]:
    found = list(read_predictions(path))
    by_place = {(prediction.set, prediction.index): prediction for prediction in found}
    assert len(by_place) == len(found)  # nothing is there twice
    return by_place


def assert_same(one, other):
    """The same readings, and confidences up to rounding."""
    assert one.keys() == other.keys()
    for place, prediction in one.items():
        assert prediction.reading == other[place].reading, place
        assert prediction.truth == other[place].truth
        assert prediction.confidence == pytest.approx(other[place].confidence, abs=2e-5)


@pytest.fixture(scope="session")
def measured(trained, real_data, tmp_path_factory):
    """What evaluate wrote about four sets; not to be changed."""
    folder = tmp_path_factory.mktemp("measured")
    sets = ("multi_words", "multi_oriented", "incomplete", "incomplete_ori")
    out = [f"--{kind}={folder / name}" for kind, name in (("json", "a.json"), ("csv", "a.csv"), ("report", "a.html"))]
    assert run_evaluate("--checkpoint", trained, "--data", real_data, "--sets", *sets, *BATCH, *out) == 0
    return folder


def test_evaluate_predict_and_recognizer_agree_image_by_image(measured, trained, real_data, capsys):
    predictions = list(by_image(measured / "a.jsonl").values())
    assert {p.set for p in predictions} == {"multi_words", "multi_oriented", "incomplete", "incomplete_ori"}
    assert any(p.height > p.width for p in predictions)
    assert len({p.reading for p in predictions}) > 50  # it has learnt to look at the images
    paths = [real_data / p.file for p in predictions]
    words = Recognizer.load(trained, batch_size=16).read(paths)
    assert any(word.turns for word in words)
    capsys.readouterr()
    assert run_predict(*paths, "--checkpoint", trained, *BATCH, "--format", "jsonl") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for prediction, path, word, line in zip(predictions, paths, words, lines, strict=True):
        assert (line["file"], line["text"], word.text) == (str(path), prediction.reading, prediction.reading)
        assert word.confidence == pytest.approx(prediction.confidence, abs=2e-5)
        assert line["character_confidences"] == pytest.approx(prediction.character_confidences, abs=2e-5)
        assert len(word.character_confidences) == len(prediction.character_confidences)


def test_evaluate_and_recognizer_agree_on_several_views(trained, real_data, tmp_path):
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "multi_oriented")
    assert run_evaluate(*where, *BATCH, "--views", 3, "--predictions", tmp_path / "p.jsonl") == 0
    predictions = list(by_image(tmp_path / "p.jsonl").values())
    recognizer = Recognizer.load(trained, ReadingConfig(views=3), batch_size=16)
    words = recognizer.read([real_data / p.file for p in predictions])
    assert any(word.turns for word in words)
    for prediction, word in zip(predictions, words, strict=True):
        assert prediction.reading == word.text
        assert word.confidence == pytest.approx(prediction.confidence, abs=2e-5)


def test_evaluate_and_recognizer_agree_on_models_that_keep_the_ratio(real_data, tmp_path):
    config = TrainConfig(model=SARConfig.tiny(image_size=(24, 96)), data=DataConfig())
    params = jax.tree.map(lambda array: 1.5 * array, config.model.init(jax.random.key(0)))  # it writes something then
    recognizer = Recognizer(config, params, ReadingConfig(views=2), batch_size=16)
    recognizer.save(weights := tmp_path / "sar.safetensors")
    where = ("--checkpoint", weights, "--data", real_data, "--sets", "incomplete", "--views", 2)
    assert run_evaluate(*where, *BATCH, "--predictions", tmp_path / "p.jsonl") == 0
    predictions = list(by_image(tmp_path / "p.jsonl").values())
    assert any(p.width < 4 * p.height for p in predictions)  # which are filled up
    words = recognizer.read([real_data / p.file for p in predictions])
    assert len({round(word.confidence, 4) for word in words}) > len(words) // 2
    for prediction, word in zip(predictions, words, strict=True):
        assert prediction.reading == word.text
        assert word.confidence == pytest.approx(prediction.confidence, abs=2e-5)


def test_tables_are_of_the_predictions(measured, capsys):
    table = json.loads((measured / "a.json").read_text())
    predictions = by_image(measured / "a.jsonl").values()
    with (measured / "a.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for name in {p.set for p in predictions}:
        own = [p for p in predictions if p.set == name]
        right = sum(p.reading == p.truth for p in own) / len(own)
        found = table["sets"][name]
        assert found["words"] == len(own)
        assert found["metrics"]["word_accuracy"] == pytest.approx(right)
        assert float(rows[name]["word_accuracy"]) == pytest.approx(right, abs=1e-4)
    assert "<html" in (measured / "a.html").read_text()
    assert run_evaluate("--compare", measured / "a.json", measured / "a.jsonl") == 0
    assert "multi_words" in capsys.readouterr().out


def test_eight_devices_read_the_same_as_one(measured, trained, real_data, tmp_path):
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "multi_words", "multi_oriented")
    finish(*start(*where, "--batch-size", "40", "--predictions", tmp_path / "p.jsonl", devices=8))
    one = {place: p for place, p in by_image(measured / "a.jsonl").items() if place[0].startswith("multi")}
    assert_same(by_image(tmp_path / "p.jsonl"), one)


def test_two_processes_read_the_same_as_one(measured, trained, real_data, tmp_path):
    """Only the first looks after the predictions: the second does not even have their folder."""
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "multi_words", "multi_oriented")
    where += ("--coordinator", f"localhost:{free_port()}", "--num-processes", "2", "--batch-size", "32")
    one = {place: p for place, p in by_image(measured / "a.jsonl").items() if place[0].startswith("multi")}
    begun = [p.to_line() + "\n" for p in one.values()][:30]
    file = tmp_path / "p.jsonl"
    finish(*start(*where[:7], *BATCH, "--predictions", file))  # for what stands beside it
    file.write_text("".join(begun))
    both = [start(*where, "--process-id", 0, "--predictions", file), start(*where, "--process-id", 1)]
    (printed, told), (silent, _) = (finish(*one) for one in both)
    assert "multi_words" in printed
    assert "multi_words" not in silent
    assert "resuming after 30 words" in told
    assert_same(by_image(file), one)


def test_a_killed_evaluation_goes_on_where_it_was(trained, real_data, tmp_path, capsys):
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "general", "multi_oriented", *BATCH)
    file = tmp_path / "p.jsonl"
    killed, _, _ = start(*where, "--predictions", file)
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or file.read_bytes().count(b"\n") < 48:
        assert killed.exitcode is None, "it was faster than we looked"
        assert time.monotonic() < deadline
    killed.kill()
    killed.join()
    written = file.read_bytes()
    file.write_bytes(written[: written.rstrip(b"\n").rfind(b"\n") + 20])  # its last line is cut
    whole = file.read_bytes().count(b"\n")

    assert run_evaluate(*where, "--predictions", file) == 0
    assert f"resuming after {whole} words" in capsys.readouterr().err
    resumed = by_image(file)
    assert len(resumed) == 460
    assert file.read_bytes().startswith(b"".join(written.splitlines(keepends=True)[:whole]))
    assert run_evaluate(*where, "--predictions", tmp_path / "unbroken.jsonl") == 0
    assert_same(resumed, by_image(tmp_path / "unbroken.jsonl"))

    told = refused(run_evaluate(*where, "--predictions", file, "--beam", "2"), capsys)
    assert "p.jsonl holds predictions made with other settings (beam" in told
    file.write_bytes(written.splitlines(keepends=True)[0] * 2)
    told = refused(run_evaluate(*where, "--predictions", file), capsys)
    assert "p.jsonl:2: image 0 of general appears twice" in told
    with pytest.raises(SystemExit):
        run_evaluate("--checkpoint", trained, "--sets", "general")


def test_an_evaluation_of_other_labels_does_not_go_on(trained, real_data, tmp_path, capsys):
    image = next((real_data / "Union14M-L" / "Union14M-Benchmarks" / "curve" / "imgs").iterdir())
    (tmp_path / "a.jpg").write_bytes(image.read_bytes())
    where = ("--checkpoint", trained, "--data", tmp_path, "--sets", "labels.jsonl", "--json", tmp_path / "t.json")
    for text in ("one", "two"):
        (tmp_path / "labels.jsonl").write_text(json.dumps({"filename": "a.jpg", "text": text}) + "\n")
        status = run_evaluate(*where)
    assert "made with other settings (sets differ)" in refused(status, capsys)
    (tmp_path / "words.txt").write_text("one\n")
    assert run_evaluate(*where, "--overwrite", "--lexicon", tmp_path / "words.txt") == 0
    (tmp_path / "words.txt").write_text("two\n")
    told = refused(run_evaluate(*where, "--lexicon", tmp_path / "words.txt"), capsys)
    assert "made with other settings (lexicon differ)" in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--csv", "OUT"), "OUT is a folder"),
        (("--report", "OUT/a.txt/b.html"), "b.html: cannot be written"),
        (("--json", "gs://bucket/a.json"), "cannot be written to a bucket"),
        (("--csv", "OUT/a", "--report", "OUT/b/../a"), "two outputs have the same name"),
        (("--beam", "0"), "beam must be at least 1"),
        (("--length-normalisation", "-1"), "length_normalisation must not be negative"),
        (("--checkpoint", "OUT/none"), "no such checkpoint"),
        (("--checkpoint", "OUT/none.safetensors"), "no such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(flags, told, trained, real_data, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("")
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "curve")
    line = refused(run_evaluate(*where, *(flag.replace("OUT", str(tmp_path)) for flag in flags)), capsys)
    assert told.replace("OUT", str(tmp_path)) in line


def test_a_beam_and_a_lexicon_are_settings_of_all(trained, real_data, tmp_path, capsys):
    folder = real_data / "Union14M-L" / "Union14M-Benchmarks" / "multi_words"
    truths = [json.loads(line) for line in (folder / "annotation.jsonl").read_text().splitlines()][:40]
    lists = tmp_path / "lists.jsonl"
    where = ("--checkpoint", trained, "--data", real_data, "--sets", "multi_words", *BATCH)
    assert run_evaluate(*where, "--predictions", tmp_path / "p.jsonl", "--beam", "3") == 0
    predictions = list(by_image(tmp_path / "p.jsonl").values())
    words = Recognizer.load(trained, ReadingConfig(beam=3), batch_size=16).read(real_data / p.file for p in predictions)
    assert [word.text for word in words] == [p.reading for p in predictions]
    assert any(word.alternatives for word in words)

    allowed = [p.truth for p in predictions]
    lists.write_text(
        "".join(
            json.dumps({"file": p.file, "words": [allowed[i], allowed[i - 1], allowed[i - 2]]}) + "\n"
            for i, p in enumerate(predictions)
        )
    )
    assert run_evaluate(*where, "--predictions", tmp_path / "q.jsonl", "--beam", "3", "--lexicon", lists) == 0
    found = by_image(tmp_path / "q.jsonl")
    for i, p in enumerate(predictions):
        assert found["multi_words", p.index].reading in (allowed[i], allowed[i - 1], allowed[i - 2])
    assert truths
    lists.write_text(json.dumps({"file": "other.jpg", "words": ["a"]}) + "\n")
    told = refused(run_evaluate(*where, "--lexicon", lists), capsys)
    assert "lists.jsonl" in told
    assert predictions[0].file in told


def test_images_that_cannot_be_used_are_named_and_count_as_wrong(trained, tmp_path, capsys, real_data):
    good = next((real_data / "Union14M-L" / "Union14M-Benchmarks" / "curve" / "imgs").iterdir())
    (tmp_path / "good.jpg").write_bytes(good.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    names = ("good.jpg", "bad.jpg", "gone.jpg")
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps({"filename": n, "text": "x"}) + "\n" for n in names))
    where = ("--checkpoint", trained, "--data", tmp_path, "--sets", "labels.jsonl")
    assert run_evaluate(*where, "--json", tmp_path / "t.json") == 0
    told = capsys.readouterr().err
    assert "labels.jsonl: masked out: " in told
    assert "bad.jpg" in told
    assert "gone.jpg" in told
    found = [by_image(tmp_path / "t.jsonl")["labels.jsonl", i] for i in range(3)]
    assert [p.outcome for p in found] == ["used", "unreadable", "missing"]
    assert [p.reading for p in found[1:]] == ["", ""]
    assert json.loads((tmp_path / "t.json").read_text())["sets"]["labels.jsonl"]["words"] == 3
    (tmp_path / "good.jpg").write_bytes(b"")
    told = refused(run_evaluate(*where), capsys)
    assert told == (
        "error: none of the 3 images of labels.jsonl could be used, so there is no score: repair them, and repeat the "
        "command"
    )
