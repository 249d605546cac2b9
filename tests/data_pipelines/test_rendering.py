import pickle
import shutil
import string
import subprocess
import sys
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.colours import draw_colours, luma
from data_pipelines.rendering.fonts import Face, find_fonts
from data_pipelines.rendering.layout import draw_column, draw_line
from data_pipelines.rendering.lexicon import word_tiers
from data_pipelines.rendering.picture import _beside_board, _stacked
from data_pipelines.rendering.texts import in_split
from data_pipelines.sources.records import Source

SPEC = RenderedWords(size=5000)


def digest(source, indices):
    """Labels and pixels of some records."""
    return [(source[i].text, source[i].image.shape, source[i].image.tobytes()) for i in indices]


def roboto() -> Path:
    return next(face.path for face in find_fonts(None).faces if face.family == "Roboto" and face.style == "Regular")


def test_is_a_source():
    source = SPEC.open()
    assert isinstance(source, Source)
    assert len(source) == 5000
    assert source.name(123) == "rendered/train/seed 0/123"
    assert source.text(-1) == source.text(4999)
    with pytest.raises(IndexError):
        source[5000]


def test_a_record_depends_on_nothing_but_its_index():
    forwards = digest(SPEC.open(), range(40))
    backwards = digest(pickle.loads(pickle.dumps(SPEC.open())), reversed(range(40)))
    assert forwards == backwards[::-1]
    code = (
        "import zlib; from data_pipelines.rendering import RenderedWords; s = RenderedWords(size=5000).open();"
        "print([(s[i].text, zlib.crc32(s[i].image)) for i in range(39, -1, -1)])"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert eval(other)[::-1] == [(text, zlib.crc32(pixels)) for text, _, pixels in forwards]


def test_pickles_without_words_and_fonts():
    source = SPEC.open()
    source[0]
    assert len(pickle.dumps(source)) < 1000


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "validation"}])
def test_seeds_and_splits_differ(change):
    ours, theirs = SPEC.open(), replace(SPEC, **change).open()
    same = sum(ours.text(i) == theirs.text(i) for i in range(200))
    assert same < 20


def test_splits_share_no_text_in_any_case():
    train, validation = (
        {replace(SPEC, split=s).open().text(i).lower() for i in range(2000)} for s in ("train", "validation")
    )
    assert not train & validation
    assert all(in_split(text, "train") for text in train)
    assert len(validation) > 800


def test_case_and_punctuation_do_not_change_the_split():
    for word in ("sale", "hotel", "x1"):
        assert len({in_split(form, "train") for form in (word, word.upper(), f"{word}!", f'"{word.title()}"')}) == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("characters", "low", "high"),
    [
        ("abcdefghijklmnopqrstuvwxyz", 2, 6),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 1, 3),
        ("0123456789", 1, 5),
        ("ABC", 2, 4),
        ("!?", 3, 8),
        (SPEC.characters, 1, 1),
        (SPEC.characters, 20, 24),
        (SPEC.characters, 1, 24),
    ],
)
def test_texts_keep_to_characters_and_lengths(characters, low, high, split):
    source = RenderedWords(characters=characters, min_length=low, max_length=high, split=split).open()
    start = time.process_time()
    for i in range(300):
        text = source.text(i)
        assert set(text) <= set(characters)
        assert low <= len(text) <= high
        assert text == text.strip()
        assert in_split(text, split)
    assert time.process_time() - start < 1, "a text must not need endless tries"


def test_text_is_the_records_text():
    source = SPEC.open()
    assert [source.text(i) for i in range(100)] == [source[i].text for i in range(100)]


def test_texts_are_varied():
    source = replace(SPEC, size=10_000).open()
    texts = [source.text(i) for i in range(10_000)]  # of the rarest symbols about a dozen
    assert len(set(texts[:5000])) > 4000
    assert set("".join(texts)) == set(SPEC.characters)
    share = {name: np.mean([getattr(text, name)() for text in texts]) for name in ("islower", "istitle", "isupper")}
    assert all(value > 0.15 for value in share.values()), share
    assert any(" " in text for text in texts)


def test_records_are_quick():
    """A loose bound, ten times what a core needs: it must hold while others use the machine."""
    source = SPEC.open()
    for i in range(200):
        source[i]  # Fills the glyph cache.
    start = time.process_time()
    for i in range(200, 400):
        source[i]
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_every_picture_shows_its_text(difficulty):
    source = replace(SPEC, difficulty=difficulty).open()
    heights = []
    for i in range(300):
        image = source[i].image
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        heights.append(min(image.shape[:2]))
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
        assert gray.max() - gray.min() > 25, (i, source.text(i))
    assert min(heights) >= 8
    assert max(heights) <= 64


def test_cases_are_those_of_streets():
    letters = [[c for c in SPEC.open().text(i) if c.isalpha()] for i in range(4000)]
    share = {
        "upper": np.mean([bool(word) and all(c.isupper() for c in word) for word in letters]),
        "title": np.mean([len(word) > 1 and "".join(word).istitle() for word in letters]),
        "lower": np.mean([bool(word) and all(c.islower() for c in word) for word in letters]),
    }
    assert 0.4 < share["upper"] < 0.6
    assert 0.5 * share["upper"] > share["title"] - 0.05 > share["lower"] - 0.1 > 0


def test_colours_of_things_are_far_apart_and_often_light_on_dark():
    rng = np.random.default_rng(0)
    pairs = np.array([[luma(colour) for colour in draw_colours(0.8, rng)] for _ in range(1000)])
    assert np.abs(pairs[:, 0] - pairs[:, 1]).min() > 85
    assert 0.45 < np.mean(pairs[:, 0] > pairs[:, 1]) < 0.65
    easy = np.array([[luma(colour) for colour in draw_colours(0.0, rng)] for _ in range(100)])
    assert (easy[:, 0] < easy[:, 1]).all()


def test_neighbouring_lines_leave_the_text_alone():
    rng = np.random.default_rng(0)
    face = Face(roboto(), "Roboto", "Regular")
    line, second = (draw_line(text, face, 0.0, 0.0, rng) for text in ("Hotel", "LONG STREET"))
    x0, y0, x1, y1 = line.box
    for number in range(40):
        above = number % 2 == 0
        both = _stacked(line, second, above, 5, rng)
        left, top, right, bottom = both.box
        assert (both.mask[top:bottom, left:right] == line.mask[y0:y1, x0:x1]).all()
        beside = both.mask[:top] if above else both.mask[bottom:]
        assert beside.any(), "some of the neighbour is there"
        assert not (both.mask[top - 4 : top] if above else both.mask[bottom : bottom + 4]).any()


def test_a_board_carries_all_of_its_text():
    rng = np.random.default_rng(0)
    line = draw_line("Hotel", Face(roboto(), "Roboto", "Regular"), 0.0, 0.0, rng)
    cos, sin = np.cos(0.3), np.sin(0.3)
    matrix = np.array([[cos, -sin, 30], [sin, cos, 5], [0, 0, 1]])
    for _ in range(20):
        beside = _beside_board(line, matrix, (200, 120), rng)
        letters = cv2.warpPerspective(line.mask, matrix, (200, 120))
        assert beside[letters > 128].max() == 0
        assert 0.1 < beside.mean() < 0.9


def test_columns_hold_whole_letters_one_below_another():
    face = Face(roboto(), "Roboto", "Regular")
    column = draw_column("A BC", face, 6.0)
    x0, y0, x1, y1 = column.box
    ink = column.mask[y0:y1, x0:x1].any(axis=1)
    assert np.count_nonzero(np.diff(ink.astype(int)) == -1) == 2, "two gaps between three letters"
    total = sum(int(face.glyph(letter).mask.sum(dtype=np.int64)) for letter in "ABC")
    assert int(column.mask.sum(dtype=np.int64)) == total


def test_some_crops_are_portrait_and_only_with_difficulty():
    source = RenderedWords(min_length=6, max_length=9, difficulty=1.0).open()
    shapes = np.array([source[i].image.shape[:2] for i in range(400)])
    assert 0 < np.mean(shapes[:, 0] > 1.5 * shapes[:, 1]) < 0.1
    easy = RenderedWords(min_length=6, max_length=9, difficulty=0.0).open()
    assert all(easy[i].image.shape[0] < easy[i].image.shape[1] for i in range(100))


def test_without_difficulty_print_is_dark_on_flat_light_paper():
    source = replace(SPEC, difficulty=0.0).open()
    for i in range(100):
        image = source[i].image
        assert image.min() < 90
        paper = np.median(image[:, [0, -1]], axis=(0, 1))
        assert paper.min() > 200
        assert np.abs(image.astype(int).max(axis=(0, 1)) - paper).max() <= 1, "nothing is lighter than the paper"


def test_pictures_of_one_text_differ():
    source = RenderedWords(characters="a", max_length=1).open()
    assert {source.text(i) for i in range(10)} == {"a"}
    assert len({source[i].image.tobytes() for i in range(10)}) == 10


def test_faces_draw_only_what_they_have():
    fonts = find_fonts(None)
    rng = np.random.default_rng(0)
    for face in fonts.faces:
        assert face.can_draw("AB12")
        assert not face.can_draw("\u6f22")  # No installed font has Chinese characters.
    for text in ("Straße", "~`_\\", "agreed"):
        assert all(fonts.draw(text, rng).can_draw(text) for _ in range(30))


def test_small_capitals_are_not_taken_for_small_letters():
    families = {face.family: face for face in find_fonts(None).faces}
    assert not families["Amatic SC"].can_draw("sale")
    assert families["Amatic SC"].can_draw("SALE")
    assert families["Roboto"].can_draw("sale")
    assert families["Fjalla One"].can_draw("sale")


def test_glyphs_are_cached_and_visible():
    face = Face(roboto(), "Roboto", "Regular")
    assert face.glyph("A") is face.glyph("A")
    assert face.glyph("A").mask.max() > 200
    assert 28 <= face.glyph("H").mask.shape[0] <= 36


def test_fonts_come_in_an_order_that_places_do_not_change(tmp_path):
    originals = find_fonts(None).faces[:6]
    for folder, faces in (("a", originals), ("b", originals[::-1])):
        for number, face in enumerate(faces):
            (tmp_path / folder / str(number)).mkdir(parents=True)
            shutil.copy(face.path, tmp_path / folder / str(number) / f"{number}.ttf")
    orders = [
        [(f.family, f.style) for f in find_fonts(folder).faces] for folder in (None, tmp_path / "a", tmp_path / "b")
    ]
    assert orders[0] == orders[1] == orders[2], "copies of installed fonts add nothing"


def test_broken_fonts_are_skipped_with_a_warning(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    cut = roboto().read_bytes()
    (tmp_path / "cut.otf").write_bytes(cut[:200])
    with pytest.warns(UserWarning, match=r"skipped 2 broken font files: broken\.ttf, cut\.otf"):
        fonts = find_fonts(tmp_path)
    assert fonts.faces == find_fonts(None).faces


def test_letters_whose_outlines_are_broken_are_not_drawn(tmp_path):
    font = bytearray(roboto().read_bytes())
    tables = {
        bytes(font[at : at + 4]): int.from_bytes(font[at + 8 : at + 12]) for at in range(12, 12 + 16 * font[5], 16)
    }
    outlines = tables[b"glyf"]
    font[outlines + 5500 : outlines + 7500] = b"\xff" * 2000
    (tmp_path / "broken.ttf").write_bytes(font)
    face = Face(tmp_path / "broken.ttf", "Broken", "Regular")
    assert face.can_draw("AEHNORST")
    assert 3 < sum(not face.can_draw(letter) for letter in string.ascii_letters) < 30


def test_damaged_fonts_never_end_a_run(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        data = bytearray(roboto().read_bytes())
        for at in rng.integers(len(data) if number % 2 else 2000, size=40):
            data[at] = rng.integers(256)
        (tmp_path / f"{number}.ttf").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Which of them open at all is FreeType's business.
        source = RenderedWords(fonts=str(tmp_path)).open()
    damaged = [face for face in find_fonts(tmp_path).faces if face.path.parent == tmp_path]
    for text in ("Agreed", "HOTEL", "123"):
        for face in damaged:
            if face.can_draw(text):
                assert all(face.glyph(character).mask.any() for character in text)
    for i in range(50):
        assert source[i].image.size


def test_a_folder_without_fonts_is_an_error(tmp_path):
    (tmp_path / "faces").mkdir()
    with pytest.raises(DataError, match=r"faces: no \.ttf or \.otf files"):
        RenderedWords(fonts="faces").open(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        RenderedWords(fonts="nowhere").open(tmp_path)


def test_words_come_from_a_file_in_place_of_dictionaries(tmp_path):
    names = [a + b for a in ("ka", "ke", "ki", "ko", "ku") for b in ("bra", "dra", "fra", "gra", "kra", "tra")]
    (tmp_path / "words.txt").write_text("\n".join([*names, "", names[0], "Don't"]))
    source = replace(SPEC, words="words.txt").open(tmp_path)
    shown = " ".join(source.text(i) for i in range(3000)).lower()
    assert sum(name in shown for name in names) > 25
    assert "don't" in shown
    assert "encyclop" not in shown
    assert pickle.loads(pickle.dumps(source)) == source


def test_everyday_words_stand_at_the_beginning_of_a_list(tmp_path):
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyzabcd"]
    (tmp_path / "words.txt").write_text("\n".join(words))
    signs, everyday, known, obscure = word_tiers(tmp_path / "words.txt")
    assert (*everyday, *known, *obscure) == tuple(words)
    assert signs == word_tiers()[0]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), (b"\xff\xfe", "cannot read"), (b"a\n\nb", "2 words are too few")]
)
def test_a_list_of_words_that_cannot_be_used_is_an_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"words\.txt: .*{message}"):
        replace(SPEC, words="words.txt").open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"characters": ""}, "no text of 1 to 24"),
        ({"characters": " "}, "no text of 1 to 24"),
        ({"min_length": 5, "max_length": 4}, "no text of 5 to 4"),
        ({"min_length": 0}, "no text of 0"),
        ({"characters": "abc\u6f22"}, "lacks '\u6f22'"),
        ({"difficulty": 1.5}, "difficulty 1.5"),
        ({"size": 0}, "size 0"),
    ],
)
def test_impossible_specs_are_one_clear_line(change, message):
    with pytest.raises(DataError, match=message) as error:
        replace(SPEC, **change).open()
    assert "\n" not in str(error.value)


def test_a_text_set_too_small_for_both_splits_is_an_error():
    outcomes = []
    for split in ("train", "validation"):
        try:
            outcomes.append({RenderedWords(characters="q", max_length=1, split=split).open().text(0)})
        except DataError as error:
            outcomes.append(str(error))
    assert {"q"} in outcomes
    assert any("belongs to the" in outcome for outcome in outcomes if isinstance(outcome, str))
