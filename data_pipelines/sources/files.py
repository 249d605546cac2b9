"""Word images in files: where they are (small frozen specs, which the command line fills in) and how they are read.

``spec.open(root)`` looks at the files once, in the main process; sources hold names and labels compactly.
"""

import copy
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_pipelines.errors import DataError, MissingError, OutsideError, RecordError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.annotations import Format, Listing, place_of, read_annotations
from data_pipelines.sources.lmdb_words import LmdbSource
from data_pipelines.sources.records import IMAGE_ENDINGS, Record, Source, SourceSpec

_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes of a name that are not UTF-8, as Python writes them
_INSPECTED = 16  # records whose files are looked for when an annotation file is opened


@dataclass(frozen=True)
class Annotations(SourceSpec):
    """Images and labels from an annotation list: MMOCR's JSON as in Union14M-L, other JSON, or plain text."""

    kind: Literal["annotations"] = field(default="annotations", kw_only=True)
    """Kind of source."""
    path: str
    """Annotation list (.jsonl, .json, .tsv, .txt ...), relative to the data root."""
    format: Format = "auto"
    """Format of the list (docs/damaged_data.md); auto detects it by the first line."""
    image_field: str = ""
    """JSON field with the name of the image; default: the only common one (filename, img_path ...)."""
    text_field: str = ""
    """JSON field with the label; default: the only common one (text, label ...)."""

    def open(self, root: Path) -> Source:
        """Read the list. Raises ``DataError`` where it is missing or malformed or has no images."""
        path = _existing(root, self.path, "an annotation file")
        try:
            found = read_annotations(path, format=self.format, image_field=self.image_field, text_field=self.text_field)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give an annotation file") from error
        if not len(found.names):
            raise DataError(f"{path}: holds no records; choose another annotation file")
        source = AnnotatedImages(Path(root), found)
        source.find_images()
        return source


@dataclass(frozen=True)
class LmdbWords(SourceSpec):
    """Images in an LMDB with the keys of Union14M-U, with or without labels."""

    kind: Literal["lmdb"] = field(default="lmdb", kw_only=True)
    """Kind of source."""
    path: str
    """Folder that holds data.mdb, relative to the data root."""
    labelled: bool | None = None
    """Whether to read labels; default: if the first record has one."""

    def open(self, root: Path) -> Source:
        """Read the number of records. Raises ``DataError`` where the LMDB is missing or holds fewer than it says."""
        path = _existing(root, self.path, "a folder with data.mdb")
        if not (path / "data.mdb").is_file():
            raise DataError(f"{path}: is not an LMDB; give the folder that holds data.mdb")
        return LmdbSource.open(path, self.path, self.labelled)


@dataclass(frozen=True)
class Folder(SourceSpec):
    """Images without labels: all image files in a folder and its subfolders, in alphabetical order."""

    kind: Literal["folder"] = field(default="folder", kw_only=True)
    """Kind of source."""
    path: str
    """Folder of images, relative to the data root."""

    def open(self, root: Path) -> Source:
        """List the folder. Raises ``DataError`` where it is missing or holds no image."""
        path = _existing(root, self.path, "a folder of images")
        if not path.is_dir():
            raise DataError(f"{path}: is a file; give a folder of images")
        found = [
            os.path.join(folder, name)
            for folder, _, files in os.walk(path, onerror=_refuse_folder)
            for name in files
            if name.lower().endswith(IMAGE_ENDINGS)
        ]
        nameless = sorted(filter(_UNDECODED.search, found))
        names = sorted(os.path.relpath(name, root) for name in found if not _UNDECODED.search(name))
        if not names:
            raise DataError(f"{path}: holds no images; give a folder with files ending in {' '.join(IMAGE_ENDINGS)}")
        note = f"{len(nameless):,} images left out whose names are not UTF-8: rename them"
        notes = (f"{note} ({os.fsencode(nameless[0])!r})",) if nameless else ()
        sizes_file = f"{os.path.abspath(path)}.sizes.npz"
        return ImageFolder(Path(root), PackedStrings.pack(names), notes, len(nameless), sizes_file)


@dataclass(frozen=True)
class ImageFolder:
    """The source of a ``Folder``: image files without labels."""

    root: Path  # the data root
    names: PackedStrings = field(repr=False)  # paths relative to the data root
    notes: tuple[str, ...] = ()  # what was left out
    left_out: int = 0  # and how many: predict counts them as images that could not be read
    sizes_file: str | None = None  # where the sizes of its images may be kept

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        path = self.root / self.names[index]
        try:
            return Record(path.read_bytes(), None)
        except OSError as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else RecordError
            raise kind(f"{path}: cannot be read ({error.strerror}); was the folder changed?") from error

    def text(self, index: int) -> None:
        """None: a folder has no labels."""

    def name(self, index: int) -> str:
        """The path of file ``index`` relative to the data root."""
        return self.names[index]

    def part(self, start: int, stop: int) -> "ImageFolder":
        """The records from ``start`` up to ``stop``, as a source of their own."""
        return ImageFolder(self.root, self.names.part(start, stop))


class AnnotatedImages:
    """The source of an ``Annotations``: image files, with labels if the list has any.

    A name in an annotation file may start from the dataset's folder, from ``full_images/`` in it, or from the folder of
    the annotation file; the dataset's folder is the data root or a folder between it and the annotation file. Which of
    these it is is decided once, by looking for some of the files; a file that is not there is looked for in the others.

    A file counts as inside only if it is inside after following links. The starting folders may be links themselves
    (``full_images`` is often on another disk).
    """

    def __init__(self, root: Path, listing: Listing) -> None:
        self.path = listing.path  # the annotation file
        self.names = listing.names  # of files, as the annotation file gives them
        self.labels = listing.texts  # None where the list has none
        self.sizes_file = f"{listing.path}.sizes.npz"  # where the sizes of its images may be kept
        self._entry, self._first = listing.entry, 0
        self._root = str(root)
        # That which holds most of some records first.
        self._bases = sorted(_starting_folders(root, listing.path), key=self._found, reverse=True)
        self._inside = tuple(os.path.realpath(base) + os.sep for base in self._bases)
        self._safe_folders: set[str] = set()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        """Raises ``MissingError`` for a missing file, ``OutsideError`` for one outside the dataset."""
        name = self.names[index]
        for base in self._bases:
            try:
                return Record(self._read(os.path.join(base, name)), self.text(index))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise RecordError(f"{os.path.join(base, name)}: cannot be read ({error.strerror})") from error
        place = os.path.join(self._bases[0], name)
        raise MissingError(f"{place}: image not found; {self.path} names it: restore the file or remove its record")

    def text(self, index: int) -> str | None:
        """The label of record ``index``; None where the list has no labels."""
        return None if self.labels is None else self.labels[index]

    def name(self, index: int) -> str:
        """The path of image ``index`` relative to the data root."""
        return os.path.relpath(os.path.join(self._bases[0], self.names[index]), self._root)

    def origin(self, index: int) -> str:
        """The annotation file and the line or entry of record ``index`` in it. Reads the file again."""
        return place_of(self.path, self._entry, self._first + index)

    def part(self, start: int, stop: int) -> "AnnotatedImages":
        """The records from ``start`` up to ``stop``, as a source of their own."""
        part = copy.copy(self)
        part.names = self.names.part(start, stop)
        part.labels = None if self.labels is None else self.labels.part(start, stop)
        part._first = self._first + start
        return part

    def find_images(self) -> None:
        """Look for some of the images. Raises ``DataError`` where none of them is there."""
        if not self._found(self._bases[0]):
            searched, first = ", ".join(self._bases), self.names[0]
            raise DataError(f"{self.path}: its images ({first}, ...) are missing; searched from {searched}")

    def _found(self, base: str) -> int:
        step = max(1, len(self.names) // _INSPECTED)
        sample = [self.names[index] for index in range(0, len(self.names), step)][:_INSPECTED]
        return sum(os.path.exists(os.path.join(base, name)) for name in sample)

    def _read(self, path: str) -> bytes:
        folder = os.path.dirname(path)
        # Following every link of every path costs as much as reading the file: folders are remembered, and a file that
        # is no link itself is inside if its folder is.
        if folder not in self._safe_folders:
            if not (os.path.realpath(folder, strict=True) + os.sep).startswith(self._inside):
                raise OutsideError(f"{path}: its folder is a link out of the dataset; refused ({self.path} names it)")
            self._safe_folders.add(folder)
        if os.path.islink(path) and not os.path.realpath(path).startswith(self._inside):
            raise OutsideError(f"{path}: is a link out of the dataset; refused ({self.path} names it)")
        with open(path, "rb") as file:
            return file.read()


def _starting_folders(root: Path, path: Path) -> list[str]:
    folder, root = path.parent.absolute(), root.absolute()
    between = [parent for parent in (folder, *folder.parents) if parent.is_relative_to(root)] or [folder, root]
    # From the root inwards: the same name then means the same file whatever annotation file names it.
    candidates = [base / sub for base in reversed(between) for sub in ("", "full_images")]
    return [str(candidate) for candidate in candidates if candidate.is_dir()]


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable or move it away") from error


def _existing(root: Path, name: str, what: str) -> Path:
    """The path ``name`` under the data root. Raises ``DataError`` where it is not there."""
    path = Path(root) / name
    # Union14M's 1.0 folder goes by two names.
    other = {"mmocr1.0": "mmocr1.0.x", "mmocr1.0.x": "mmocr1.0"}.get(path.parent.name)
    if other and not path.exists() and (sibling := path.parent.parent / other / path.name).exists():
        return sibling
    if not path.exists():
        raise DataError(f"{path}: does not exist; give {what}, relative to the data root {root}")
    return path
