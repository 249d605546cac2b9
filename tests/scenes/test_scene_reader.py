"""Scenes are read as their crops alone are, in the order of the detector, whatever the picture is."""

import io
import json

import numpy as np
import PIL.Image
import pytest

from data_pipelines.images.decoding import DecodeError
from maerec_jax.scenes.drawing import annotated_scene
from maerec_jax.scenes.scene_reader import SceneReader
from tests.scenes.conftest import Known


@pytest.fixture(scope="module")
def reader(recognizer, scene):
    return SceneReader(recognizer, Known(scene.polygons))


def same(one, other):
    return one.text == other.text and one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_words_are_read_as_they_are_alone(reader, recognizer, scene, words):
    found = reader.read(scene.image)
    assert (found.height, found.width) == (900, 1200)
    assert len(found.words) == len(scene.words) > 12
    alone = recognizer.read([words[number] for number in scene.words])
    assert len({word.text for word in alone}) > 5  # the recogniser tells them apart
    for each, polygon, number, word in zip(found.words, scene.polygons, scene.words, alone, strict=True):
        np.testing.assert_array_equal(each.crop, words[number])
        np.testing.assert_array_equal(each.polygon_N2, polygon)
        assert same(each.word, word)
        assert same(recognizer.read([each.crop])[0], word)
        assert len(recognizer.attention(each.prepared, each.word)) == len(each.word.character_confidences)


def test_pictures_share_batches_and_keep_their_words(reader, recognizer, scene):
    whole = reader.read(scene.image)
    empty = SceneReader(recognizer, Known([])).prepare(scene.image)
    prepared = reader.prepare(scene.image)
    first, nothing, second = reader.read_prepared([prepared, empty, prepared])
    assert nothing.words == ()
    for other in (first, second):
        assert all(same(a.word, b.word) for a, b in zip(whole.words, other.words, strict=True))


def test_every_kind_of_image_and_exif_turns(recognizer, scene, tmp_path):
    polygon = scene.polygons[0]
    reader = SceneReader(recognizer, Known([polygon]))
    whole = reader.read(scene.image)
    turned = PIL.Image.fromarray(scene.image).transpose(PIL.Image.Transpose.ROTATE_90)
    exif = PIL.Image.Exif()
    exif[274] = 6  # to be turned clockwise
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for kind in (buffer.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png"), PIL.Image.fromarray(scene.image)):
        found = reader.read(kind)
        assert (found.height, found.width) == (900, 1200)
        np.testing.assert_array_equal(found.words[0].crop, whole.words[0].crop)
    with pytest.raises(DecodeError, match="text, not an image"):
        reader.read(b"hello")
    with pytest.raises(DecodeError, match="uint8 RGB"):
        reader.read(np.zeros((5, 5)))


def test_scenes_are_json(reader, scene):
    found = reader.read(scene.image)
    told = json.loads(json.dumps(found.described()))
    assert (told["width"], told["height"]) == (1200, 900)
    for word, each in zip(told["words"], found.words, strict=True):
        np.testing.assert_allclose(word["polygon"], each.polygon_N2, atol=0.0501)
        assert word["text"] == each.word.text
        assert word["confidence"] == each.word.confidence
        assert word["character_confidences"] == list(each.word.character_confidences)
        assert word["detection_confidence"] == each.detection_confidence
        assert word["turns"] == 0


def test_hostile_regions_are_read(recognizer):
    polygons = [
        np.full((4, 2), np.nan),
        [(0, 0)] * 5,
        [(1e9, 1e9), (np.inf, 1e9), (2e9, 2e9)],
        [(-9, -9), (-5, -9), (-5, -5)],
    ]
    for crops in ("box", "rectified"):
        for size in ((1, 1), (3, 400), (60, 60)):
            image = np.zeros((*size, 3), np.uint8)
            found = SceneReader(recognizer, Known(polygons), crops).read(image)
            assert len(found.words) == 4
            json.dumps(found.described(), allow_nan=False)
            assert annotated_scene(image, found).dtype == np.uint8


@pytest.mark.parametrize(
    ("size", "longer"), [((900, 1200), 1200), ((20, 60), 1000), ((3000, 600), 2400), ((1, 1), 1000)]
)
def test_drawings_are_of_a_size_that_shows_texts(recognizer, size, longer):
    image = np.full((*size, 3), 128, np.uint8)
    polygon = np.array([(0.2, 0.3), (0.6, 0.3), (0.6, 0.5), (0.2, 0.5)]) * size[::-1]
    found = SceneReader(recognizer, Known([polygon])).read(image)
    drawn = annotated_scene(image, found)
    assert max(drawn.shape) == longer
    assert abs(drawn.shape[0] * size[1] - drawn.shape[1] * size[0]) <= max(size)
    assert (image == 128).all()
    if min(size) > 1:
        assert (drawn != 128).any()
    np.testing.assert_array_equal(annotated_scene(image, SceneReader(recognizer, Known([])).read(image)), 128)
