"""What happens on the page, without a browser: pictures and settings go in, what its parts show comes out."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import decode_image
from maerec_jax import ReadingConfig
from maerec_jax.demo_page import page
from maerec_jax.demo_page.desk import MOST_WORDS, Desk, Settings
from maerec_jax.demo_page.examples import draw_examples
from maerec_jax.demo_page.uploads import Limits
from maerec_jax.scenes.regions import LARGE, Region, is_large
from tests.demo.conftest import WORDS, draw_word

PICTURE, READING, CHARACTERS, OTHERS, TABLE, ACTIONS, SAVE, TEXT, SHOWN, FOUND = range(10)


@pytest.fixture
def handlers(desk, word_files):
    return page.Handlers(
        desk,
        draw_examples(desk.recognizer.handling.charset.characters, True),
        Limits(),
        word_files["lemon"].parent,
    )


def take(handlers, path, mode="word", beam=1, lexicon="", characters="", blocklist=""):
    return handlers.take({"path": str(path)}, mode, beam, "box", lexicon, characters, blocklist)


def saved(made):
    """What the file for the download holds."""
    return json.loads(Path(made[SAVE]).read_text())


def test_a_word_is_read_as_the_recogniser_reads_it(handlers, desk, word_files):
    made = take(handlers, word_files["lemon"])
    (word,) = desk.recognizer.read([word_files["lemon"]])
    assert saved(made) == {"file": "lemon.png", **json.loads(json.dumps(word.described()))}
    assert Path(made[SAVE]).name == "lemon.json"
    assert word.doubtful  # it has learnt little
    assert made[READING]["value"] == {word.text + word.remark: word.confidence}
    assert made[READING]["label"] == f"Reading (probability {word.probability:.1%})"
    captions = [f"{confidence:.0%}" for confidence in word.character_confidences]
    assert [caption.split(" ")[-1] for _, caption in made[CHARACTERS]] == captions
    assert made[PICTURE].shape == decode_image(word_files["lemon"].read_bytes()).shape
    assert len(made[FOUND].outlines) == len(captions)
    assert not made[TABLE]["visible"]


def test_a_scene_has_a_row_and_an_outline_for_each_word(handlers, desk, word_files):
    made = take(handlers, word_files["lemon"], mode="scene")
    pixels = decode_image(word_files["lemon"].read_bytes())
    half = pixels.shape[1] // 2
    assert [row[0] for row in made[TABLE]["value"]] == [1, 2]
    assert [row[3] for row in made[TABLE]["value"]] == ["90%", "80%"]
    changed = (made[PICTURE] != pixels).any(axis=2)
    assert changed[:, half - 1 : half + 2].all(axis=0).any()
    found = saved(made)
    assert (found["width"], found["height"]) == (pixels.shape[1], pixels.shape[0])
    crop = pixels[:, : -(-pixels.shape[1] // 2)]
    assert found["words"][0]["text"] == desk.recognizer.read([crop])[0].text
    assert found["words"][1]["polygon"][0] == [pytest.approx(half, abs=0.6), 0.0]
    assert [word["detection_confidence"] for word in found["words"]] == [0.9, 0.8]
    words = made[FOUND].words

    def closely(shown):
        """Whose crop is shown first."""
        return [word.crop is shown[1][0][0] for word in words].index(True)

    assert closely(made[READING:]) == 0
    for row, number in (([1], 0), ([2], 1), ([3], 0), ([-1], 0), (["1"], 0), ([], 0), (None, 0)):
        assert closely(handlers.choose(made[FOUND], SimpleNamespace(row_value=row))) == number
    for x, number in ((3, 0), (pixels.shape[1] - 3, 1)):
        assert closely(handlers.point(made[FOUND], SimpleNamespace(index=[x, 5]))) == number
    skipped = (page.gr.skip(),) * 3
    assert handlers.point(made[FOUND], SimpleNamespace(index=[-5, 5])) == skipped
    assert handlers.point(None, SimpleNamespace(index=[3, 5])) == skipped
    assert handlers.choose(None, SimpleNamespace(row_value=[1])) == skipped


def test_large_pictures_are_read_as_scenes_unless_told_otherwise(desk):
    pixels = np.zeros((LARGE, LARGE + 200, 3), np.uint8)
    for picture, settings, scene in (
        (pixels, Settings(), True),
        (pixels[1:], Settings(), False),
        (pixels[:, : LARGE - 1], Settings(), False),
        (pixels, Settings("word"), False),
        (pixels[1:], Settings("scene"), True),
    ):
        found = desk.read(picture, "", settings)
        assert found.scene == scene
        assert len(found.words) == 1 + scene
        assert any("choose “Whole scene”" in note for note in found.notes) == (settings.mode == "word")
    found = Desk(desk._weights, desk.reading, 1).read(pixels, "", Settings())
    assert (found.scene, found.notes) == (False, ())  # nothing else can be done without a detector


def test_all_text_is_the_words_in_reading_order(handlers, word_files):
    made = take(handlers, word_files["lemon"], mode="scene")
    assert made[TEXT].split("\n") == [word["text"] for word in saved(made)["words"]]
    made = take(handlers, word_files["lemon"])
    assert made[TEXT] == saved(made)["text"]
    assert made[ACTIONS]["visible"]


def test_a_long_list_tells_that_it_goes_on(handlers, desk, monkeypatch):
    corners = np.array([(0, 0), (30, 0), (30, 12), (0, 12)], np.float32)
    for count, told in ((12, "Words found: 12"), (13, "Words found: 13 (scroll to see all)")):
        regions = [Region(corners + np.array([0, 15 * i], np.float32), 0.9) for i in range(count)]
        monkeypatch.setattr(desk, "detector", SimpleNamespace(detect=lambda image_HWC, regions=regions: regions))
        made = handlers._show((np.zeros((400, 400, 3), np.uint8), "many.png"), Settings())
        assert made[TABLE]["label"] == told


def test_settings_change_how_the_same_picture_is_read(handlers, word_files):
    made = take(handlers, word_files["amber"], lexicon="amber, river\nstone")
    assert saved(made)["text"] in ("amber", "river", "stone")
    assert set(saved(take(handlers, word_files["amber"], characters="xyz", blocklist="z"))["text"]) <= {"x", "y"}
    wider = handlers.again(*made[SHOWN:], "word", 5, "box", "", "", "")
    assert saved(wider)["alternatives"]
    assert [row[0] for row in wider[OTHERS]["value"]] == [other["text"] for other in saved(wider)["alternatives"]]
    assert len(saved(handlers.again(*made[SHOWN:], "scene", 1, "rectified", "", "", ""))["words"]) == 2
    # Without a picture, or another setting, nothing changes.
    assert handlers.again(*wider[SHOWN:], "word", 5, "box", "", "", "") == (page.gr.skip(),) * 10
    assert handlers.again(None, None, "word", 1, "box", "", "", "") == (page.gr.skip(),) * 10


def test_settings_that_the_page_does_not_offer_are_none(handlers, word_files):
    for mode, beam, crops, lexicon in (
        ("all", 10**9, "none", None),
        (["word"], {"a": 1}, [], ""),
        ("auto", 1.0, "box", ""),
    ):
        made = handlers.take({"path": str(word_files["amber"])}, mode, beam, crops, lexicon, None, None)
        assert made[FOUND].settings == Settings()
        assert isinstance(made[FOUND].settings.beam, int)


def test_large_pictures_are_shown_small(desk):
    picture = np.random.default_rng(0).integers(0, 255, (500, 3200, 3), np.uint8)
    found = desk.read(picture, "", Settings("scene"))
    assert found.preview.shape == (250, 1600, 3)
    np.testing.assert_allclose(found.words[1].polygon_N2[2], (1600, 250))
    assert found.described["words"][1]["polygon"][2] == [3200, 500]
    assert found.words[0].crop.shape == (200, 640, 3)


def test_crops_are_cut_as_told(desk):
    class Slanted:
        def detect(self, image_HWC):
            return [Region(np.array([(10, 0), (60, 20), (50, 45), (0, 25)], np.float32), 0.9)]

    own = Desk(desk._weights, batch_size=1, detector=Slanted())
    picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    box, rectified, wider = (
        own.read(picture, "", Settings("scene", crops=crops)).words[0].crop for crops in ("box", "rectified", "app")
    )
    np.testing.assert_array_equal(box, picture[:45, :60])
    assert rectified.shape[:2] == pytest.approx((27, 54), abs=1)
    np.testing.assert_array_equal(wider, picture)


def test_settings_that_cannot_be_used_are_told(handlers, word_files):
    for lexicon, told in (
        (" ".join(f"word{i}" for i in range(MOST_WORDS + 1)), "The list has 501 words"),
        ("x" * 30_000, "too long"),
        ("ÄÖÜ", "none of the"),
    ):
        with pytest.warns(UserWarning, match=told):
            made = take(handlers, word_files["amber"], lexicon=lexicon)
        assert made[FOUND] is None
        # The picture is still there for other settings.
        assert saved(handlers.again(*made[SHOWN:], "word", 1, "box", "", "", ""))["file"] == "amber.png"


def test_words_of_a_list_that_cannot_be_read_are_told(handlers, word_files, capsys):
    made = take(handlers, word_files["amber"], lexicon="amber ÄÖÜ")
    assert saved(made)["text"] == "amber"
    assert made[FOUND].notes
    assert page.escape(made[FOUND].notes[0]) in capsys.readouterr().out


def test_what_cannot_be_read_is_told_on_the_page(handlers, word_files):
    (word_files["lemon"].parent / "notes.png").write_text("no picture")
    with pytest.warns(UserWarning, match=r"notes\.png cannot be read: it is text, not an image"):
        made = take(handlers, word_files["lemon"].parent / "notes.png")
    assert made[PICTURE] is made[READING]["value"] is made[CHARACTERS] is made[FOUND] is None
    assert not made[OTHERS]["visible"]
    assert not made[TABLE]["visible"]
    assert handlers.cleared()[:SAVE] == made[:SAVE]
    assert not made[ACTIONS]["visible"]
    assert handlers.cleared()[SAVE:] == (None, "", None, None)
    for file in (None, {}, {"path": None}, {"path": ["a"]}, {"path": "/etc/hostname"}):
        with pytest.warns(UserWarning, match="no longer on the server"):
            handlers.take(file, "word", 1, "box", "", "", "")


def test_few_recognisers_are_kept(desk):
    own = Desk(desk._weights, batch_size=1)
    pixels = draw_word("lemon")
    for words in ("a", "b", "c", "d"):
        assert own.read(pixels, "", Settings(lexicon=words)).words[0].word.text == words
    assert own._load_kept.cache_info().currsize == 2
    assert own._recognizer(1, ())[0] is own.recognizer


def test_single_words_only_without_a_detector(desk):
    with pytest.raises(UserError, match="no detector"):
        Desk(desk._weights, ReadingConfig(), 1).read(draw_word("lemon"), "", Settings(mode="scene"))


def test_nothing_that_comes_from_outside_becomes_markup(handlers, word_files):
    """Notices are HTML to Gradio; its other parts show text as it is."""
    evil = word_files["lemon"].parent / '<img src=x onerror="alert(1)">&.png'
    evil.write_text("no picture")
    with pytest.warns(UserWarning, match="cannot be read") as told:
        take(handlers, evil)
    assert "<" not in str(told[0].message)
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;.png" in str(told[0].message)


def test_examples_hold_what_can_be_read():
    for characters in ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCXYZ"):
        words = draw_examples(characters, scenes=False)
        assert words
        # None is a sliver, and none so large that it would be read as a scene.
        assert all(10 <= pixels.shape[0] <= 1.2 * pixels.shape[1] for pixels, _ in words)
        assert not any(is_large(pixels) for pixels, _ in words)
        (scene, _), *same = draw_examples(characters, scenes=True)
        assert (scene.dtype, scene.shape) == (np.uint8, (640, 960, 3))
        assert is_large(scene)
        for (one, _), (other, _) in zip(words, same, strict=True):
            np.testing.assert_array_equal(one, other)


def test_words_have_different_answers(desk, word_files):
    """What the test of several users at once relies on."""
    described = [json.dumps(word.described()) for word in desk.recognizer.read(list(word_files.values()))]
    assert len(set(described)) == len(WORDS)
