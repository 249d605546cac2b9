# ruff: noqa: RUF001 - letters of other alphabets look like Latin ones
"""Writing whose letters join, stack or run from the right is drawn as it is read, or refused."""

import subprocess
import sys
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_pipelines.errors import DataError
from data_pipelines.rendering import RenderedWords, captions
from data_pipelines.rendering.captions import caption_font
from data_pipelines.rendering.fonts import Face, matplotlib_fonts
from data_pipelines.rendering.layout import draw_line
from data_pipelines.rendering.shaping import has_shaper, letters_of, needs_shaping
from tests.data_pipelines.test_rendering import roboto

ARABIC, HEBREW, HINDI, THAI = "مرحبا سوق كتاب", "שלום רחוב ספר", "हिन्दी बाज़ार क्षेत्र", "น้ำ ที่นี่ กรุงเทพ"

shaped = pytest.mark.skipif(not has_shaper(), reason="Pillow has no Raqm, or there is no FriBiDi")


@pytest.fixture(scope="module")
def dejavu():
    return Face(matplotlib_fonts() / "DejaVuSans.ttf", "DejaVu Sans", "Book")


def drawn(text, face):
    return draw_line(text, face, 0.0, 0.0, np.random.default_rng(0)).mask


def parts_of(mask):
    """The boxes of what is connected in a mask, from left to right: left, top, width, height."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((mask > 100).astype(np.uint8))
    return sorted(stats[1:, :4].tolist())


def test_which_texts_need_shaping():
    for text in (*ARABIC.split(), *HEBREW.split(), *HINDI.split(), *THAI.split()[:2], "e\u0301", "\u1112\u1161\u11ab"):
        assert needs_shaping(text), text
    for text in ("plain", "Straße", "Café", "МОСКВА", "Αθήνα", "中国", "カナ", "서울", "№ 5 €", ""):
        assert not needs_shaping(text), text


@pytest.mark.parametrize("text", [ARABIC, HEBREW, HINDI, THAI, "Ame\u0301lie", "\u0301x", ""])
def test_letters_keep_their_marks(text):
    letters = letters_of(text)
    assert "".join(letters) == text
    assert all(unicodedata.category(letter[0])[0] != "M" for letter in letters[1:])


@shaped
def test_hebrew_runs_from_the_right(dejavu):
    """Of shin and vav, the first is wide and the last is narrow."""
    (left, _, narrow, _), (right, _, wide, _) = parts_of(drawn("שו", dejavu))
    assert right > left + narrow - 3
    assert wide > 1.7 * narrow


@shaped
def test_arabic_letters_join(dejavu):
    """Three letters beh have three dots; apart they are three strokes, too, and joined they are one."""
    assert len(parts_of(drawn("ببب", dejavu))) == 1 + 3
    assert len(parts_of(drawn("ب ب ب", dejavu))) == 3 + 3


@shaped
def test_marks_stand_on_their_letters(dejavu):
    for letter in "éñÅ":
        apart = unicodedata.normalize("NFD", letter)
        assert len(apart) == 2
        shapes = np.array([dejavu.glyph(form).mask.shape for form in (apart, letter)])
        assert np.ptp(shapes, axis=0).max() <= 1
        assert abs(dejavu.glyph(apart).advance - dejavu.glyph(letter).advance) <= 1


def test_other_texts_are_drawn_letter_by_letter():
    face = Face(roboto(), "Roboto", "Regular")
    drawn("Straße 5 €", face)
    assert "_shaping_font" not in vars(face)


def source_of(tmp_path, words, **changes):
    (tmp_path / "words.txt").write_text("\n".join(words.split()), encoding="utf-8")
    characters = "".join(sorted(set(words) - {" "}))
    return RenderedWords(words="words.txt", characters=characters, max_length=9, size=300, **changes).open(tmp_path)


@shaped
@pytest.mark.parametrize("words", [ARABIC, HEBREW, "مَرحَباً كِتابٌ سُوقٍ"])
def test_words_of_such_writing_are_rendered(tmp_path, words):
    source = source_of(tmp_path, words, min_length=2)
    texts = [source.text(i) for i in range(300)]
    assert set(words.split()) & set(texts)
    known = {letter for word in words.split() for letter in letters_of(word) if len(letter) > 1}
    for i, text in enumerate(texts):
        assert {letter for letter in letters_of(text) if len(letter) > 1} <= known, "marks stand as in some word"
        if i < 60:
            image = source[i].image
            assert np.ptp(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) > 25


def test_marks_that_no_word_has_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no word of `words` has the marks .* of `characters`: give words") as error:
        RenderedWords(characters="abcde\u0301").open()
    assert "\n" not in str(error.value)


def test_words_are_read_in_composed_form(tmp_path):
    words = "Café Phở München Ελλάδα"
    (tmp_path / "words.txt").write_text(unicodedata.normalize("NFD", words.replace(" ", "\n")), encoding="utf-8")
    source = RenderedWords(words="words.txt", characters="".join(sorted(set(words))), size=2000).open(tmp_path)
    shown = " ".join(source.text(i).lower() for i in range(2000))
    assert {"café", "phở", "münchen"} <= set(shown.split())


def test_without_a_shaper_such_writing_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.rendering.fonts.has_shaper", lambda: False)
    with pytest.raises(DataError, match="which Pillow draws with Raqm and FriBiDi only") as error:
        source_of(tmp_path, HEBREW)
    assert "\n" not in str(error.value)
    RenderedWords().open()


def test_captions_have_the_alphabets_of_europe_and_none_is_a_box(monkeypatch, capsys):
    monkeypatch.setattr(captions, "_told", set())
    seen = set()
    for character in "éñçøßŁ£€ЖяΩλאשبس":
        cell = Image.new("L", (60, 60), 255)
        ImageDraw.Draw(cell).text((20, 10), character, 0, caption_font(character, 30))
        assert (np.asarray(cell) < 128).sum() > 5
        seen.add(cell.tobytes())
    assert len(seen) == 16
    assert capsys.readouterr().err == ""


def test_what_no_font_has_is_told_once(monkeypatch, capsys):
    monkeypatch.setattr(captions, "_told", set())
    for text in ("漢字", "漢", "plain\n"):
        caption_font(text, 14)
    told = capsys.readouterr().err
    assert told == "not in any font for captions: '字漢': name a folder of fonts in MAEREC_FONTS\n"


def test_more_fonts_for_captions_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv(captions.FOLDER, str(tmp_path))
    monkeypatch.setattr(captions, "_told", set())
    with pytest.raises(DataError, match=r"no \.ttf or \.otf files"):
        caption_font("漢", 14)
    assert caption_font("plain", 14).getname()[0] == "DejaVu Sans"


@shaped
def test_the_command_draws_a_sheet_of_arabic_and_says_nothing_else(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(ARABIC.split()), encoding="utf-8")
    flags = ("--words", tmp_path / "words.txt", "--characters", ARABIC.replace(" ", ""), "--min-length", "2")
    command = [sys.executable, "-m", "data_pipelines.rendering", "--out", tmp_path / "s.png", "--count", "4", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
