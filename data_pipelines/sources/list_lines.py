"""What a line of a list of images says where it is plain text: name and label."""

import json
import re
from contextlib import suppress

from data_pipelines.sources.records import IMAGE_ENDINGS

_ENDING = "(?:" + "|".join(map(re.escape, IMAGE_ENDINGS)) + ")"
_IMAGE_NAME = re.compile(rf".*{_ENDING}\Z", re.IGNORECASE | re.DOTALL)
_NAME_AND_LABEL = re.compile(rf"(.*?{_ENDING}) +(.*)\Z", re.IGNORECASE | re.DOTALL)
_MJSYNTH = re.compile(r"(?:.*/)?\d+_([^/_]+)_(\d+)\.jpg\Z")
_DETECTION = re.compile(r'\[\s*\{\s*"transcription"')


def is_image_name(line: str) -> bool:
    """Whether a line is the name of an image and nothing else."""
    return _IMAGE_NAME.match(line) is not None


def is_name_and_label(line: str) -> bool:
    """Whether a line is the name of an image, spaces, and a label."""
    return _NAME_AND_LABEL.match(line) is not None


def split_line(line: str, format: str) -> tuple[str, str]:
    """Name and label of a line in the format "tab", "space" or "names". Raises ``ValueError`` for another line."""
    line = line.removesuffix("\n").removesuffix("\r")
    if format == "names":
        if "\t" in line:
            raise ValueError("has a tab")
        if not is_image_name(line.rstrip()):
            raise ValueError(f"does not end like an image file ({' '.join(IMAGE_ENDINGS)})")
        return line.strip(), ""
    if format == "space":
        found = _NAME_AND_LABEL.match(line)
        if found is None:
            raise ValueError("has no label after the name of an image file")
        # MJSynth's lists say the number of a word in a dictionary, and the names of its images both.
        named = _MJSYNTH.match(found[1])
        return found[1].lstrip(), named[1] if named and named[2] == found[2].rstrip() else found[2]
    name, tab, text = line.partition("\t")
    text = text.lstrip("\t")
    if not tab:
        raise ValueError("has no tab")
    if "\t" in text:
        raise ValueError("has a third column")
    if _DETECTION.match(text):
        raise ValueError("lists the words of a whole picture: cut them out, and list an image for each")
    return name.strip(), text


def names_in(column: str) -> list[str]:
    """The names in the first column of a line: one, or in PaddleOCR's lists several as JSON, which share a label."""
    if column.startswith("[") and column.endswith("]"):
        with suppress(ValueError, RecursionError):
            names = json.loads(column)
            if names and all(isinstance(name, str) for name in names):
                return names
    return [column]
