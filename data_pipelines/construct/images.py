"""Reading the images of words, as far as they can be used."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2

from data_pipelines.construct.pictures import path_within
from data_pipelines.construct.records import Span, Word, read_words
from data_pipelines.construct.report import IN, OUT
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.sources.archives import read_file


def is_labelled(span: Span) -> bool:
    """Whether the first word of a span has a label, as the others of its list should have then."""
    return next(read_words(span)).text is not None


def read_images(labelled: bool, span: Span, counts: Counter[str]) -> Iterator[tuple[Word, bytes]]:
    """The words of a span whose images can be used, and the bytes of these files; all are counted.

    With ``labelled``, words without a label are left out.
    """
    for word in read_words(span):
        counts[IN] += 1
        image = _read(span.path.parent, word.filename)
        if labelled and word.text is None:
            counts["without a label"] += 1
        elif isinstance(image, str):
            counts[image] += 1
        else:
            counts[OUT] += 1
            yield word, image


def _read(folder: Path, name: str) -> bytes | str:
    """The bytes of an image, or the reason why it cannot be used."""
    try:
        data = read_file(path_within(str(folder), name))
        decode_image(data)
        return data
    except FileNotFoundError:
        return "image not found"
    except (DecodeError, cv2.error, OSError):
        return "image cannot be read"
    except ValueError:
        return "image outside of the folder of the list"
