"""What happens on the page, without a browser: pictures and settings go in, HTML and JSON come out."""

import json
import re
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import decode_image
from maerec_jax import ReadingConfig
from maerec_jax.demo_page import markup, page
from maerec_jax.demo_page.desk import MOST_WORDS, Desk, FoundWord, Settings
from maerec_jax.demo_page.examples import draw_examples
from maerec_jax.demo_page.uploads import Limits
from maerec_jax.reading.reader import Word
from maerec_jax.scenes.regions import Region
from tests.demo.conftest import WORDS, draw_word

PICTURE, READING, DETAIL, SAVE, SHOWN, FOUND = range(6)


def event(**data):
    return SimpleNamespace(_data=data)


@pytest.fixture
def handlers(desk, word_files):
    return page.Handlers(desk, draw_examples(desk.characters, True), Limits(), word_files["lemon"].parent)


def take(handlers, path, name="a.png", mode="word", beam=1, lexicon=""):
    return handlers.take(mode, beam, "box", lexicon, event(path=str(path), name=name))


def saved(made):
    """What the link for the download holds."""
    url = re.search(r'href="data:application/json;charset=utf-8,([^"]*)"', made[SAVE])
    return json.loads(unquote(url[1]))


def test_a_word_is_read_as_the_recogniser_reads_it(handlers, desk, word_files):
    made = take(handlers, word_files["lemon"])
    (word,) = desk.recognizer.read([word_files["lemon"]])
    assert saved(made) == {"file": "a.png", **json.loads(json.dumps(word.described()))}
    assert f"{word.confidence:.1%}" in made[READING]
    assert made[DETAIL].count("<li>") == len(word.character_confidences) > 0
    assert "lemon" not in made[PICTURE]
    assert "a.png" in made[PICTURE]


def test_a_scene_has_a_row_and_an_outline_for_each_word(handlers, desk, word_files):
    made = take(handlers, word_files["lemon"], mode="scene")
    pixels = decode_image(word_files["lemon"].read_bytes())
    half = pixels.shape[1] // 2
    assert made[PICTURE].count("<polygon") == made[READING].count("<tr data-word") == 2
    found = saved(made)
    assert (found["width"], found["height"]) == (pixels.shape[1], pixels.shape[0])
    crop = pixels[:, : -(-pixels.shape[1] // 2)]
    assert found["words"][0]["text"] == desk.recognizer.read([crop])[0].text
    assert found["words"][1]["polygon"][0] == [pytest.approx(half, abs=0.6), 0.0]
    assert [word["detection_confidence"] for word in found["words"]] == [0.9, 0.8]
    first, second = (handlers.choose(made[FOUND], event(index=i)) for i in (0, 1))
    assert first == made[DETAIL] != second
    for index in (2, -1, "1", None):  # which the page never sends
        assert handlers.choose(made[FOUND], event(index=index)) == first
    assert handlers.choose(None, event(index=0)) == ""


def test_settings_change_how_the_same_picture_is_read(handlers, word_files):
    made = take(handlers, word_files["amber"], lexicon="amber, river\nstone")
    assert saved(made)["text"] in ("amber", "river", "stone")
    wider = handlers.again(*made[SHOWN:], "word", 5, "box", "")
    assert saved(wider)["alternatives"]
    assert "Other readings" in wider[DETAIL]
    assert len(saved(handlers.again(*made[SHOWN:], "scene", 1, "rectified", ""))["words"]) == 2
    # Without a picture, or another setting, nothing changes.
    assert handlers.again(*wider[SHOWN:], "word", 5, "box", "") == (page.gr.skip(),) * 6
    assert handlers.again(None, None, "word", 1, "box", "") == (page.gr.skip(),) * 6


def test_crops_are_cut_out_as_chosen(desk):
    class Slanted:
        def detect(self, image_HWC):
            return [Region(np.array([(10, 0), (60, 20), (50, 45), (0, 25)], np.float32), 0.9)]

    own = Desk(desk._weights, batch_size=1, detector=Slanted())
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    box, rectified = (
        own.read(picture, "", Settings("scene", crops=crops)).words[0].crop for crops in ("box", "rectified")
    )
    np.testing.assert_array_equal(box, picture[:45, :60])
    assert rectified.shape[:2] == pytest.approx((27, 54), abs=1)


def test_settings_that_cannot_be_used_are_told(handlers, word_files):
    for lexicon, told in (
        (" ".join(f"word{i}" for i in range(MOST_WORDS + 1)), "The list has 501 words"),
        ("x" * 30_000, "too long"),
        ("ÄÖÜ", "none of the"),
    ):
        made = take(handlers, word_files["amber"], lexicon=lexicon)
        assert 'role="alert"' in made[READING]
        assert told in made[READING]
        assert made[FOUND] is None
        # The picture is still there for other settings.
        assert saved(handlers.again(*made[SHOWN:], "word", 1, "box", ""))["file"] == "a.png"
    partly = take(handlers, word_files["amber"], lexicon="amber ÄÖÜ")
    assert saved(partly)["text"] == "amber"
    assert 'class="note"' in partly[READING]


def test_what_cannot_be_read_is_told_on_the_page(handlers, word_files):
    (word_files["lemon"].parent / "notes.png").write_text("no picture")
    made = take(handlers, word_files["lemon"].parent / "notes.png", "notes.png")
    assert "notes.png cannot be read: it is no image but text" in made[READING]
    assert "Drop a picture" in made[PICTURE]
    assert made[DETAIL] == made[SAVE] == ""
    assert "larger than 20 MB" in handlers.refuse(event(name="b.png", large=True))[READING]
    assert "b.png could not be sent" in handlers.refuse(event(name="b.png", large=False))[READING]
    for data in ({}, {"path": None}, {"path": ["a"], "name": 3}):
        assert "no longer on the server" in handlers.take("word", 1, "box", "", event(**data))[READING]


def test_few_recognisers_are_kept(desk):
    own = Desk(desk._weights, batch_size=1)
    pixels = draw_word("lemon")
    for words in ("a", "b", "c", "d"):
        assert own.read(pixels, "", Settings(lexicon=words)).words[0].word.text == words
    assert len(own._recognizers) == 3
    assert own._recognizer(1, ())[0] is own.recognizer


def test_single_words_only_without_a_detector(desk):
    with pytest.raises(UserError, match="no detector"):
        Desk(desk._weights, ReadingConfig(), 1).read(draw_word("lemon"), "", Settings(mode="scene"))


def test_nothing_that_comes_from_outside_becomes_markup(handlers, desk, word_files):
    evil = '<img src=x onerror="alert(1)">&'
    made = take(handlers, word_files["lemon"], name=evil)
    for part in made[:SHOWN]:
        assert "<img src=x" not in part
        assert 'onerror="' not in part
    read = FoundWord(
        Word("<b>", 0.5, (0.5,) * 3, 0, (1, 2, 3)), desk.recognizer.prepare(draw_word("a")), draw_word("a")
    )
    shown = markup.detail(read, np.ones((3, 2, 4), np.float32), crop=True)
    assert "<b></" not in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in take(handlers, word_files["lemon"], name="notes<b>.png")[PICTURE]


def test_examples_hold_what_can_be_read():
    for characters in ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCXYZ"):
        words = draw_examples(characters, scenes=False)
        assert words
        assert all(example.mode == "word" for example in words)
        scene, *same = draw_examples(characters, scenes=True)
        assert (scene.mode, scene.pixels.dtype, scene.pixels.shape) == ("scene", np.uint8, (640, 960, 3))
        for one, other in zip(words, same, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)


def test_words_have_different_answers(desk, word_files):
    """What the test of ten users at once relies on."""
    described = [json.dumps(word.described()) for word in desk.recognizer.read(list(word_files.values()))]
    assert len(set(described)) == len(WORDS)
