"""Reading from Python: every kind of image reads the same, few shapes are compiled, and weights survive a file."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import DecodeError
from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.reading.reader import jitted
from maerec_jax.weights.checkpoint import load_params
from maerec_jax.weights.finding import load_recognizer, save_weights
from tests.training.conftest import pretrained, unbroken, words  # noqa: F401


@pytest.fixture(scope="module")
def pixels():
    source = words(9).open(None)
    return [source[i].image for i in range(9)]


@pytest.fixture(scope="module")
def recognizer(unbroken):  # noqa: F811
    return Recognizer.load(unbroken, batch_size=16)


def png(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_image_reads_the_same(recognizer, pixels, tmp_path):
    image = pixels[0]
    (tmp_path / "word.png").write_bytes(png(image))
    pillow = PIL.Image.fromarray(image)
    kinds = [image, png(image), pillow, tmp_path / "word.png", str(tmp_path / "word.png"), pillow.convert("RGBA")]
    first, *others = recognizer.read(kinds)
    assert all(word == first for word in others)
    assert len(first.character_confidences) == len(first.text.replace("<UKN>", "?"))
    assert first.confidence == pytest.approx(np.mean(first.character_confidences))
    grey = pillow.convert("L")
    pixels_of_grey = np.asarray(grey)
    colourless = [grey, pixels_of_grey, pixels_of_grey[..., None], io.BytesIO(png(pixels_of_grey))]
    first, *others = recognizer.read([np.repeat(pixels_of_grey[..., None], 3, axis=2), *colourless])
    assert all(word == first for word in others)
    written = io.BytesIO()
    pillow.save(written, "PNG")  # and not rewound
    assert recognizer.read([written]) == recognizer.read([image])
    veiled = np.dstack([image, np.resize(np.arange(256, dtype=np.uint8), image.shape[:2])])
    assert recognizer.read([veiled]) == recognizer.read([png(veiled)])


def test_any_number_of_images_compiles_a_few_shapes(recognizer, pixels):
    assert recognizer.batch_sizes == (1, 4, 16)
    jitted.cache_clear()  # of what others of the same model have read
    one_by_one = [recognizer.read([image])[0] for image in pixels]
    for count in (*range(10), 23, 40):
        read = recognizer.read([pixels[i % 9] for i in range(count)])
        assert [word.text for word in read] == [one_by_one[i % 9].text for i in range(count)]
        for i, word in enumerate(read):
            assert word.confidence == pytest.approx(one_by_one[i % 9].confidence, abs=1e-5)
    assert jitted(recognizer.reader.step)._cache_size() == 3


def test_what_is_no_image_is_refused(recognizer, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(DecodeError, match=r"broken\.jpg: it is a web page"):
        recognizer.read([tmp_path / "broken.jpg"])
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        recognizer.read([tmp_path / "gone.jpg"])
    with pytest.raises(DecodeError, match="must be uint8 RGB"):
        recognizer.read([np.zeros((32, 128))])
    for shape in ((8, 8, 2), (0, 8), (8,), (8, 8, 4, 1)):
        with pytest.raises(DecodeError, match="must be uint8 RGB"):
            recognizer.read([np.zeros(shape, np.uint8)])
    arrays = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for single in (PIL.Image.new("RGB", (8, 8)), *arrays, "word.png", b"", io.BytesIO()):
        with pytest.raises(TypeError, match="put a single one into a list"):
            recognizer.read(single)


def test_an_exported_file_reads_the_same(recognizer, pixels, tmp_path):
    recognizer.save(tmp_path / "small.safetensors")
    again = Recognizer.load(tmp_path / "small.safetensors", batch_size=16)
    assert again.step == recognizer.step
    assert again.read(pixels) == recognizer.read(pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.safetensors"]


def test_damaged_and_foreign_files_are_one_clear_line(unbroken, pretrained, tmp_path):  # noqa: F811
    config, params, step = load_params(unbroken)
    file = tmp_path / "small.safetensors"
    save_weights(file, config, params, step)
    whole = file.read_bytes()

    def refused(content, match, name="bad.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: {match}"):
            load_recognizer(tmp_path / name)

    refused(whole[:-100], "cannot be read, is it truncated")
    refused(b"", "cannot be read, is it truncated")
    refused(whole, "give the workdir of a run", "model.pth")
    size, header = struct.unpack("<Q", whole[:8])[0], whole[8:]
    refused(
        whole[:8] + header[:size].replace(b'"maerec_jax"', b'"maerec_tax"') + header[size:], "its metadata does not"
    )
    misfits = "its metadata and tensors do not fit: "
    for old, new, told in (
        (rb"\"dim\": 32", rb"\"dim\": 64", misfits + "MAERecConfig "),
        (rb"\"depth\": 1", rb"\"depth\": 30000", misfits + "its depth is larger than"),
        (rb"\"dim\": 32", rb"\"dim\": 1000000000", misfits + "its dim is larger than"),
        (rb"[32, 128]", rb"[32000, 12800000]", misfits + "its image_size is larger than"),
        (rb"\"heads\": 2", rb"\"heads\": 0", "not of this version: model.maerec.encoder: .*heads must be above 0"),
        (
            rb"\"patch_size\": [16, 16]",
            rb"\"patch_size\": [0, 16]",
            "not of this version: .*patch_size must be above 0",
        ),
        (rb"\"dim\": 32", rb"\"dim\": 1e9", misfits + "its dim is larger than"),
        (
            rb"\"dim\": 32",
            rb"\"dim\": \"1000000000\"",
            "not of this version: .*encoder.dim: Input should be a valid int",
        ),
        (rb"\"pixel_std\": [127.5", rb"\"pixel_std\": [0.0", "not of this version: .*pixel_std must be above 0"),
        (rb"\"buckets\": []", rb"\"buckets\": [[32, 8000000]]", misfits + "its bucket 32 x 8000000 has over"),
        (rb"\"pixel_mean\": [127.5", rb"\"pixel_mean\": [NaN", "not of this version: .*pixel_mean must be finite"),
        (rb"\"step\": 12", rb"\"step\": Infinity", misfits),
        (rb"\"depth\": ", rb"\"death\": ", misfits + "MAERecConfig misses"),
        (rb"{\"model\": ", rb"{\"model\": " + b"[" * 100_000, misfits),
    ):
        assert old in header[:size], old
        changed = header[:size].replace(old, new)
        refused(struct.pack("<Q", len(changed)) + changed + header[size:], told)
    lost = {
        **params,
        "decoder": {**params["decoder"], "embedding": np.full_like(params["decoder"]["embedding"], np.nan)},
    }
    save_weights(file, config, lost, step)
    refused(file.read_bytes(), r"decoder\.\S+ contains NaN or infinity")
    save_file({"a": np.zeros(2, np.int32)}, tmp_path / "bad.safetensors", {"maerec_jax": "{}"})
    with pytest.raises(UserError, match="holds tensors of I32, expected"):
        load_recognizer(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="cannot be read from buckets"):
        load_recognizer("gs://bucket/a.safetensors")
    with pytest.raises(UserError, match="masked autoencoder, which cannot read"):
        load_recognizer(pretrained)
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        save_weights(tmp_path / "model.bin", config, params, step)


def test_attention_has_a_map_for_each_character(recognizer, pixels):
    images = [recognizer.prepare(image) for image in pixels[:3]]
    for image, word in zip(images, recognizer.read_prepared(images), strict=True):
        maps = recognizer.attention(image, word)
        assert maps.shape == (len(word.character_confidences), 2, 8)
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_views_vote_with_their_probabilities(recognizer, unbroken, pixels):  # noqa: F811
    """What is read of all views is what its views, read one by one, say in sum."""
    several = Recognizer.load(unbroken, ReadingConfig(views=5), batch_size=4)
    lone = Recognizer.load(unbroken, batch_size=4)
    divided = 0
    for image, word in zip(pixels, several.read(pixels), strict=True):
        (views,) = several.prepare(image).ways
        assert views.shape == (5, 32, 128, 3)
        read = lone.read(list(views))
        votes = {}
        for each in read:
            votes[each.text] = votes.get(each.text, 0) + each.probability
        assert votes[word.text] == pytest.approx(max(votes.values()), abs=1e-4)
        first = next(each for each in read if each.text == word.text)
        assert word.character_confidences == pytest.approx(first.character_confidences, abs=1e-5)
        assert {other.text for other in word.alternatives} == votes.keys() - {word.text}
        divided += len(votes) > 1
    assert divided
    with pytest.raises(UserError, match="views must be from 1 to 10, not 11"):
        ReadingConfig(views=11)


def test_views_of_an_image_are_read_with_its_own_words(unbroken, pixels, tmp_path):  # noqa: F811
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, pixels, strict=False):
        (tmp_path / path).write_bytes(png(image))
    lists = {path: [f"word{i}"] for i, path in enumerate(paths)}
    recognizer = Recognizer.load(unbroken, ReadingConfig(views=2), words=lists, batch_size=4)
    assert [word.text for word in recognizer.read(paths)] == ["word0", "word1", "word2"]


def test_views_of_portrait_images_with_words_and_beams(unbroken, pixels):  # noqa: F811
    listed = ["alpha", "beta", "12"]
    images = [np.rot90(image) for image in pixels]
    reading = ReadingConfig(views=3, beam=2, turn=True)
    recognizer = Recognizer.load(unbroken, reading, batch_size=4, words=listed)
    words = recognizer.read(images)
    assert {word.text for word in words} <= set(listed)
    assert any(word.turns for word in words)
    assert sum(image.shape[0] > image.shape[1] for image in images) > len(images) / 2
    for image, word in zip(images, words, strict=True):
        assert {other.text for other in word.alternatives} <= set(listed) - {word.text}
        prepared = recognizer.prepare(image)
        ways = 3 if image.shape[0] > image.shape[1] else 1
        assert [way.shape for way in prepared.ways] == [(3, 32, 128, 3)] * ways
        maps = recognizer.attention(prepared, word)
        assert len(maps) == len(word.character_confidences)


def test_words_of_a_list_are_the_only_ones(unbroken, pixels):  # noqa: F811
    listed = ["alpha", "beta", "12"]
    lone = Recognizer.load(unbroken, ReadingConfig(beam=3), words=listed, batch_size=16)
    for word in lone.read(pixels):
        assert word.text in listed
        assert {other.text for other in word.alternatives} <= set(listed) - {word.text}
    with pytest.raises(UserError, match="has no words"):
        Recognizer.load(unbroken, words=[])
    with pytest.raises(TypeError, match="expected str instance, int found"):
        Recognizer.load(unbroken, words=[1, 2])
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        Recognizer.load(unbroken, batch_size=0)


def test_each_image_has_its_own_words_by_its_path(unbroken, pixels, tmp_path):  # noqa: F811
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, pixels, strict=False):
        (tmp_path / path).write_bytes(png(image))
    lists = {path: [f"word{i}"] for i, path in enumerate(paths)}
    recognizer = Recognizer.load(unbroken, words=lists, batch_size=16)
    assert [word.text for word in recognizer.read(paths)] == ["word0", "word1", "word2"]
    with pytest.raises(UserError, match="has no words for an image without a name"):
        recognizer.read(pixels[:1])


def test_readings_below_a_confidence_are_doubtful(unbroken, pixels):  # noqa: F811
    plain = Recognizer.load(unbroken, ReadingConfig(doubtful_below=0), batch_size=16).read(pixels)
    assert not any(word.doubtful for word in plain)
    middle = float(np.median([word.confidence for word in plain]))
    for views in (1, 2):
        reading = ReadingConfig(doubtful_below=middle, views=views)
        marked = Recognizer.load(unbroken, reading, batch_size=16).read(pixels)
        assert [word.doubtful for word in marked] == [bool(word.text) and word.confidence < middle for word in marked]
        assert len({word.doubtful for word in marked}) == 2
