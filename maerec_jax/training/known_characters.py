"""Starting from a recogniser of other characters: what it knows of those that both have is kept."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.charset import Charset


def with_characters(
    params: Any, tables: Mapping[str, int], source: Charset, wanted: Charset
) -> tuple[Any, dict[str, str]]:
    """A recogniser's parameters for the classes of another charset.

    The rows of a character that both have, and of the special classes, stay what they are. One that is
    new starts as a character that looks like it, if there is one: its letter without accents, or in the other case; or
    else as the mean of all.

    Args:
      params: parameters of a recogniser, as NumPy arrays.
      tables: those with a row for each class (``RecogniserConfig.character_tables``).
      source: its charset.
      wanted: the other.

    Returns:
      The parameters, of which other arrays than those of the classes are shared with ``params``; and the new
      characters, each with the one that it starts as, or "".
    """
    new = {c: next(_like(c, source.characters), "") for c in wanted.characters if c not in source.characters}
    origins = [source.characters.find(new.get(c, c) or "\0") for c in wanted.characters]
    special = [source.start_end, source.padding, source.unknown]

    def chosen(table: np.ndarray, axis: int) -> np.ndarray:
        rows = np.moveaxis(table, axis, 0)
        mean = rows[: len(source.characters)].mean(0)
        rows = np.stack([mean if i < 0 else rows[i] for i in origins + special])
        return np.moveaxis(rows, 0, axis).astype(table.dtype)

    flat = flatten_dict(params, sep="/")
    flat |= {path: chosen(flat[path], axis) for path, axis in tables.items()}
    return unflatten_dict(flat, sep="/"), new


def _like(character: str, characters: str) -> Iterator[str]:
    """Those of ``characters`` that look like another, the likest first."""
    letter = unicodedata.normalize("NFD", character)[0]
    for other in (letter, letter.swapcase(), character.swapcase()):
        if len(other) == 1 and other in characters:
            yield other
