"""The parts of the page that show pictures and readings, as HTML. Whatever comes from outside is escaped."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import PurePath
from urllib.parse import quote

import numpy as np
from PIL import Image

from maerec_jax.demo_page.desk import Found, FoundWord
from maerec_jax.demo_page.examples import Example
from maerec_jax.demo_page.style import ICON
from maerec_jax.demo_page.uploads import Limits, fitted
from maerec_jax.reading.pictures import attention_picture, characters_of

_PREVIEW = (1600, 1600)
_PANEL = (240, 120)
_ICON = f'<svg class="glyph" viewBox="0 0 24 24" aria-hidden="true">{ICON}</svg>'


def image_url(pixels: np.ndarray | Image.Image, quality: int = 82) -> str:
    """An image, uint8 RGB, as a URL that holds it: nothing is written to a disk."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def empty_picture(limits: Limits) -> str:
    """The place for a picture, where there is none."""
    return (
        f'<div class="drop" data-pick role="button" tabindex="0" aria-label="Choose a picture">{_ICON}'
        "<strong>Drop a picture here</strong><span>or paste one, or <u>choose a file</u></span>"
        f"<small>JPEG, PNG, WebP, GIF, BMP, TIFF · up to {limits.max_megabytes} MB and {limits.max_megapixels} "
        "megapixels</small></div>"
    )


def picture(found: Found, pixels: np.ndarray) -> str:
    """A picture with the outlines of its words, each of which can be chosen."""
    outlines = "".join(
        f'<polygon data-word="{i}" {_chosen(i)} tabindex="0" role="button" '
        f'aria-label="{escape(word.word.text) or "nothing read"}" '
        f'points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in word.polygon_N2)}"><title>{escape(word.word.text)}</title>'
        "</polygon>"
        for i, word in enumerate(found.words)
        if word.polygon_N2 is not None
    )
    overlay = f'<svg viewBox="0 0 {found.width} {found.height}" preserveAspectRatio="none">{outlines}</svg>'
    shown = image_url(fitted(pixels, *_PREVIEW))
    # Small ones are enlarged, high ones kept within the window.
    ratio = found.width / found.height
    width = min(max(found.width, min(3 * found.width, 420)), 640 * ratio)
    style = f"width:min(100%, {width:.0f}px, {62 * ratio:.2f}vh);aspect-ratio:{ratio:.4f}"
    mat = "mat loose" if found.width < 480 else "mat"
    return (
        f'<figure class="stage"><div class="{mat}"><div class="frame" style="{style}">'
        f'<img src="{shown}" alt="{escape(found.name)}">{overlay if outlines else ""}</div></div>'
        f'<figcaption><span class="name">{escape(found.name)} · {found.width} x {found.height}</span>'
        '<button type="button" class="plain" data-pick>Another picture</button></figcaption></figure>'
    )


def hint(text: str, start: bool = False) -> str:
    """Where there are no results, or none yet."""
    return f'<p class="hint{" start" if start else ""}">{escape(text)}</p>'


def notice(text: str) -> str:
    """Why there are no results."""
    return f'<div class="notice" role="alert"><strong>That did not work</strong><span>{escape(text)}</span></div>'


def results(found: Found) -> str:
    """What was read: the word, or the table of words."""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in found.notes)
    if found.mode == "word":
        return _headline(found.words[0]) + notes
    if not found.words:
        return hint("No words were found in this picture.") + notes
    rows = "".join(_row(i, word) for i, word in enumerate(found.words))
    count = f"{len(found.words)} word{'s' if len(found.words) > 1 else ''}"
    return (
        f'<div class="scroll"><table class="words"><caption>{count}: choose one to look closer</caption>'
        "<thead><tr><th></th><th>Text</th><th>Reading</th><th>Detection</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )


def detail(word: FoundWord, attention_TRC: np.ndarray | None, crop: bool) -> str:
    """A word from close up: its crop, if asked for, its characters with their confidences, and attention maps.

    Args:
      word: the word.
      attention_TRC: float32 (characters, rows, columns); None where nothing was read.
      crop: whether to show headline and crop, too.
    """
    head = (
        f'<div class="closeup"><img src="{image_url(word.crop)}" alt="the crop of this word">{_headline(word)}</div>'
        if crop
        else ""
    )
    others = ""
    if word.word.alternatives:
        rows = "".join(f"<li>{_text(w.text)}<b>{w.confidence:.1%}</b></li>" for w in word.word.alternatives)
        others = f'<h4>Other readings</h4><ol class="others">{rows}</ol>'
    if attention_TRC is None:
        return head + others
    turned = np.rot90(word.crop, word.word.turns)
    characters = characters_of(word.word.text, len(word.word.character_confidences))
    tiles = "".join(
        f'<li><img src="{image_url(attention_picture(turned, map_RC, *_PANEL))}" alt="where the model looked">'
        f'<span class="letter">{"␣" if character == " " else escape(character)}</span>'
        f"{_meter(confidence)}<b>{confidence:.0%}</b></li>"
        for character, confidence, map_RC in zip(
            characters, word.word.character_confidences, attention_TRC, strict=True
        )
    )
    return (
        f'{head}<h4>Characters</h4><ol class="letters">{tiles}</ol>'
        '<p class="small">The bright spot is where the model looked for the character; the percentage is how sure it '
        f"was of it.</p>{others}"
    )


def download(found: Found) -> str:
    """A link to what was read as JSON, which it holds itself."""
    text = quote(json.dumps(found.described, ensure_ascii=False, indent=1))
    name = escape(PurePath(found.name).stem or "words")
    url = f"data:application/json;charset=utf-8,{text}"
    return f'<p class="download"><a class="plain" download="{name}.json" href="{url}">Download as JSON</a></p>'


def gallery(examples: Sequence[Example]) -> str:
    """Small pictures to choose from."""
    return "".join(
        f'<button type="button" data-example="{i}" title="{escape(example.name)}">'
        f'<img src="{image_url(fitted(example.pixels, 240, 96))}" alt="example: {escape(example.name)}"></button>'
        for i, example in enumerate(examples)
    )


def _headline(word: FoundWord) -> str:
    confidence = word.word.confidence
    return (
        f'<div class="headline"><span class="text" translate="no">{_text(word.word.text)}</span>'
        f'<span class="sure">{_meter(confidence)}<b>{confidence:.1%}</b> sure</span></div>'
    )


def _row(number: int, word: FoundWord) -> str:
    detection = "" if word.detection_confidence is None else f"{word.detection_confidence:.0%}"
    return (
        f'<tr data-word="{number}" {_chosen(number)} tabindex="0" role="button">'
        f'<td class="thumb"><img src="{image_url(fitted(word.crop, 160, 64))}" alt=""></td>'
        f'<td class="text" translate="no">{_text(word.word.text)}</td>'
        f"<td>{_meter(word.word.confidence)}<b>{word.word.confidence:.0%}</b></td><td>{detection}</td></tr>"
    )


def _text(text: str) -> str:
    return escape(text).replace(" ", "&nbsp;") or "<i>(nothing)</i>"


def _meter(confidence: float) -> str:
    return f'<span class="meter" style="--p:{confidence:.3f}"><i></i></span>'


def _chosen(number: int) -> str:
    """The first word is chosen at the start."""
    return 'class="chosen"' if number == 0 else 'class=""'
