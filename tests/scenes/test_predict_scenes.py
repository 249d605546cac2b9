"""predict --detect: every format tells the same words, annotated pictures are written, and bad input is named."""

import csv
import json

import numpy as np
import PIL.Image
import pytest

from data_pipelines.command import run_command
from maerec_jax import predict
from maerec_jax.scenes.scene_reader import SceneReader
from tests.scenes.conftest import Known


class KnownUnlessWhite(Known):
    """Knows where the words are; in white pictures are none."""

    def detect(self, image_HWC):
        return [] if image_HWC.min() == 255 else self.regions


@pytest.fixture(scope="module")
def folder(scene, tmp_path_factory):
    made = tmp_path_factory.mktemp("pictures")
    PIL.Image.fromarray(scene.image).save(made / "a.png")
    PIL.Image.fromarray(np.full((50, 80, 3), 255, np.uint8)).save(made / "b.png")
    (made / "c.png").write_text("no picture")
    (made / "more").mkdir()
    PIL.Image.fromarray(scene.image).save(made / "more" / "a.png")
    return made


@pytest.fixture(scope="module")
def weights(recognizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    recognizer.save(path)
    return str(path)


@pytest.fixture
def run(scene, weights, monkeypatch, capsys):
    monkeypatch.setattr("maerec_jax.scenes.detection.load_detector", lambda config: KnownUnlessWhite(scene.polygons))

    def run(*arguments):
        command = [*map(str, arguments), "--checkpoint", weights]
        status = run_command(predict.PredictArguments, predict.predict, "predict", command)
        return status, *capsys.readouterr()

    return run


def test_formats_tell_the_same_words(run, folder, scene, recognizer):
    expected = SceneReader(recognizer, Known(scene.polygons)).read(scene.image)
    texts = [each.word.text for each in expected.words]
    status, out, err = run(folder, "--detect", "--format", "jsonl")
    assert status == 1
    assert f"not read: {folder}/c.png: it is text, not an image" in err
    assert "1 of 3 pictures have no words" in err
    assert "1 of 4 images could not be read" in err
    first, empty, last = map(json.loads, out.splitlines())
    assert [one["file"] for one in (first, empty, last)] == [
        f"{folder}/{name}" for name in ("a.png", "b.png", "more/a.png")
    ]
    assert [word["text"] for word in first["words"]] == texts
    assert first["words"] == last["words"]
    assert (empty["width"], empty["height"], empty["words"]) == (80, 50, [])
    _, out, _ = run(folder, "--detect", "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["text"] for row in rows] == 2 * texts
    polygon = [tuple(map(float, corner.split(","))) for corner in rows[0]["polygon"].split()]
    np.testing.assert_allclose(polygon, scene.polygons[0], atol=0.06)
    _, out, _ = run(folder, "--detect")
    lines = out.splitlines()
    assert len(lines) == 3 + 2 * len(texts)
    assert lines[0] == f"{folder}/a.png  (1200 x 900, {len(texts)} words)"
    assert f"{folder}/b.png  (80 x 50, no words)" in lines
    assert all(text in line for text, line in zip(texts, lines[1:], strict=False))


def test_annotated_pictures_and_the_sheet(run, folder, tmp_path):
    status, _, err = run(folder / "a.png", folder / "b.png", "--detect", "--visualise", tmp_path / "drawn",
                       "--sheet", tmp_path / "sheet.png", "--crops", "rectified")  # fmt: skip
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["000000_a.jpg", "000001_b.jpg"]
    with PIL.Image.open(tmp_path / "drawn" / "000000_a.jpg") as drawn, PIL.Image.open(folder / "a.png") as plain:
        assert drawn.size == plain.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(plain)).mean() > 1
    assert (tmp_path / "sheet.png").is_file()
    written = next(line for line in err.splitlines() if line.startswith("wrote "))
    assert written.startswith(f"wrote 2 pictures to {tmp_path}/drawn and ")
    assert written.endswith(f" words to {tmp_path}/sheet.png")


def test_lexicons_are_of_pictures(run, folder, tmp_path):
    (tmp_path / "words.jsonl").write_text(json.dumps({"file": f"{folder}/a.png", "words": ["one", "two"]}))
    status, out, err = run(folder / "a.png", folder / "b.png", "--detect", "--format", "jsonl", "--lexicon",
                           tmp_path / "words.jsonl")  # fmt: skip
    assert status == 1
    assert f"{folder}/b.png" in err
    assert {word["text"] for word in json.loads(out)["words"]} <= {"one", "two"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--crops", "rectified"], "need --detect"),
        (["--detection.threshold", "0.5"], "need --detect"),
        (["--detect", "--attention", "--visualise", "x"], "leave out --attention or --detect"),
    ],
)
def test_settings_that_do_not_fit_are_refused(run, folder, arguments, reason, capsys):
    with pytest.raises(SystemExit):
        run(folder, *arguments)
    assert reason in " ".join(capsys.readouterr().err.split())


def test_settings_out_of_range_are_refused(run, folder):
    status, out, err = run(folder, "--detect", "--detection.threshold", "2")
    assert (status, out) == (1, "")
    assert err == "error: detection.threshold must be 0 to 1, not 2.0\n"
