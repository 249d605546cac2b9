"""The demo as people use it: the command is started, and Chromium opens its page."""

import json
import shutil
import signal
from contextlib import suppress
from itertools import pairwise

import pytest
from PIL import Image
from playwright import sync_api as playwright

from tests.demo.conftest import draw_word, served, unbroken  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no browser here: install chromium (Debian, Ubuntu: apt-get install chromium)", allow_module_level=True)
PHONE = {"width": 360, "height": 740}
READ = "#reading h2"


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
        page.on("console", lambda line: faults.extend([line.text] * (line.type == "error" and not is_progress(line))))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(address)
        page.wait_for_selector("#picture input[type=file]", state="attached")
        opened.append(context)
        return page

    def is_progress(line):
        """Gradio asks how far an upload is even where it has sent none, as the file is too large."""
        return "upload_progress" in line.location["url"] or line.text == "Response"

    def is_own(url):
        return url.startswith((address, "data:", "blob:"))

    yield visit
    for context in opened:
        context.close()
    assert not faults


def upload(page, path):
    page.set_input_files("#picture input[type=file]", path)


def saved(page, name):
    """What is downloaded, as soon as that is what was read in the picture of that name."""
    page.wait_for_selector(READ)
    for _ in range(100):
        with page.expect_download() as download:
            page.click("#save")
        if download.value.suggested_filename == f"{name}.json":
            return json.loads(download.value.path().read_text())
        page.wait_for_timeout(300)
    return pytest.fail(f"{name} was not read")


def described(desk, path):
    return json.loads(json.dumps(desk.recognizer.read([path])[0].described()))


def shown(desk, path):
    """What the page says of a word."""
    (word,) = desk.recognizer.read([path])
    return word.text + word.remark


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_word_is_uploaded_and_read(visit, desk, word_files):
    page = visit()
    upload(page, word_files["lemon"])
    found = saved(page, "lemon")
    expected = described(desk, word_files["lemon"])
    assert found["text"] == expected["text"]
    assert page.inner_text(READ) == shown(desk, word_files["lemon"])
    assert found["character_confidences"] == pytest.approx(expected["character_confidences"], abs=1e-4)
    assert page.locator("#characters .gallery-item").count() == len(found["character_confidences"])
    # The next picture takes its place.
    upload(page, word_files["river"])
    assert saved(page, "river")["file"] == "river.png"
    page.click("#picture [aria-label='Remove Image']")
    page.wait_for_selector(READ, state="detached")


def test_a_picture_is_dropped(visit, word_files):
    page = visit()
    page.wait_for_selector("#picture [aria-dropeffect=copy]")
    page.evaluate(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], 'dropped.png', {type: 'image/png'}));
          document.querySelector('#picture [aria-dropeffect=copy]').dispatchEvent(
            new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(word_files["tiger"].read_bytes()),
    )
    assert saved(page, "dropped")["file"] == "dropped.png"


def test_a_picture_is_pasted(visit, desk, word_files):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.bring_to_front()  # others have no clipboard
    page.evaluate(
        """bytes => navigator.clipboard.write([
          new ClipboardItem({'image/png': new Blob([new Uint8Array(bytes)], {type: 'image/png'})})])""",
        list(word_files["tiger"].read_bytes()),
    )
    button = page.locator("#picture [aria-label='Paste from clipboard']")
    for _ in range(12):  # on a busy machine the page may not listen yet
        if button.count():
            button.click()
        with suppress(playwright.TimeoutError):
            page.wait_for_selector(READ, timeout=10_000)
            break
    assert page.inner_text(READ) == shown(desk, word_files["tiger"])


def test_an_example_is_read_and_a_beam_changes_how(visit):
    page = visit()
    page.click("#examples button >> nth=1")
    assert "alternatives" not in saved(page, "word 1")
    page.click("#settings > button")
    page.click("#settings label:has-text('5')")
    page.wait_for_selector("#others")
    assert saved(page, "word 1")["alternatives"]


def test_the_words_of_a_scene_are_chosen_in_the_picture_and_in_the_table(visit):
    page = visit()
    page.click("#examples button >> nth=0")
    words = saved(page, "street")["words"]
    assert page.locator("#words [role=row]").count() == 1 + len(words) > 5
    first = page.get_attribute("#characters img", "src")
    x, y = (sum(corner[axis] for corner in words[1]["polygon"]) / len(words[1]["polygon"]) for axis in (0, 1))
    box = page.locator("#picture img").bounding_box()
    place = {"x": x * box["width"] / 960, "y": y * box["height"] / 640}
    page.locator("#picture img").click(position=place)
    second = another(page, first)
    page.locator("#words [role=row]").nth(3).locator("[role=gridcell]").nth(1).click()
    assert another(page, second) != first
    page.click("#mode label:has-text('One word')")
    page.wait_for_selector("#words", state="detached")
    assert "words" not in saved(page, "street")


def test_a_large_picture_is_a_scene_and_what_was_read_before_is_gone_meanwhile(visit, word_files, tmp_path):
    Image.fromarray(draw_word("lemon")).resize((900, 500)).save(tmp_path / "large.png")
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    upload(page, word_files["river"])
    saved(page, "river")
    assert page.locator("#words").count() == 0
    waiting = []
    page.route("**/queue/join*", lambda route: waiting.append(route))
    upload(page, tmp_path / "large.png")
    page.wait_for_selector(READ, state="detached")
    for part in ("#words", "#copy", "#save", "#characters img"):
        page.wait_for_selector(part, state="detached")
    for route in waiting:  # before unroute, which would let them go itself
        route.continue_()
    page.unroute("**/queue/join*")
    found = saved(page, "large")
    page.wait_for_selector("#words")
    page.bring_to_front()  # others have no clipboard
    page.click("#copy:has-text('Copy all text')")
    page.wait_for_selector("#copy:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()").split("\n") == [word["text"] for word in found["words"]]
    page.wait_for_selector("#copy:has-text('Copy all text')")


def another(page, src):
    """Wait for the crop of another word."""
    page.wait_for_function("src => document.querySelector('#characters img')?.src !== src", arg=src)
    return page.get_attribute("#characters img", "src")


def test_what_is_no_picture_is_told_and_the_next_one_read(visit, word_files, tmp_path):
    (tmp_path / "notes.png").write_text("just text")
    (tmp_path / "large.png").write_bytes(b"\0" * 9_000_001)
    page = visit()
    upload(page, tmp_path / "notes.png")
    page.wait_for_selector("[data-testid=toast-body]:has-text('notes.png cannot be read: it is text, not an image')")
    upload(page, tmp_path / "large.png")
    page.wait_for_selector("[data-testid=toast-body]:has-text('exceed the maximum allowed size')")
    upload(page, word_files["paper"])
    saved(page, "paper")


def test_fifty_megapixels_are_read(visit, tmp_path):
    Image.fromarray(draw_word("lemon")).resize((8160, 6120)).save(tmp_path / "fifty.jpg", quality=80)
    page = visit()
    upload(page, tmp_path / "fifty.jpg")
    saved(page, "fifty")
    page.wait_for_function("document.querySelector('#picture img').naturalWidth <= 1600")


def test_users_at_once_get_their_own_answers(visit, desk, word_files):
    pages = {word: visit() for word in list(word_files)[:5]}
    for word, page in pages.items():
        upload(page, word_files[word])
    for word, page in pages.items():
        found, expected = saved(page, word), described(desk, word_files[word])
        assert (found["file"], found["text"]) == (f"{word}.png", expected["text"])
        assert found["character_confidences"] == pytest.approx(expected["character_confidences"], abs=1e-4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(scheme, visit, word_files, tmp_path):
    page = visit(viewport=PHONE, color_scheme=scheme)
    assert overflow(page) == 0
    (tmp_path / ("n" * 100 + ".png")).write_bytes(word_files["lemon"].read_bytes())
    upload(page, tmp_path / ("n" * 100 + ".png"))
    page.wait_for_selector(READ)
    page.click("#settings > button")
    assert overflow(page) == 0
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#words")
    page.wait_for_selector("#actions button")  # from then on nothing changes its place
    assert overflow(page) == 0
    rectangles = """names => names.map(name => [...document.querySelectorAll(name)].map(each => {
      const box = each.getBoundingClientRect();
      return [box.left, box.top, box.right, box.bottom];
    }))"""
    names = ["#examples button", "#picture", "#words", "#reading", "#examples"]
    tiles, *boxes = page.evaluate(rectangles, names)  # at one moment
    assert len(tiles) == 6
    left, top, right, bottom = boxes[-1][0]
    assert all(left <= x0 < x1 <= right and top <= y0 < y1 <= bottom for x0, y0, x1, y1 in tiles)  # none is cut
    assert all(upper[3] <= lower[1] for (upper,), (lower,) in pairwise(boxes))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP])  # test_server.py ends it by SIGTERM
def test_nothing_is_left_behind(end, unbroken, browser, word_files, tmp_path):  # noqa: F811
    with served(unbroken, tmp_path) as (process, address), browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.click("#mode label:has-text('Whole scene')")
        upload(page, word_files["lemon"])
        page.wait_for_selector("#picture img")
        assert [*tmp_path.glob("maerec_demo_*/**/lemon.png")]
        process.send_signal(end)  # while the page is open
        assert process.wait(60) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
