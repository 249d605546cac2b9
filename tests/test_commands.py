"""The commands as a user types them: what they print, and one clear line for every mistake."""

import json
import logging
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from fsspec.registry import known_implementations

from data_pipelines.command import guarded, run_command
from maerec_jax import evaluate, predict, train
from maerec_jax.config import to_json
from maerec_jax.reading.recognizer import Recognizer
from tests.training.conftest import recogniser_config, unbroken, words  # noqa: F401

CONFIG_FILE = """
from pathlib import Path
from maerec_jax.config import read_json
def get_config():
    return read_json(Path(__file__).with_suffix(".json"))
"""


@pytest.fixture
def config_file(tmp_path):
    """A config file of a small recogniser."""
    (tmp_path / "small.json").write_text(to_json(recogniser_config("")))
    (tmp_path / "small.py").write_text(CONFIG_FILE)
    return tmp_path / "small.py"


def run_predict(*arguments):
    return run_command(predict.PredictArguments, predict.predict, "predict", arguments)


def run_evaluate(*arguments):
    return run_command(evaluate.EvaluateArguments, evaluate.evaluate, "evaluate", arguments)


def refused(status, capsys):
    """The one line that a failed command printed."""
    assert status != 0
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize(
    "error", [type("Unreachable", (OSError,), {"__module__": "aiohttp.client"})(111, "refused"), FileNotFoundError("x")]
)
def test_a_bucket_that_cannot_be_reached_is_one_clear_line(error, capsys, monkeypatch):
    """Its client logs each try with a traceback."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    def fail():
        logging.getLogger("gcsfs").exception("out of retries")
        raise error

    assert "a bucket cannot be used (" in refused(guarded(fail), capsys)


def test_a_bucket_without_its_client_is_one_line_that_names_the_extra(capsys):
    def fail():
        raise ImportError(known_implementations["gs"]["err"])

    assert "pip install -e '.[gcs]'" in refused(guarded(fail), capsys)


def test_train_explains_itself(capsys, config_file):
    assert train.main(["--help"]) == 0
    assert "--config FILE" in capsys.readouterr().out
    assert "--config is missing" in refused(train.main([]), capsys)
    with pytest.raises(SystemExit) as stop:
        train.main(["--config", str(config_file), "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for flag in ("--batch-size", "--optimizer.learning-rate", "--data.train.0.size", "--model.encoder.dim"):
        assert flag in told


def test_a_config_that_is_not_there_is_told_beside_those_that_are(config_file, tmp_path, capsys, monkeypatch):
    (tmp_path / "setup.py").write_text("print('no config')")
    told = refused(train.main(["--config", str(tmp_path / "nosuch.py")]), capsys)
    assert told.endswith(f"no such config file: {tmp_path / 'nosuch.py'}; available: {config_file}")
    (tmp_path / "configs").mkdir()
    config_file.rename(tmp_path / "configs" / "small.py")
    monkeypatch.chdir(tmp_path)
    told = refused(train.main(["--config", "nosuch.py"]), capsys)
    assert told.endswith("no such config file: nosuch.py; available: configs/small.py")


@pytest.mark.parametrize("finished", [True, False])
def test_an_interrupted_run_says_what_is_saved(finished, config_file, unbroken, tmp_path, capsys, monkeypatch):  # noqa: F811
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("maerec_jax.training.loop.train", interrupted)
    workdir = unbroken if finished else tmp_path / "run"
    told = refused(train.main(["--config", str(config_file), "--workdir", str(workdir)]), capsys)
    saved = f"{'step 12' if finished else 'no step'} is saved in {workdir}"
    assert told == f"error: interrupted: {saved}; repeat the command to resume"


def annotations(tmp_path, text):
    (tmp_path / "labels.jsonl").write_text(text)
    return "labels.jsonl"


@pytest.mark.parametrize(
    ("lines", "flags", "told"),
    [
        (None, [], "labels.jsonl: does not exist"),
        ('{"filename": "a.png", "text": "a"}\n{"filename": "a.png"\n', [], "labels.jsonl:2: "),
        ('{"filename": "b.png", "text": "a"}\n', [], "b.png"),
        ('{"filename": "../a.png", "text": "a"}\n', [], "../a.png"),
        ('{"filename": "a.png", "text": "é"}\n', ["--data.unknown-characters", "error"], "é"),
        ('{"filename": "a.png", "text": "a"}\n', ["--init-from", "nowhere"], "no such checkpoint: nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(lines, flags, told, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 16, 3), np.uint8))
    (tmp_path / "small.py").write_text(
        "from dataclasses import replace\n"
        "from data_pipelines.sources.files import Annotations\n"
        "from tests.training.conftest import recogniser_config\n"
        "def get_config():\n"
        "    config = recogniser_config('')\n"
        "    return replace(config, data=replace(config.data, train=(Annotations('labels.jsonl'),)))\n"
    )
    if lines is not None:
        annotations(tmp_path, lines)
    workdir = ["--workdir", str(tmp_path / "run")]
    status = train.main(["--config", str(tmp_path / "small.py"), "--data.root", str(tmp_path), *workdir, *flags])
    assert told in refused(status, capsys)
    assert not (tmp_path / "run" / "checkpoints").exists() or "--init-from" in flags


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(:", "small.py:1: SyntaxError"),
        ("import nothing_of_that_name", "small.py:1: ModuleNotFoundError"),
        ("\n\ndef get_config():\n    return 1 / 0", "small.py:4: ZeroDivisionError"),
        ("def get_config():\n    return 3", "returned int, not TrainConfig"),
        ("x = 3", "must define get_config()"),
    ],
)
def test_broken_config_files_are_one_clear_line(text, told, tmp_path, capsys):
    (tmp_path / "small.py").write_text(text)
    assert told in refused(train.main(["--config", str(tmp_path / "small.py")]), capsys)


def test_workdir_that_is_a_file(config_file, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert str(tmp_path / "run") in refused(
        train.main(["--config", str(config_file), "--workdir", str(tmp_path / "run")]), capsys
    )


def test_damaged_checkpoint(unbroken, tmp_path, capsys):  # noqa: F811
    shutil.copytree(unbroken, tmp_path / "run")
    for step in (tmp_path / "run" / "checkpoints").iterdir():
        shutil.rmtree(step / "state")
    told = refused(run_evaluate("--checkpoint", str(tmp_path / "run")), capsys)
    assert "no complete checkpoint; 8 is damaged (state/" in told
    assert "is missing); 12 is damaged" in told


def test_checkpoint_of_the_right_size_with_other_bytes(unbroken, tmp_path):  # noqa: F811
    shutil.copytree(unbroken, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        file.write_bytes(bytes(file.stat().st_size))
    command = [sys.executable, "-m", "maerec_jax.evaluate", "--checkpoint", str(tmp_path / "run")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert "cannot be read, is it damaged?" in line


def test_predict_and_evaluate(unbroken, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "images"
    folder.mkdir()
    source = words(3).open(tmp_path)
    lines = []
    for i in range(3):
        record = source[i]
        cv2.imwrite(str(folder / f"{i}.png"), cv2.cvtColor(record.image, cv2.COLOR_RGB2BGR))
        lines.append(json.dumps({"filename": f"images/{i}.png", "text": record.text}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))

    assert run_predict(str(folder), "--checkpoint", str(unbroken), "--format", "jsonl") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [p["file"] for p in printed] == [str(folder / f"{i}.png") for i in range(3)]
    read = Recognizer.load(unbroken).read([source[i].image for i in range(3)])
    assert [p["text"] for p in printed] == [word.text for word in read]
    assert printed[0]["confidence"] == pytest.approx(read[0].confidence)
    assert np.mean(read[0].character_confidences) == pytest.approx(read[0].confidence)

    most = float(np.mean(sorted(word.confidence for word in read)[:2]))
    few = ("--format", "jsonl", "--min-confidence", str(most))
    assert run_predict(str(folder), "--checkpoint", str(unbroken), *few) == 0
    told = capsys.readouterr()
    shown = [json.loads(line)["text"] for line in told.out.splitlines()]
    assert shown == [word.text for word in read if word.confidence >= most]
    assert "1 readings below" in told.err
    assert run_predict(str(folder), "--checkpoint", str(unbroken), "--doubtful-below", "1") == 0
    assert all(" (doubtful" in line for line in capsys.readouterr().out.splitlines())
    with pytest.raises(SystemExit):
        run_predict(str(folder), "--min-confidence", "2")

    cv2.imwrite(str(folder / "wide.png"), np.full((399, 900, 3), 99, np.uint8))
    cv2.imwrite(str(tmp_path / "scene.png"), np.full((400, 900, 3), 99, np.uint8))
    assert run_predict(str(folder / "wide.png"), "--checkpoint", str(unbroken)) == 0
    assert "--detect" not in capsys.readouterr().err
    assert run_predict(str(folder / "0.png"), str(tmp_path / "scene.png"), "--checkpoint", str(unbroken)) == 0
    assert "1 of 2 images are at least 400 pixels high and wide, " in capsys.readouterr().err
    (folder / "wide.png").unlink()

    (folder / "broken.jpg").write_bytes(b"no image")
    assert run_predict(str(folder), "--checkpoint", str(unbroken), "--sheet", str(tmp_path / "sheet.png")) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    assert "broken.jpg" in told.err
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None

    table = str(tmp_path / "table.json")
    labels = ["--data", str(tmp_path), "--sets", "labels.jsonl"]
    assert run_evaluate("--checkpoint", str(unbroken), *labels, "--json", table) == 0
    assert json.loads((tmp_path / "table.json").read_text())["sets"]["labels.jsonl"]["words"] == 3
    assert run_evaluate("--checkpoint", str(unbroken)) == 0
    assert "validation" in capsys.readouterr().out


def test_commands_name_what_is_missing(unbroken, tmp_path, capsys):  # noqa: F811
    assert "no such checkpoint" in refused(run_evaluate("--checkpoint", str(tmp_path / "x")), capsys)
    (tmp_path / "b.png").write_bytes(b"")
    assert "not the workdir" in refused(run_predict(str(tmp_path / "b.png"), "--checkpoint", str(tmp_path)), capsys)
    (tmp_path / "data.mdb").write_bytes(b"")
    assert "give its folder" in refused(run_predict(str(tmp_path / "data.mdb"), "--checkpoint", str(unbroken)), capsys)
    assert "no such image" in refused(run_predict(str(tmp_path / "a.png"), "--checkpoint", str(unbroken)), capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(run_predict(str(tmp_path / "empty"), "--checkpoint", str(unbroken)), capsys)


def test_a_reader_that_has_seen_enough_is_no_error(unbroken, tmp_path):  # noqa: F811
    image = words(1).open(tmp_path)[0].image
    cv2.imwrite(str(tmp_path / "0.png"), image)
    command = [sys.executable, "-m", "maerec_jax.predict", str(tmp_path / "0.png"), "--checkpoint", str(unbroken)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # as head does
        told = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "BrokenPipe" not in told


def test_predict_reads_what_it_can(unbroken, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "images"
    folder.mkdir()
    for i, word in enumerate(words(2).open(tmp_path)[i] for i in range(2)):
        cv2.imwrite(str(folder / f"{i}{'ü' * 100}.png"), word.image)
    os.rename(folder / f"1{'ü' * 100}.png", os.fsencode(folder) + b"/\xff.png")  # no UTF-8
    drawn = ("--visualise", str(tmp_path / "drawn"), "--format", "csv")
    lists = tmp_path / "lists.jsonl"
    assert run_predict(str(folder), str(tmp_path / "gone.png"), "--checkpoint", str(unbroken), *drawn) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2  # with the heading
    assert "no such image or folder" in told.err
    assert "1 images left out whose names are not UTF-8" in told.err
    assert "2 of 3 images could not be read" in told.err
    assert f"wrote 1 picture to {tmp_path}/drawn\n" in told.err
    (picture,) = (tmp_path / "drawn").iterdir()
    assert cv2.imread(str(picture)) is not None
    nameless = os.fsdecode(os.fsencode(folder) + b"/\xff.png")
    assert "its name is not UTF-8" in refused(run_predict(nameless, "--checkpoint", str(unbroken)), capsys)
    lists.write_text('{"file": "other.png", "words": ["a"]}\n')
    assert run_predict(str(folder), "--checkpoint", str(unbroken), "--lexicon", str(lists)) == 1
    assert "lists.jsonl has no words for" in capsys.readouterr().err


def test_sizes_of_batches_are_looked_at_before_anything_is_loaded(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_predict("a.png", "--checkpoint", "nowhere", "--batch-size", "0")
    assert "--batch-size must be at least 1, not 0" in " ".join(capsys.readouterr().err.split())


def test_a_library_for_tpus_without_any_is_left_alone(monkeypatch):
    """It would write of the chips that it does not find; where JAX was told what to use, it is used."""
    from data_pipelines import command

    installed = {"libtpu"}
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(command.Path, "glob", lambda path, pattern: iter(()))
    for told, plugins, expected in (("cuda", (), "cuda"), (None, ("jax_plugins",), None), (None, (), "cpu")):
        installed = {"libtpu", *plugins}
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        if told:
            monkeypatch.setenv("JAX_PLATFORMS", told)
        command._leave_out_tpus()
        assert os.environ.get("JAX_PLATFORMS") == expected
