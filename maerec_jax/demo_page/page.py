"""The page of the demo: its parts, and what happens when somebody uses them."""

import json
import tempfile
from html import escape
from pathlib import Path
from typing import Any, get_args

import cv2
import gradio as gr
import numpy as np

from data_pipelines.errors import DataError, UserError
from data_pipelines.images.crops import Crops
from maerec_jax.demo_page.desk import Desk, Found, Settings
from maerec_jax.demo_page.examples import Example, draw_examples
from maerec_jax.demo_page.looks import CLEAR, COPIED, COPY, UNSELECT
from maerec_jax.demo_page.uploads import Limits, open_upload
from maerec_jax.reading.pictures import attention_picture, characters_of
from maerec_jax.scenes.regions import LARGE

_TITLE = "Reading words in pictures"
_ABOUT = "A MAERec recogniser in JAX reads the words in a picture. It shows its confidence and where it looked."
_KEEP_SECONDS = 1800  # uploads, and what was read in them
_PANEL = (240, 120)  # width and height of the picture of a character
_IN_SIGHT = 12  # words of a list
_OUTLINE = (79, 70, 229)


class Handlers:
    """What happens on the page. Each gives what its parts show, in the order of ``build_page``'s outputs.

    ``folder`` is where uploads are, and files to download are written.
    """

    def __init__(self, desk: Desk, examples: list[Example], limits: Limits, folder: Path) -> None:
        self._desk, self._examples, self._limits, self._folder = desk, examples, limits, folder
        self.beams = sorted({1, 5, 10, desk.reading.beam})  # what visitors may choose

    def take(self, file: dict[str, Any] | None, *settings: Any) -> tuple[Any, ...]:
        """An upload has arrived: what Gradio knows of its file."""
        return self._show(str((file or {}).get("path") or ""), self._settings(*settings))

    def example(
        self, beam: Any, crops: Any, lexicon: Any, characters: Any, blocklist: Any, event: gr.SelectData
    ) -> tuple[Any, ...]:
        """An example was chosen; its size tells what it shows."""
        example = self._examples[_index(event.index, len(self._examples))]
        return "auto", *self._show(example, self._settings("auto", beam, crops, lexicon, characters, blocklist))

    def again(self, shown: Example | str | None, found: Found | None, *chosen: Any) -> tuple[Any, ...]:
        """A setting may have changed."""
        settings = self._settings(*chosen)
        same = found is not None and found.settings == settings
        return (gr.skip(),) * 10 if shown is None or same else self._show(shown, settings)

    def cleared(self, shown: Example | str | None = None) -> tuple[Any, ...]:
        """Nothing is shown; with the picture that they were meant for, settings can be mended."""
        hidden = gr.update(visible=False)
        return None, *self._closely(None, 0), hidden, hidden, None, "", shown, None

    def choose(self, found: Found | None, event: gr.SelectData) -> tuple[Any, ...]:
        """A row of the table of words was chosen, which may be sorted: it begins with the word's number."""
        row = event.row_value if isinstance(event.row_value, list) and event.row_value else [1]
        number = row[0] - 1 if isinstance(row[0], int) else 0
        return (gr.skip(),) * 3 if found is None else self._closely(found, number)

    def point(self, found: Found | None, event: gr.SelectData) -> tuple[Any, ...]:
        """A place (x, y) of the picture was clicked, where there may be a word."""
        for number, word in enumerate(found.words if found else ()):
            x, y = event.index
            if cv2.pointPolygonTest(word.polygon_N2, (float(x), float(y)), False) >= 0:
                return self._closely(found, number)
        return (gr.skip(),) * 3

    def _settings(self, mode: Any, beam: Any, crops: Any, lexicon: Any, characters: Any, blocklist: Any) -> Settings:
        """What the page sent, which anybody can send."""
        return Settings(
            mode if mode in ("word", "scene") else "auto",
            int(beam) if beam in self.beams else self._desk.reading.beam,
            crops if crops in get_args(Crops) else "box",
            *(str(listed or "") for listed in (lexicon, characters, blocklist)),
        )

    def _show(self, shown: Example | str, settings: Settings) -> tuple[Any, ...]:
        """Read an example, or the upload with that path."""
        name = Path(shown).name if isinstance(shown, str) else shown[1]
        try:
            pixels = open_upload(shown, self._folder, self._limits) if isinstance(shown, str) else shown[0]
            found = self._desk.read(pixels, name, settings)
        except (UserError, DataError) as error:
            gr.Warning(escape(str(error)), duration=None)
            return self.cleared(shown)
        for note in found.notes:
            gr.Info(escape(note))
        rows = [
            [i, word.word.text, f"{word.word.confidence:.0%}{word.word.remark}", f"{word.detection_confidence:.0%}"]
            for i, word in enumerate(found.words, 1)
        ]
        label = f"Words found: {len(rows)}{' (scroll to see all)' if len(rows) > _IN_SIGHT else ''}"
        table = gr.update(value=rows, visible=found.scene, label=label)
        text = "\n".join(word.word.text for word in found.words if word.word.text)
        actions = gr.update(visible=True)
        download = Path(tempfile.mkdtemp(dir=self._folder)) / f"{Path(name).stem}.json"
        download.write_text(json.dumps(found.described, ensure_ascii=False, indent=1))
        polygons = [outline_N2.round().astype(np.int32) for outline_N2 in found.outlines]
        outlined = cv2.polylines(found.preview.copy(), polygons, True, _OUTLINE, 1 + found.scene, cv2.LINE_AA)
        return outlined, *self._closely(found, 0), table, actions, str(download), text, shown, found

    def _closely(self, found: Found | None, number: int) -> tuple[Any, ...]:
        """What was read of a word, where the model looked, and what else it may be."""
        if found is None or not found.words:
            return gr.update(value=None, label="Reading"), None, gr.update(visible=False)
        word = found.words[_index(number, len(found.words))]
        read = word.word
        panels: list[tuple[Any, str]] = [(word.crop, "")] if found.scene else []
        recognizer = self._desk.recognizer
        if read.character_confidences and recognizer.handling.has_attention:
            turned = np.rot90(word.crop, read.turns)
            characters = characters_of(read.text, len(read.character_confidences))
            maps = recognizer.attention(word.prepared, read)
            panels += [
                (attention_picture(turned, map_RC, *_PANEL), f"{character} {confidence:.0%}")
                for character, confidence, map_RC in zip(characters, read.character_confidences, maps, strict=True)
            ]
        others = [[other.text, f"{other.confidence:.1%}", f"{other.probability:.1%}"] for other in read.alternatives]
        sure = {(read.text or "(nothing)") + read.remark: read.confidence}
        label = gr.update(value=sure, label=f"Reading (probability {read.probability:.1%})")
        return label, panels, gr.update(value=others, visible=bool(others))


def build_page(desk: Desk, limits: Limits, folder: Path) -> gr.Blocks:
    """The page, ready to be served; the server puts uploads into ``folder``.

    Raises:
      DataError: where no examples can be drawn.
    """
    scenes = desk.detector is not None
    examples = draw_examples(desk.recognizer.handling.charset.characters, scenes)
    # What the first visitor needs is compiled by reading a word.
    desk.read(examples[-1][0], "", Settings("word", desk.reading.beam))
    handlers = Handlers(desk, examples, limits, folder)
    tiles: dict[str, Any] = {"columns": 3, "height": "fit-content", "object_fit": "contain"}
    shown_only: dict[str, Any] = {"interactive": False, "buttons": []}
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(60, _KEEP_SECONDS)) as page:
        gr.Markdown(f"# {_TITLE}\n{_ABOUT}")
        shown, found = gr.State(time_to_live=_KEEP_SECONDS), gr.State(time_to_live=_KEEP_SECONDS)
        with gr.Row(elem_id="both"):
            with gr.Column():
                mode = gr.Radio(
                    [("Decide by size", "auto"), ("One word", "word"), ("Whole scene", "scene")],
                    value="auto",
                    label="The picture shows",
                    info=f"Pictures at least {LARGE} pixels high and wide are read as scenes.",
                    visible=scenes,
                    elem_id="mode",
                )
                most = f"up to {limits.max_megabytes} MB and {limits.max_megapixels} megapixels"
                offer = f"Drop a picture here, or click to choose one\nJPEG, PNG, WebP, GIF, BMP, TIFF: {most}"
                picture = gr.Image(
                    label="Picture",
                    placeholder=offer,
                    sources=["upload", "clipboard"],
                    interactive=True,
                    buttons=[],
                    elem_id="picture",
                )
                gallery = gr.Gallery(
                    examples,
                    label="Or try one of these",
                    allow_preview=False,
                    elem_id="examples",
                    **tiles,
                    **shown_only,
                )
                with gr.Accordion("Settings", open=False, elem_id="settings"):
                    beam = gr.Radio(
                        handlers.beams,
                        value=desk.reading.beam,
                        label="Beam",
                        info="Beam width: candidates kept while decoding. More is slower and a bit more accurate.",
                    )
                    crops = gr.Radio(
                        [("Upright box", "box"), ("Rectified", "rectified"), ("Box with margins", "app")],
                        value="box",
                        label="Crops of a scene",
                        info="How words are cut out: as upright boxes, turned level, or with some background around.",
                        visible=scenes,
                    )
                    lexicon = gr.Textbox(
                        label="Only these words",
                        lines=2,
                        placeholder="coffee tea bakery",
                        info="Nothing else is read. Works best with a beam width of 5 or more.",
                    )
                    with gr.Row():
                        characters = gr.Textbox(label="Only these characters", placeholder="0123456789")
                        blocklist = gr.Textbox(label="Never these characters", placeholder="|~")
            with gr.Column():
                table = gr.Dataframe(
                    headers=["#", "Text", "Reading", "Detection"],
                    datatype=["number", "str", "str", "str"],
                    visible=False,
                    elem_id="words",
                    **shown_only,
                )
                reading = gr.Label(label="Reading", elem_id="reading")
                # Below the reading: notices would cover them at the top.
                with gr.Row(visible=False, elem_id="actions") as actions:
                    copy = gr.Button("Copy all text", size="md", min_width=120, elem_id="copy")
                    save = gr.DownloadButton("Download as JSON", size="md", min_width=120, elem_id="save")
                text = gr.Textbox(visible="hidden")  # in the row it would appear with the buttons
                panels = gr.Gallery(
                    label="Characters, and where it looked", elem_id="characters", **tiles, **shown_only
                )
                others = gr.Dataframe(
                    headers=["Other readings", "Confidence", "Probability"],
                    visible=False,
                    elem_id="others",
                    **shown_only,
                )
        settings, closely = [mode, beam, crops, lexicon, characters, blocklist], [reading, panels, others]
        outputs = [picture, *closely, table, actions, save, text, shown, found]
        # One visitor at a time has the device; the others see their place in the queue over the picture.
        device: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "device", "api_visibility": "private"}
        busy = device | {"show_progress_on": [picture, reading]}
        # At once, in the browser: the old words are gone while a new picture waits and is read.
        gr.on([picture.upload, picture.clear, gallery.select], None, None, [*closely, table, actions], js=CLEAR)
        gr.on([picture.upload, picture.clear], None, None, gallery, js=UNSELECT)
        # Gradio would decode the file in its own way.
        picture.upload(handlers.take, [picture, *settings], outputs, preprocess=False, **busy)
        picture.clear(handlers.cleared, None, outputs, api_visibility="private", show_progress="hidden")
        gallery.select(handlers.example, settings[1:], [mode, *outputs], trigger_mode="always_last", **busy)
        changes = [mode.input, beam.input, crops.input]
        changes += [event for box in (lexicon, characters, blocklist) for event in (box.submit, box.blur)]
        gr.on(changes, handlers.again, [shown, found, *settings], outputs, trigger_mode="always_last", **busy)
        for part, chosen in ((picture, handlers.point), (table, handlers.choose)):
            part.select(chosen, [found], closely, trigger_mode="always_last", show_progress="minimal", **device)
        copy.click(None, text, copy, js=COPY).then(None, None, copy, js=COPIED)
    page.queue(max_size=limits.max_waiting, default_concurrency_limit=1)
    return page


def _index(index: Any, length: int) -> int:
    return index if isinstance(index, int) and 0 <= index < length else 0
