"""Readings printed to the standard output: tables for people, JSON lines and comma-separated values for programs."""

import csv
import json
import sys
from typing import TYPE_CHECKING, Literal

from maerec_jax.reading.marking import printable
from maerec_jax.reading.reader import Word

if TYPE_CHECKING:
    from maerec_jax.scenes.scene_reader import Scene

Format = Literal["table", "jsonl", "csv"]


class WordPrinter:
    """Prints what was read in images of single words."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._csv = csv.writer(sys.stdout)
        if form == "csv":
            self._csv.writerow(["file", "text", "confidence"])

    def __call__(self, name: str, word: Word) -> None:
        """Print the word of an image."""
        if self._form == "jsonl":
            print(json.dumps({"file": name, **word.described()}, ensure_ascii=False))
        elif self._form == "csv":
            self._csv.writerow([name, word.text, f"{word.confidence:.6f}"])
        else:
            print(f"{word.confidence:6.1%}  {word.text:<24}  {printable(name)}{_others(word)}")


class ScenePrinter:
    """Prints what was read in whole pictures: an object or a paragraph a picture, or a row a word."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._csv = csv.writer(sys.stdout)
        if form == "csv":
            self._csv.writerow(["file", "text", "confidence", "detection_confidence", "polygon"])

    def __call__(self, name: str, scene: "Scene") -> None:
        """Print the words of a picture."""
        if self._form == "jsonl":
            print(json.dumps({"file": name, **scene.described()}, ensure_ascii=False))
        elif self._form == "csv":
            for each in scene.words:
                polygon = " ".join(f"{x:.1f},{y:.1f}" for x, y in each.polygon_N2)
                numbers = f"{each.word.confidence:.6f}", f"{each.detection_confidence:.6f}"
                self._csv.writerow([name, each.word.text, *numbers, polygon])
        else:
            count = f"{len(scene.words)} word{'s' * (len(scene.words) != 1)}" if scene.words else "no words"
            print(f"{printable(name)}  ({scene.width} x {scene.height}, {count})")
            for each in scene.words:
                (left, top), (right, bottom) = each.polygon_N2.min(axis=0), each.polygon_N2.max(axis=0)
                place = f"{right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}"
                print(f"{each.word.confidence:8.1%}  {each.word.text:<24}  {place}{_others(each.word)}")


def _others(word: Word) -> str:
    return "".join(f"  | {other.text}" for other in word.alternatives)
