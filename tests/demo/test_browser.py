"""The demo as people use it: the command is started, and Chromium opens its page."""

import json
import shutil
import signal
from itertools import pairwise
from urllib.parse import unquote

import pytest
from PIL import Image
from playwright import sync_api as playwright

from tests.demo.conftest import draw_word, served, unbroken  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no browser here: install chromium (Debian, Ubuntu: apt-get install chromium)", allow_module_level=True)
PHONE = {"width": 360, "height": 740}
RESULT = "#reading .headline, #reading .notice, #reading table"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as another visitor each time; at the end nothing has gone wrong in any of them."""
    opened, faults = [], []

    def visit(**options):
        context = browser.new_context(**options)
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("request", lambda request: faults.extend([request.url] * (not is_own(request.url))))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.extend([line.text] * (line.type == "error")))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(address)
        page.wait_for_selector("#picture .drop")
        opened.append(context)
        return page

    def is_own(url):
        return url.startswith((address, "data:", "blob:"))

    yield visit
    for context in opened:
        context.close()
    assert not faults


def upload(page, path):
    page.set_input_files("#picture input[type=file]", path)


def result(page, text):
    """What is shown for the picture of that name."""
    page.wait_for_selector(f"#picture .name:has-text('{text}')")
    return page.wait_for_selector(RESULT)


def saved(page):
    """What the page would download."""
    url = page.get_attribute("#save a[download]", "href")
    return json.loads(unquote(url.partition(",")[2]))


def described(desk, path):
    return json.loads(json.dumps(desk.recognizer.read([path])[0].described()))


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_word_is_uploaded_and_read(visit, desk, word_files):
    page = visit()
    upload(page, word_files["lemon"])
    result(page, "lemon.png")
    page.wait_for_selector("#detail .letters")
    found = saved(page)
    expected = described(desk, word_files["lemon"])
    assert found["text"] == expected["text"]
    assert found["character_confidences"] == pytest.approx(expected["character_confidences"], abs=1e-4)
    assert page.locator("#detail .letters li").count() == len(found["character_confidences"])
    with page.expect_download() as download:
        page.click("#save a")
    assert json.loads(download.value.path().read_text()) == found
    assert download.value.suggested_filename == "lemon.json"
    # The next picture takes its place.
    upload(page, word_files["river"])
    result(page, "river.png")
    page.wait_for_selector("#save a[download='river.json']", state="attached")
    assert saved(page)["file"] == "river.png"


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(way, visit, word_files):
    page = visit()
    page.evaluate(
        """([way, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], way + '.png', {type: 'image/png'}));
          document.body.dispatchEvent(way === 'paste'
            ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})
            : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [way, list(word_files["tiger"].read_bytes())],
    )
    result(page, f"{way}.png")
    page.wait_for_selector("#save a[download]", state="attached")
    assert saved(page)["file"] == f"{way}.png"


def test_an_example_is_read_and_a_beam_changes_how(visit):
    page = visit()
    page.click("#examples button >> nth=-1")
    page.wait_for_selector("#detail .letters")
    assert "alternatives" not in saved(page)
    page.click("#settings > button")
    page.click("#settings label:has-text('5')")
    page.wait_for_selector("#detail .others")
    assert saved(page)["alternatives"]


def test_the_words_of_a_scene_are_chosen_in_the_picture_and_in_the_table(visit):
    page = visit()
    page.click("#examples button >> nth=0")
    # Parts of the page come one after the other: each is waited for.
    page.wait_for_selector("#reading tr[data-word='1']")
    page.wait_for_selector("#picture polygon[data-word='1']", state="attached")
    page.wait_for_selector("#detail .closeup img")
    words = page.locator("#reading tr[data-word]").count()
    assert words == page.locator("#picture polygon").count() == len(saved(page)["words"]) > 4
    first = page.get_attribute("#detail .closeup img", "src")
    page.locator("#picture polygon[data-word='1']").click()
    second = another(page, first)
    page.wait_for_selector("#reading tr[data-word='1'].chosen")
    page.locator("#reading tr[data-word='2']").press("Enter")
    another(page, second)
    page.wait_for_selector("#picture polygon[data-word='2'].chosen", state="attached")
    page.wait_for_function("document.querySelectorAll('.chosen').length === 2")
    page.click("#mode label:has-text('One word')")
    page.wait_for_selector("#reading .headline")
    page.wait_for_function("!decodeURIComponent(document.querySelector('#save a[download]').href).includes('words')")


def another(page, src):
    """Wait for the crop of another word."""
    page.wait_for_function("src => document.querySelector('#detail .closeup img')?.src !== src", arg=src)
    return page.get_attribute("#detail .closeup img", "src")


def test_what_is_no_picture_is_told_and_the_next_one_read(visit, word_files, tmp_path):
    (tmp_path / "notes.png").write_text("just text")
    (tmp_path / "large.png").write_bytes(b"\0" * 9_000_001)
    page = visit()
    upload(page, tmp_path / "notes.png")
    assert "notes.png cannot be read: it is no image but text" in page.inner_text("#reading .notice")
    upload(page, tmp_path / "large.png")
    page.wait_for_selector("#reading .notice:has-text('large.png is larger than 9 MB')")
    upload(page, word_files["paper"])
    result(page, "paper.png")
    page.wait_for_selector("#save a[download='paper.json']", state="attached")


def test_fifty_megapixels_are_read(visit, tmp_path):
    Image.fromarray(draw_word("lemon")).resize((8160, 6120)).save(tmp_path / "fifty.jpg", quality=80)
    page = visit()
    upload(page, tmp_path / "fifty.jpg")
    result(page, "fifty.jpg")
    assert "8160 x 6120" in page.inner_text("#picture .name")
    assert page.evaluate("document.querySelector('#picture .frame img').naturalWidth") <= 1600


def test_ten_users_at_once_get_their_own_answers(visit, desk, word_files):
    pages = {word: visit() for word in word_files}
    for word, page in pages.items():
        upload(page, word_files[word])
    for word, page in pages.items():
        result(page, f"{word}.png")
        page.wait_for_selector("#save a[download]", state="attached")
        found, expected = saved(page), described(desk, word_files[word])
        assert (found["file"], found["text"]) == (f"{word}.png", expected["text"])
        assert found["character_confidences"] == pytest.approx(expected["character_confidences"], abs=1e-4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(scheme, visit, word_files, tmp_path):
    page = visit(viewport=PHONE, color_scheme=scheme)
    assert overflow(page) == 0
    (tmp_path / ("n" * 100 + ".png")).write_bytes(word_files["lemon"].read_bytes())
    upload(page, tmp_path / ("n" * 100 + ".png"))
    page.wait_for_selector("#detail .letters")
    page.click("#settings > button")
    assert overflow(page) == 0
    boxes = [page.locator(name).bounding_box() for name in ("#picture", "#results", "#more")]
    assert all(upper["y"] + upper["height"] <= lower["y"] for upper, lower in pairwise(boxes))
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#reading tr[data-word='1']")
    assert overflow(page) == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_behind(end, unbroken, browser, word_files, tmp_path):  # noqa: F811
    with served(unbroken, tmp_path) as (process, address), browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#picture .drop")
        page.click("#mode label:has-text('Whole scene')")
        upload(page, word_files["lemon"])
        page.wait_for_selector("#picture .name:has-text('lemon.png')")
        assert [*tmp_path.glob("maerec_demo_*/**/lemon.png")]
        process.send_signal(end)  # while the page is open
        assert process.wait(60) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
