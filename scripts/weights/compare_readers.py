"""Compare our recogniser with PP-OCR's: compare_readers.py --data ROOT --sets benchmark words.jsonl"""

import json
import os
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.command import check_outputs, run_command
from data_pipelines.errors import RecordError, UserError
from data_pipelines.images.resizing import Interpolation
from maerec_jax.reading.scoring import METRICS, Scores

CONSOLE = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
Read = Callable[[np.ndarray], str]
"""One image, uint8 RGB (height, width, 3), to its text."""
VERTICAL = 1.5  # PP-OCR turns crops that are at least this much higher than wide by a quarter, against the clock.


@dataclass(frozen=True)
class ReaderArguments:
    """Compare our recogniser with the PP-OCR recogniser in rapidocr on labelled sets.

    Needs: pip install -e '.[compare]'

    Prints accuracies by set, length and case, and the time per word.

    Each reads one word at a time on one core, from the decoded image on; times are processor times.

    PP-OCR gets BGR pixels, and tall crops turned, without rapidocr's own resizing, which distorts small crops.

    Texts are compared in Unicode form NFKC. Every word counts; an image that cannot be decoded is wrong.
    """

    data: str
    """Data root."""
    checkpoint: str = ""
    """Workdir, checkpoint, .safetensors file, or built-in model (docs/weights.md); default: maerec_tiny."""
    sets: tuple[str, ...] = ()
    """Names of sets, or annotation lists and folders relative to the data root, as in maerec_jax.evaluate."""
    overlaps: str = ""
    """List written by data_pipelines.find_overlaps: its words are also counted separately."""
    readers: tuple[Literal["ours", "rapidocr"], ...] = ("ours", "rapidocr")
    """Readers to run."""
    ppocr: tuple[Path, ...] = ()
    """ONNX files of more PP-OCR recognisers, such as PP-OCRv4-mobile in the wheel of rapidocr-onnxruntime 1.4.4."""
    beam: int = 1
    """Beam width of ours; 1 is greedy decoding."""
    views: int = 1
    """Views of each image for ours."""
    interpolation: Interpolation | None = None
    """How ours resizes images; default: as it was trained."""
    json: str = ""
    """Write all figures to this JSON file."""
    misread: str = ""
    """Write every word that some reader got wrong to this .jsonl file."""
    core: int = 0
    """CPU core to run on; -1 for any."""


def open_ours(arguments: ReaderArguments) -> Read:
    """Our recogniser."""
    from maerec_jax.reading.recognizer import ReadingConfig, Recognizer
    from maerec_jax.weights.finding import load_recognizer

    reading = ReadingConfig(beam=arguments.beam, views=arguments.views)
    run, params, _ = load_recognizer(arguments.checkpoint or None)
    run = replace(run, data=replace(run.data, interpolation=arguments.interpolation or run.data.interpolation))
    recognizer = Recognizer(run, params, reading, batch_size=1)
    return lambda pixels: recognizer.read([pixels])[0].text


def open_rapidocr(model: Path | None = None) -> Read:
    """A PP-OCR recogniser, by default the one in the wheel of rapidocr, without detector and classifier of orientation.

    Raises:
      UserError: rapidocr or the file of the model is missing.
    """
    if model is not None and not model.is_file():
        raise UserError(f"no such file: {model}")
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise UserError("rapidocr is missing: pip install -e '.[compare]', or use --readers ours") from None
    one_thread = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    params = one_thread | {"Global.log_level": "error", "Global.text_score": 0.0, "Global.use_preprocess_img": False}
    engine = RapidOCR(params=params | ({"Rec.model_path": str(model)} if model else {}))
    name = model.name if model else f"{engine.cfg.Rec.ocr_version.value} {engine.cfg.Rec.model_type.value}"
    CONSOLE.print(f"rapidocr {version('rapidocr')}: {name}")

    def read(pixels: np.ndarray) -> str:
        if pixels.shape[0] >= VERTICAL * pixels.shape[1]:
            pixels = np.rot90(pixels)
        found: Any = engine(np.ascontiguousarray(pixels[:, :, ::-1]), use_det=False, use_cls=False, use_rec=True)
        return "".join(found.txts or ())

    return read


KINDS: tuple[str, ...] = ("1-3 long", "4-6 long", "7-10 long", "11 and longer", "UPPER", "Title", "lower", "miXed")
KINDS += ("no letters", "several words", "with punctuation", "copy in training", "no copy")


def kinds_of(truth: str) -> Iterator[str]:
    """Those of ``KINDS`` that a text belongs to: by its length, and by what it is made of."""
    n = len(truth)
    yield KINDS[0] if n <= 3 else KINDS[1] if n <= 6 else KINDS[2] if n <= 10 else KINDS[3]
    letters = "".join(c for c in truth if c.isalpha())
    cases = {"no letters": not letters, "UPPER": letters.isupper(), "lower": letters.islower()}
    cases |= {"Title": letters[:1].isupper() and letters[1:].islower(), "miXed": True}
    yield next(case for case, is_so in cases.items() if is_so)
    if any(c.isspace() for c in truth):
        yield "several words"
    if any(not c.isalnum() and not c.isspace() for c in truth):
        yield "with punctuation"


def normal(text: str | None) -> str | None:
    """A text in which full-width punctuation is plain."""
    return None if text is None else unicodedata.normalize("NFKC", text)


@dataclass
class Tally:
    """What one reader has read."""

    sets: dict[str, Scores] = field(default_factory=lambda: defaultdict(Scores))
    kinds: dict[str, Scores] = field(default_factory=lambda: defaultdict(Scores))
    seconds: list[float] = field(default_factory=list)
    """Of processor time, for each word that could be decoded."""

    def add(self, measured: str, reading: str | None, truth: str, more_kinds: tuple[str, ...] = ()) -> None:
        """Count a word of a set, which may belong to more kinds than its text tells."""
        for scores in (self.sets[measured], self.sets["all"]):
            scores.add(reading, truth)
        for kind in (*kinds_of(truth), *more_kinds):
            self.kinds[kind].add(reading, truth)

    def summary(self) -> dict[str, Any]:
        """All figures, for JSON."""
        groups = {"sets": self.sets, "kinds": self.kinds}
        told: dict[str, Any] = {k: {n: s.summary() for n, s in sorted(group.items())} for k, group in groups.items()}
        return told | {"milliseconds_a_word": round(1000 * median(self.seconds), 3) if self.seconds else None}


def stay_on(core: int) -> None:
    """Run on one core, as do all threads of libraries that are imported later. Raises ``UserError``."""
    usable = os.sched_getaffinity(0)
    if core not in usable:
        raise UserError(f"--core {core} is not available; available: {', '.join(map(str, sorted(usable)))}")
    os.sched_setaffinity(0, {core})


def compare(arguments: ReaderArguments) -> int:
    check_outputs(arguments.json, arguments.misread)
    if arguments.core >= 0 and hasattr(os, "sched_setaffinity"):
        stay_on(arguments.core)
    from data_pipelines.images.decoding import DecodeError, pixels_of
    from data_pipelines.overlaps.list_file import read_list
    from maerec_jax.evaluation.sets import find_sets

    root = Path(arguments.data)
    copies = {overlap.benchmark for overlap in read_list(Path(arguments.overlaps))} if arguments.overlaps else set()
    sources = {name: spec.open(root) for name, spec in find_sets(root, arguments.sets, CONSOLE.print).items()}
    places = [(measured, source, index) for measured, source in sources.items() for index in range(len(source))]
    if arguments.overlaps and not any(source.name(index) in copies for _, source, index in places):
        raise UserError(f"{arguments.overlaps} names no word of these sets: write it with find_overlaps --root {root}")
    openers = {"ours": lambda: open_ours(arguments), "rapidocr": open_rapidocr}
    readers: dict[str, Read] = {name: openers[name]() for name in arguments.readers}
    readers |= {model.stem: open_rapidocr(model) for model in arguments.ppocr}
    tallies = {name: Tally() for name in readers}
    misread = []
    for read in readers.values():
        read(np.full((32, 100, 3), 127, np.uint8))  # compiles, and fills caches
    for measured, source, index in places:
        truth, image = normal(source.text(index)) or "", source.name(index)
        try:
            pixels = pixels_of(source[index])
        except (DecodeError, RecordError) as error:
            CONSOLE.print(f"{image}: {error}")
            pixels = None
        kinds = ("copy in training" if image in copies else "no copy",) if arguments.overlaps else ()
        found: dict[str, str | None] = {}
        for name, read in readers.items():
            start = time.process_time()
            found[name] = None if pixels is None else normal(read(pixels))
            if pixels is not None:
                tallies[name].seconds.append(time.process_time() - start)
            tallies[name].add(measured, found[name], truth, kinds)
        if any(text != truth for text in found.values()):
            misread.append({"set": measured, "image": image, "text": truth, **found})
    show(tallies)
    if arguments.json:
        about = {name: getattr(arguments, name) for name in ("checkpoint", "beam", "views", "overlaps")}
        told = about | {name: tally.summary() for name, tally in tallies.items()}
        Path(arguments.json).write_text(json.dumps(told, indent=1) + "\n")
    if arguments.misread:
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in misread]
        Path(arguments.misread).write_text("".join(lines), encoding="utf-8")
    return 0


def show(tallies: dict[str, Tally]) -> None:
    """Print accuracies in percent by set, then by kind, and times."""
    metrics = [name for name in METRICS if name != "edit_similarity"]
    first = next(iter(tallies))
    measured = sorted(tallies[first].sets, key=lambda name: name == "all")  # as they came, and all of them last
    kinds = [kind for kind in KINDS if kind in tallies[first].kinds]
    for title, names in (("sets", measured), ("kinds", kinds)):
        table = Table(title[:-1], "words", "read by", *(METRICS[name] for name in metrics))
        for name in names:
            for reader, tally in tallies.items():
                scores: Scores = getattr(tally, title)[name]
                found = scores.summary()
                cells = [name, f"{scores.words:,}"] if reader == first else ["", ""]
                table.add_row(*cells, reader, *(f"{100 * found[metric]:.1f}" for metric in metrics))
            table.add_section()
        CONSOLE.print(table)
    for name, tally in tallies.items():
        if tally.seconds:
            CONSOLE.print(f"{name}: {1000 * median(tally.seconds):.1f} ms of one core for a word (median)")


if __name__ == "__main__":
    sys.exit(run_command(ReaderArguments, compare, "python scripts/weights/compare_readers.py"))
