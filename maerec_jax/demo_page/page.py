"""The page of the demo: its parts, and what happens when somebody uses them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from data_pipelines.errors import DataError, UserError
from maerec_jax.demo_page import markup, script
from maerec_jax.demo_page.desk import Desk, Found, Settings
from maerec_jax.demo_page.examples import Example, draw_examples
from maerec_jax.demo_page.style import HEADER
from maerec_jax.demo_page.uploads import Limits, open_upload, too_many_bytes

TITLE = "Reading words in pictures"
_KEEP_SECONDS = 1800  # uploads, and what was read in them
_FILE = '<input type="file" accept="image/*,.tif,.tiff" hidden aria-hidden="true" tabindex="-1">${value}'
_GALLERY = '<p class="label">Or try one of these</p><div class="strip">${value}</div>'
_START = "What is read appears here."


@dataclass(frozen=True, eq=False)
class Picture:
    """The picture that a visitor looks at: an upload, or an example."""

    name: str
    path: str = ""
    example: Example | None = None


class Handlers:
    """What happens on the page. Each gives what its parts show, in the order of ``build_page``'s outputs.

    Args:
      desk: reads.
      examples: to choose from.
      limits: for uploads.
      folder: where uploads are.
    """

    def __init__(self, desk: Desk, examples: list[Example], limits: Limits, folder: Path) -> None:
        self._desk, self._examples, self._limits, self._folder = desk, examples, limits, folder

    def take(self, mode: str, beam: Any, crops: str, lexicon: str, event: gr.EventData) -> tuple[Any, ...]:
        """An upload has arrived."""
        data = _data(event)
        shown = Picture(os.path.basename(str(data.get("name")))[:120] or "picture", str(data.get("path")))
        return self._show(shown, mode, beam, crops, lexicon)

    def example(self, beam: Any, crops: str, lexicon: str, event: gr.EventData) -> tuple[Any, ...]:
        """An example was chosen, which brings its mode."""
        example = self._examples[_index(event, len(self._examples))]
        shown = Picture(example.name, example=example)
        return example.mode, *self._show(shown, example.mode, beam, crops, lexicon)

    def again(
        self, shown: Picture | None, found: Found | None, mode: str, beam: Any, crops: str, lexicon: str
    ) -> tuple[Any, ...]:
        """A setting may have changed."""
        same = found is not None and found.settings == _settings(mode, beam, crops, lexicon)
        return (gr.skip(),) * 6 if shown is None or same else self._show(shown, mode, beam, crops, lexicon)

    def choose(self, found: Found | None, event: gr.EventData) -> str:
        """A word was chosen: its detail."""
        if found is None or not found.words:
            return ""
        return self._detail(found, _index(event, len(found.words)))

    def refuse(self, event: gr.EventData) -> tuple[Any, ...]:
        """A file was not taken: the browser found it too large, or it did not arrive."""
        data = _data(event)
        name = str(data.get("name"))[:120]
        text = too_many_bytes(name, self._limits) if data.get("large") else f"{name} could not be sent: try once more."
        return self._failed(text)

    def _show(self, shown: Picture, mode: str, beam: Any, crops: str, lexicon: str) -> tuple[Any, ...]:
        try:
            pixels = self._pixels(shown)
            found = self._desk.read(pixels, shown.name, _settings(mode, beam, crops, lexicon))
            first = self._detail(found, 0) if found.words else ""
        except (UserError, DataError) as error:
            # With the picture that they are meant for, settings can be mended.
            return self._failed(str(error), shown)
        return markup.picture(found, pixels), markup.results(found), first, markup.download(found), shown, found

    def _failed(self, text: str, shown: Picture | None = None) -> tuple[Any, ...]:
        return markup.empty_picture(self._limits), markup.notice(text), "", "", shown, None

    def _pixels(self, shown: Picture) -> np.ndarray:
        if shown.example is not None:
            return shown.example.pixels
        return open_upload(shown.path, shown.name, self._folder, self._limits)

    def _detail(self, found: Found, index: int) -> str:
        word = found.words[index]
        maps = self._desk.attention(word) if word.word.character_confidences else None
        return markup.detail(word, maps, crop=found.mode == "scene")


def build_page(desk: Desk, limits: Limits, folder: Path) -> gr.Blocks:
    """The page, ready to be served.

    Args:
      desk: reads.
      limits: for uploads and for requests that wait.
      folder: where the server puts uploads.

    Raises:
      DataError: where no examples can be drawn.
    """
    scenes = desk.detector is not None
    examples = draw_examples(desk.characters, scenes)
    desk.warm_up(examples[-1].pixels)
    handlers = Handlers(desk, examples, limits, folder)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, _KEEP_SECONDS), fill_width=True) as page:
        gr.HTML(HEADER.format(title=TITLE), elem_id="header", js_on_load=None)
        shown = gr.State(None, time_to_live=_KEEP_SECONDS)
        found = gr.State(None, time_to_live=_KEEP_SECONDS)
        with gr.Column(elem_id="layout"):
            mode = gr.Radio(
                [("One word", "word"), ("Whole scene", "scene")], value="word", label="The picture shows",
                elem_id="mode", container=False, visible=scenes,
            )  # fmt: skip
            picture = _html(markup.empty_picture(limits), "picture", script.PICTURE, _FILE, most_bytes=limits.max_bytes)
            with gr.Column(elem_id="results"):
                results = _html(markup.hint(_START, start=True), "reading", script.RESULTS)
                detail = _html("", "detail", script.DETAIL)
                save = _html("", "save", None)
            with gr.Column(elem_id="more"):
                gallery = _html(markup.gallery(examples), "examples", script.EXAMPLES, _GALLERY)
                with gr.Accordion("Settings", open=False, elem_id="settings"):
                    beams = sorted({1, 5, 10, desk.reading.beam})
                    beam = gr.Radio(
                        beams, value=desk.reading.beam, label="Beam", elem_classes="choice",
                        info="Texts that are followed at the same time. More finds likelier texts, and takes longer.",
                    )  # fmt: skip
                    crops = gr.Radio(
                        [("Upright box", "box"), ("Rectified", "rectified")], value="box", label="Crops of a scene",
                        info="How words are cut out: as they stand, or turned level.", visible=scenes,
                        elem_classes="choice",
                    )  # fmt: skip
                    lexicon = gr.Textbox(
                        label="Only these words", lines=2, max_lines=6, placeholder="coffee tea bakery",
                        info="If any are given, nothing else is read. Works best with a beam.",
                    )  # fmt: skip
        settings, outputs = [mode, beam, crops, lexicon], [picture, results, detail, save, shown, found]
        # One visitor at a time has the device; the others see their place in the queue over the picture.
        device = {"concurrency_limit": 1, "concurrency_id": "device", "show_progress_on": [picture]}
        hidden = {"api_visibility": "private"}
        picture.take(handlers.take, settings, outputs, **device, **hidden)
        picture.refuse(handlers.refuse, None, outputs, **hidden, concurrency_limit=None, show_progress="hidden")
        gallery.choose(handlers.example, settings[1:], [mode, *outputs], **device, **hidden)
        changes: list[Callable[..., Any]] = [mode.input, beam.input, crops.input, lexicon.submit, lexicon.blur]
        for changed in changes:
            changed(handlers.again, [shown, found, *settings], outputs, trigger_mode="always_last", **device, **hidden)
        for part in (picture, results):
            choice = {**device, "show_progress_on": [detail], "show_progress": "minimal"}
            part.choose(handlers.choose, [found], [detail], trigger_mode="always_last", **choice, **hidden)
    page.queue(max_size=limits.max_waiting, default_concurrency_limit=1)
    return page


def _html(value: str, name: str, code: str | None, template: str = "${value}", **properties: Any) -> gr.HTML:
    return gr.HTML(value, elem_id=name, js_on_load=code, html_template=template, apply_default_css=False, **properties)


def _settings(mode: str, beam: Any, crops: str, lexicon: str) -> Settings:
    """What the page sent, which anybody can send: Gradio sees to it that choices are among those offered."""
    return Settings(
        "scene" if mode == "scene" else "word",
        int(beam),
        "rectified" if crops == "rectified" else "box",
        str(lexicon or ""),
    )


def _data(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def _index(event: gr.EventData, length: int) -> int:
    index = _data(event).get("index")
    return index if isinstance(index, int) and 0 <= index < length else 0
