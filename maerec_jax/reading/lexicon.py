"""Lexicons: the words that may be read, one list for all images or one for each, as tries for ``beam_read``."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.charset import Charset, composed
from data_pipelines.errors import UserError
from maerec_jax.models.trie import Trie, build_trie

Words = Iterable[str] | Mapping[str, Iterable[str]]
"""One list of words for all images, or a list for each file name."""

_SHOWN = 3  # words that messages name


@dataclass(frozen=True, repr=False)
class Lexicon:
    """The words that may be read.

    Words that cannot be written, since they have characters outside the charset or are too long, are left out and told.
    """

    trie: Trie  # the tries of all lists, NumPy arrays
    words: Sequence[str]  # the different words of all lists that can be written; ``Trie.word`` counts them
    roots: Mapping[str, int] | None  # of each file's list; None where one list, whose root is 0, is for all files
    source: str  # where the words come from, for messages

    @classmethod
    def read(
        cls,
        path: str | Path,
        charset: Charset,
        longest: int,
        ignore_case: bool = True,
        tell: Callable[[str], Any] = warnings.warn,
    ) -> "Lexicon":
        """Read a lexicon from a file, which is UTF-8; the other arguments are those of ``of``.

        - ``.txt``: a word a line, for all images. Spaces around it are dropped, and empty lines skipped.
        - ``.jsonl``: ``{"file": "1.png", "words": ["one", "two"]}`` a line, the list of each image.

        Raises:
          UserError: where the file cannot be read, or has a list without a word that can be written.
        """
        path = Path(path)
        if path.suffix not in (".txt", ".jsonl"):
            raise UserError(f"{path}: a lexicon must be .txt (a word per line) or .jsonl (the words of each image)")
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: a lexicon must be UTF-8, but byte {error.start} is not") from None
        except OSError as error:
            raise UserError(f"cannot read the lexicon {path}: {error.strerror}") from None
        lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
        how = charset, longest, ignore_case, tell, str(path)
        if path.suffix == ".txt":
            numbers = list(lines)
            return cls.of(lines.values(), *how, lambda _, word: f"{path}:{numbers[word]}")
        lists, places = _lists_of_json(path, lines)
        return cls.of(lists, *how, lambda name, _: places[name])

    @classmethod
    def of(
        cls,
        words: Words,
        charset: Charset,
        longest: int,
        ignore_case: bool = True,
        tell: Callable[[str], Any] = warnings.warn,
        source: str = "the lexicon",
        place: Callable[[str, int], str] = lambda name, word: f"word {word + 1}{f' for {name}' if name else ''}",
    ) -> "Lexicon":
        """A lexicon of words, which are composed (NFC).

        Of those that are the same but for case, where it is ignored, the first is read.

        Args:
          words, charset: the words, and the characters that can be read.
          longest: the most characters of a word. A recogniser was trained with up to ``max_length - 2``; one more can
            be written.
          ignore_case: allow each character in any case on the way; what is read is spelt as in the list.
          tell: called with a line where words are left out, or were in another Unicode form.
          source, place: where the words come from, and where a word of a file's list stands by its number there.

        Raises:
          UserError: where a list has no word that can be written.
        """
        lists = words if isinstance(words, Mapping) else {"": words}
        if any(isinstance(some, str) for some in lists.values()):
            raise TypeError("a lexicon has several words: put a single one into a list")
        lists = {name: list(some) for name, some in lists.items()}
        every = [word for some in lists.values() for word in some]
        if not "".join(every).isascii():
            changed = sum(composed(word) != word for word in every)
            lists = {name: list(map(composed, some)) for name, some in lists.items()}
            every = [word for some in lists.values() for word in some]
            if changed:
                tell(f"{source}: {changed:,} words in decomposed Unicode form (NFD) are taken as composed ones (NFC)")
        if not lists:
            raise UserError(f"{source} has no words")
        folded = str.lower if ignore_case else str
        fold = np.arange(charset.n_classes, dtype=np.int32)
        classes: dict[str, int] = {}  # of each character, where case is ignored in lower case
        for number, character in enumerate(charset.characters):
            fold[number] = classes.setdefault(folded(character), number)
        written = {word: charset.spell(word) for word in every}
        labels = {c: classes[folded(c)] + 1 for c in set("".join(written.values())) if folded(c) in classes}

        def why(word: str, place: str) -> str:
            outside = [repr(c) for c in dict.fromkeys(written[word]) if c not in labels]
            obstacle = f"is longer than {longest} characters" if word else "is empty"
            if outside:
                obstacle = f"has {', '.join(outside[:8])} outside the charset"
            return f"{place}: {word[:80]!r} {obstacle}"

        known = frozenset(labels)
        numbers: dict[str, int] = {}  # of the different words
        entries: list[tuple[int, int]] = []  # numbers of a list and of a word in it
        refused: dict[str, str] = {}  # where each of the other words first stands
        for number, (name, some) in enumerate(lists.items()):
            before = len(entries)
            for index, word in enumerate(some):
                if word in numbers or (0 < len(written[word]) <= longest and known.issuperset(written[word])):
                    entries.append((number, numbers.setdefault(word, len(numbers))))
                elif word not in refused:
                    refused[word] = place(name, index)
            if len(entries) == before:
                of = f" for {name}" if isinstance(words, Mapping) else ""
                if not some:
                    raise UserError(f"{source} has no words{of}")
                first = why(some[0], place(name, 0))
                raise UserError(f"{source}: none of the words{of} can be written; the first, {first}")
        if refused:
            left_out = f"{len(every) - len(entries):,} of {len(every):,} words cannot be written and are left out"
            shown = [why(*each) for each in islice(refused.items(), _SHOWN)] + ["..."] * (len(refused) > _SHOWN)
            tell(f"{source}: {left_out}: {'; '.join(shown)}")
        different, (list_E, word_E) = list(numbers), np.array(entries).T
        spelt = [written[word] for word in different]
        length_U = np.array(list(map(len, spelt)))
        labels_UL = np.zeros((len(different), length_U.max()), np.min_scalar_type(charset.n_classes))
        labels_UL[np.arange(length_U.max()) < length_U[:, None]] = [labels[c] for c in "".join(spelt)]
        trie = build_trie(list_E, word_E, labels_UL, length_U, len(lists), fold)
        roots = {name: root for root, name in enumerate(lists)} if isinstance(words, Mapping) else None
        return cls(trie, different, roots, source)

    def root_of(self, file_name: str) -> int:
        """The root of an image's list, for ``beam_read``.

        Raises:
          UserError: where each file has a list, but not this one.
        """
        if self.roots is None:
            return 0
        if file_name not in self.roots:
            example = next(iter(self.roots))
            which = file_name or "an image without a name"
            raise UserError(f"{self.source} has no words for {which}; its files are named like {example}")
        return self.roots[file_name]

    def word(self, node: int) -> str:
        """The word that ends at a node, as the lexicon spells it: what a hypothesis of ``beam_read`` reads.

        Raises:
          ValueError: where no word ends; check first that the hypothesis exists (its score is not -inf).
        """
        number = int(self.trie.word[node])
        if number < 0:
            raise ValueError(f"no word ends at node {node}")
        return self.words[number]


def _lists_of_json(path: Path, lines: Mapping[int, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The words of each file, and where they stand, from lines by their numbers."""
    lists: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for number, line in lines.items():
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{place} is not JSON") from None
        name, words = (entry.get("file"), entry.get("words")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise UserError(f'{place}: expected {{"file": "1.png", "words": ["one", "two"]}}')
        if name in lists:
            raise UserError(f"{place}: {name} already has a list, at {places[name]}")
        if not words:
            raise UserError(f"{place}: no words for {name}")
        lists[name], places[name] = words, place
    return lists, places
