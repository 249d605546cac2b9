"""A report is one page that needs nothing else, whatever stands in the labels; and its counts are right."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from maerec_jax.evaluation.report import _shortened, write_report
from maerec_jax.evaluation.table import Table
from maerec_jax.evaluation.tallies import ASPECTS, LENGTHS, Confusions, Tallies, Tally
from maerec_jax.reading.marking import differing, printable
from tests.evaluation.making import prediction, words

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = [
    '<script>alert("x")</script>',
    "\" onerror='x'",
    "</title></style><b>",
    "&amp;<!--",
    "javascript:x",
    "url(http://x)",
]


class Page(HTMLParser):
    """The elements of a page, the texts by element, and whether everything that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags):
        return "".join(data for tag, data in self.texts if not tags or tag in tags)


def picture(prediction):
    return np.full((32, 100, 3), prediction.index % 255, np.uint8)


def report(tmp_path, predictions, picture=picture, title="A run", details=None):
    file = tmp_path / "new" / "report.html"
    table = Table.from_predictions(predictions)
    write_report(file, title, details or {}, table, iter(predictions), picture)
    return file.read_text(encoding="utf-8")


def mixed(count=200):
    some = []
    for i in range(count):
        truth = ["Coffee", "a", "parking", "24h"][i % 4]
        reading = truth if i % 3 else truth[:-1] + "xyz"[i % 3 + i % 2]
        size = (32, 10 + 13 * (i % 25))
        some.append(prediction(truth, reading, (i % 50) / 50, name=["curve", "SVT"][i % 2], index=i, size=size))
    return [
        *some,
        prediction("lost", outcome="missing", index=900),
        prediction("torn", outcome="unreadable", index=901),
    ]


def test_images_of_sets_without_a_score_are_named_and_count_nowhere(tmp_path):
    lost = [prediction("gone", name="SVT", index=i, outcome="missing") for i in range(2)]
    text = Page(report(tmp_path, [*words("curve", 3), *lost])).text()
    assert "3words" in text.replace("\n", "")
    assert "SVT/0.jpg" in text
    assert "SVT: none of its 2 images could be used" in text
    assert sum(tally.words for tally in Tallies(lost, 1, unscored={"SVT"}).lengths) == 0


def test_the_page_stands_alone(tmp_path):
    text = report(tmp_path, mixed(), details={"step": "5"})
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "a",
    } == set()
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "xlink:href", "srcset")]
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert "url(" not in attributes.get("style", "")
    style = page.text("style")
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"url\(|@import|https?:", style)
    policies = [m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert [m["content"] for m in page.named("meta") if m.get("name") == "viewport"]


def test_the_page_can_be_printed_and_captured_whole(tmp_path):
    page = Page(report(tmp_path, mixed()))
    assert page.named("img")
    assert not any("loading" in image for image in page.named("img"))
    assert not page.named("details")
    style = page.text("style")
    assert "@media print" in style
    assert re.findall(r"@media ([a-z]*) *[^{]*prefers-color-scheme: dark", style) == ["screen"]


def test_each_mark_of_a_chart_has_its_key(tmp_path):
    page = Page(report(tmp_path, mixed()))
    keys = [span["class"] for span in page.named("span") if span.get("class", "").startswith("key")]
    assert keys == ["key bar", "key interval"] * 3 + ["key confidence", "key bar", "key interval", "key confidence"]
    assert {mark["class"] for mark in page.named("i")} == {"bar", "interval", "confidence"}


def test_long_paths_are_short_and_whole_in_their_title(tmp_path):
    long = f"Union14M-L/{'folder/' * 20}word.jpg"
    some = [replace(prediction("word", "ward", 0.9), file=long), replace(prediction(outcome="missing"), file=long)]
    page = Page(report(tmp_path, some, title=f"/runs/{'x' * 200}/best"))
    assert page.named("h1") == [{"title": f"/runs/{'x' * 200}/best"}]
    assert [span["title"] for span in page.named("span") if "title" in span] == [long, long]
    assert long not in page.text("span")
    assert len(page.text("h1")) <= 80
    assert "Union14M-L/…/folder/word.jpg" in page.text("span")


@pytest.mark.parametrize("path", ["a/b.jpg", "a/" * 50 + "b.jpg", "/" * 90, "x" * 90, "a/" + "y" * 90 + "/z", ""])
def test_shortened_paths_keep_both_ends(path):
    for most in (10, 30, 80):
        short = _shortened(path, most)
        assert len(short) <= most
        assert short == path if len(path) <= most else short.count("…") == 1
        assert (short[:1], short[-1:]) == (path[:1], path[-1:])


def test_every_chart_can_be_read_by_a_screen_reader(tmp_path):
    """Charts are tables: what is drawn is hidden, and the same stands beside it in numbers."""
    page = Page(report(tmp_path, mixed()))
    charts = [table["class"] for table in page.named("table") if "class" in table]
    assert charts == ["bars"] * 4 + ["heat"]
    assert all(heading["scope"] in ("row", "col") for heading in page.named("th"))
    assert all(image["alt"] for image in page.named("img"))
    for unit in (
        "characters",
        "width/height",
        "confidence",
        "conf. (%)",
        "probability",
        "prob. (%)",
        "WAICS (%)",
        "words",
    ):
        assert unit in page.text("th")


def test_bars_are_as_long_as_the_numbers_say(tmp_path):
    some = [prediction("word", "word" if i < 3 else "ward", 0.75, index=i) for i in range(4)]
    page = Page(report(tmp_path, some))
    styles = {}
    for mark in page.named("i"):
        styles.setdefault(mark["class"], []).append(mark["style"])
    assert styles["bar"] == ["width:75.0%"] * 4
    low, high = (f"{100 * bound:.1f}" for bound in Tally(4, 3).bounds())
    assert all(style.startswith(f"left:{low}%") for style in styles["interval"])
    assert float(high) == pytest.approx(float(low) + float(styles["interval"][0].split("width:")[1][:-1]), abs=0.1)
    assert styles["confidence"] == ["left:75.0%", "left:31.6%"]  # the probability is 0.75 to the power of 4


def test_confused_characters_are_coloured_by_how_often(tmp_path):
    pairs = [("foot", "f0ot"), ("foot", "f0ot"), ("foot", "foo"), ("foot", "foott")]
    page = Page(report(tmp_path, [prediction(*pair, index=i) for i, pair in enumerate(pairs)]))
    cells = [cell for cell in page.named("td") if cell.get("class", "").startswith("hit")]
    assert [(cell["class"], cell["style"]) for cell in cells] == [
        ("hit strong", "--share:1.00"),  # o read as 0
        ("hit", "--share:0.50"),  # t missed
        ("hit", "--share:0.50"),  # t added
    ]
    assert all(title in page.text("caption") for title in ("Read as another", "Missed", "Added"))


@pytest.mark.parametrize("evil", EVIL)
def test_labels_names_and_titles_are_no_markup(tmp_path, evil):
    some = [*mixed(), prediction(evil, "x", 0.99, index=902), prediction("x", evil, 0.98, index=903)]
    some.append(replace(prediction("y", "z", 0.97, index=904), file=evil, set=evil))
    some.append(prediction(evil, outcome="missing", index=905))
    plain, page = Page(report(tmp_path, mixed())), Page(report(tmp_path, some, title=evil, details={evil: evil}))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    names = {name for _, attributes in page.elements for name in attributes}
    assert names == {name for _, attributes in plain.elements for name in attributes}
    assert page.text("title").startswith(evil)
    assert page.text("h1") == evil
    assert f"Image of the word {evil}" in [image["alt"] for image in page.named("img")]


def test_nothing_invisible_is_written(tmp_path):
    text = report(tmp_path, [prediction("\u202eab\x00\x1b[2J\u200b", "x\ud800", 0.9)])
    assert not set("\u202e\x00\x1b\u200b") & set(text)
    assert "\\u202e" in Page(text).text()
    assert printable("Käse 漢字") == "Käse 漢字"


def test_the_worst_errors_come_with_their_pictures(tmp_path):
    asked = []
    some = [prediction("word", "ward", i / 100, index=i) for i in range(50)] + words("SVT", 5, 3)

    def some_pictures(prediction):
        asked.append((prediction.set, prediction.index))
        return None if prediction.set == "SVT" else picture(prediction)

    page = Page(report(tmp_path, some, some_pictures))
    assert asked == [("curve", i) for i in range(49, 37, -1)] + [("SVT", 3), ("SVT", 4)]
    assert len(page.named("img")) == 12
    assert page.text("div").count("no picture") == 2
    assert "14 of 52" in page.text("p")


def test_a_page_for_a_thousand_words_is_small(tmp_path):
    noise_HWC = np.random.default_rng(0).integers(0, 256, (200, 700, 3), dtype=np.uint8)  # nothing compresses worse
    some = [prediction("word", "ward", i / 1000, name=f"set {i % 20}", index=i) for i in range(1000)]
    text = report(tmp_path, some, lambda prediction: noise_HWC)
    assert text.count("<img") == 140
    assert len(text) < 3_000_000


def test_there_is_a_page_for_a_run_without_errors_and_for_one_with_nothing_else(tmp_path):
    assert "None." in Page(report(tmp_path, words("curve", 3))).text("p")
    Page(report(tmp_path, [prediction(outcome="missing")]))
    Page(report(tmp_path, [prediction("", ""), prediction("", "x", index=1), prediction("x", "", 0.0, index=2)]))


def test_tallies_are_sound():
    some = mixed()
    tallies = Tallies(some, 2)
    usable = some[:-2]
    assert sum(t.words for t in tallies.lengths) == len(some)
    for counts in (tallies.aspects, tallies.calibration.bins, tallies.probabilities.bins):
        assert sum(t.words for t in counts) == len(usable)
        assert sum(t.right for t in counts) == sum(p.truth == p.reading for p in usable)
    assert tallies.lengths[LENGTHS.index(6)].words == sum(len(p.truth) == 6 for p in some)
    wide = sum(p.width / p.height >= ASPECTS[-1] for p in usable)
    assert tallies.aspects[-1].words == wide > 0
    assert [p.index for p in tallies.unusable] == [900, 901]


def test_calibration_error_is_the_distance_of_accuracy_and_confidence():
    sure = [prediction("a", "a" if i % 2 else "b", 0.95, index=i) for i in range(40)]
    unsure = [prediction("a", "a" if i % 4 == 0 else "b", 0.25, index=i) for i in range(40)]
    assert Tallies(sure, 1).calibration.error == pytest.approx(0.45)
    assert Tallies(unsure, 1).calibration.error == pytest.approx(0)
    assert Tallies(sure + unsure, 1).calibration.error == pytest.approx(0.225)
    assert Tallies([prediction("ab", "ab", 0.5)], 1).probabilities.error == pytest.approx(0.75)
    certain = Tallies([prediction(confidence=1.0), prediction(confidence=0.0)], 1)
    assert (certain.calibration.bins[-1].words, certain.calibration.bins[0].words) == (1, 1)


def test_confusions_are_aligned_and_ignore_case():
    confusions = Confusions()
    for truth, reading in (("Hello", "HELL0"), ("book", "bok"), ("cat", "cart"), ("same", "Same"), ("far", "xyz")):
        confusions.add(truth, reading)
    assert confusions.pairs == Counter({("o", "0"): 1, ("o", ""): 1, ("", "r"): 1})
    assert (confusions.words, confusions.left_out) == (4, 1)
    assert confusions.occurrences["o"] == 3


def test_the_worst_are_shared_among_sets():
    some = [prediction("a", "b", i / 1000, name=f"{i % 500}", index=i) for i in range(1000)]
    worst = Tallies(some, 500).worst
    assert sum(map(len, worst.values())) == 144
    assert min(p.confidence for each in worst.values() for p in each) == pytest.approx(0.856)
    few = Tallies(some[:40], 4).worst
    assert all(each == sorted(each, key=lambda p: -p.confidence) for each in few.values())


def test_differing_characters_are_marked_case_ignored():
    truth, reading = differing("Straße 5", "sTrase S")
    assert "".join(text for text, _ in truth) == "Straße 5"
    assert "".join(text for text, _ in reading) == "sTrase S"
    assert [text for text, differs in truth if differs] == ["ß", "5"]
    assert [text for text, differs in reading if differs] == ["s", "S"]
    assert differing("\u0130x", "ix")[0][-1] == ("x", False)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (50, 100), (399, 400)])
def test_bounds_hold_the_accuracy(right, total):
    low, high = Tally(total, right).bounds()
    assert 0 <= low <= right / total <= high <= 1
    assert high - low < 4 / total**0.5


def test_other_scripts_are_judged_with_their_letters(tmp_path):
    some = [prediction(word, "", 0.0, name="x.txt", index=i) for i, word in enumerate(("Вход", "ХЛЕБ", "Аптека"))]
    page = Page(report(tmp_path, some))
    assert "all letters of all words" in page.text("span")
    assert "0.0 %" in page.text("b")
    assert "3 of 3" in page.text("p")
    assert "do not count in WAICS, 36 chars, 1-NED: x.txt 3" in page.text("p")
    assert "the metric of the paper" not in page.text("p")
    assert "all letters (%)" in page.text("th")
    assert "the metric of the paper" in Page(report(tmp_path, mixed())).text("p")


def test_readings_are_doubtful_where_most_are_wrong():
    some = [prediction("a", "a" if i % 10 < i // 10 else "b", (i // 10 + 0.5) / 10, index=i) for i in range(100)]
    assert Tallies(some, 1).doubtful_below == 0.5
    assert Tallies([prediction("a", "b", 0.95)], 1).doubtful_below == 1
    assert Tallies([prediction("a", "a", 0.05)], 1).doubtful_below == 0


def test_the_report_says_what_is_doubtful(tmp_path):
    some = [prediction("word", "ward" if i < 9 else "word", 0.25 + i / 30, index=i) for i in range(20)]
    page = Page(report(tmp_path, some))
    assert "Most readings below 55.0 % are wrong: --doubtful-below 0.55 marks them" in page.text("figcaption")
