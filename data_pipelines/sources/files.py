"""Word images in files: where they are (small frozen specs, which the command line fills in) and how they are read.

``spec.open(root)`` looks at the files once, in the main process; sources hold names and labels compactly.
"""

import copy
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from data_pipelines.charset import composed
from data_pipelines.errors import DataError, MissingError, OutsideError, RecordError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.annotations import Format, Listing, place_of, read_annotations
from data_pipelines.sources.archives import file_exists, read_file
from data_pipelines.sources.lmdb_words import LmdbSource
from data_pipelines.sources.records import IMAGE_ENDINGS, Record, Source, SourceSpec

Spec = TypeVar("Spec", bound=SourceSpec)

_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes of a name that are not UTF-8, as Python writes them
_INSPECTED = 16  # records whose files are looked for when an annotation file is opened
_FOLLOW = "set follow_links (--follow-links; in training --data.train.0.follow-links True) to use what is there"


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
    """JSON field or column with the name of the image; default: the only common one (filename, img_path ...)."""
    text_field: str = ""
    """JSON field or column with the label; default: the only common one (text, label ...)."""
    follow_links: bool = False
    """Also read images behind links out of the data root."""

    def open(self, root: Path) -> Source:
        """Read the list. Raises ``DataError`` where it is missing or malformed or has no images."""
        path = _existing(root, self.path, "an annotation file")
        try:
            found = read_annotations(
                path, format=self.format, image_field=self.image_field, text_field=self.text_field, root=root
            )
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give an annotation file") from error
        if not len(found.names):
            raise DataError(f"{path}: holds no records; choose another annotation file")
        source = AnnotatedImages(Path(root), found, self.follow_links)
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
    follow_links: bool = False
    """Also search subfolders that are links, wherever they lead."""

    def open(self, root: Path) -> Source:
        """List the folder. Raises ``DataError`` where it is missing or holds no image."""
        path = _existing(root, self.path, "a folder of images")
        if not path.is_dir():
            raise DataError(f"{path}: is a file; give a folder of images")
        files, links = _files_in(str(path), self.follow_links)
        found = [name for name in files if name.lower().endswith(IMAGE_ENDINGS)]
        nameless = sorted(filter(_UNDECODED.search, found))
        names = sorted(os.path.relpath(name, root) for name in found if not _UNDECODED.search(name))
        notes = []
        if links:
            first = os.fsencode(links[0]).decode(errors="backslashreplace")
            notes.append(f"{len(links):,} subfolders left out that are links, such as {first}: {_FOLLOW}")
        if nameless:
            example = os.fsencode(nameless[0])
            notes.append(f"{len(nameless):,} images left out whose names are not UTF-8: rename them ({example!r})")
        if not names:
            advice = f"give a folder with files ending in {' '.join(IMAGE_ENDINGS)}"
            raise DataError("; ".join((f"{path}: holds no images", *notes, advice)))
        sizes_file = f"{os.path.abspath(path)}.sizes.npz"
        return ImageFolder(Path(root), PackedStrings.pack(names), tuple(notes), len(nameless), sizes_file)


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
            return Record(read_file(str(path)), None)
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


def with_links(spec: Spec, follow_links: bool) -> Spec:
    """A spec that reads behind links, too, if ``follow_links`` and where it is one of files."""
    return replace(spec, follow_links=True) if follow_links and isinstance(spec, Annotations | Folder) else spec


class AnnotatedImages:
    """The source of an ``Annotations``: image files, with labels if the list has any.

    A name in an annotation file may start from the dataset's folder, from ``full_images/`` in it, or from the folder of
    the annotation file; the dataset's folder is the data root or a folder between it and the annotation file. Which of
    these it is is decided once, by looking for some of the files; a file that is not there is looked for in the others.

    A file counts as inside only if it is inside after following links. The starting folders may be links themselves
    (``full_images`` is often on another disk). With ``follow_links`` other links may lead anywhere, too.
    """

    def __init__(self, root: Path, listing: Listing, follow_links: bool = False) -> None:
        self.path = listing.path  # the annotation file
        self.names = listing.names  # of files, as the annotation file gives them
        self.labels = listing.texts  # as the list has them; None where it has none
        self.sizes_file = f"{listing.path}.sizes.npz"  # where the sizes of its images may be kept
        self.notes: tuple[str, ...] = ()  # about images that will not be read
        self._entry, self._first = listing.entry, listing.first
        self._follow_links, self._refused = follow_links, f"refused without follow_links ({listing.path} names it)"
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
        stored = self.stored_text(index)
        return stored and composed(stored)

    def stored_text(self, index: int) -> str | None:
        """The label as the list has it, in any Unicode form."""
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
        """Look for some of the images; note those behind links. Raises ``DataError`` where none of them is there."""
        sample = self._sample()
        if not self._found(self._bases[0]):
            searched, first = ", ".join(self._bases), self.names[0]
            raise DataError(f"{self.path}: its images ({first}, ...) are missing; searched from {searched}")
        paths = [os.path.join(self._bases[0], name) for name in sample]
        refused = [path for path in paths if os.path.exists(path) and not self._may_read(path)]
        if refused:
            number = f"{len(refused)} of {len(sample)} images looked at"
            self.notes = (f"{self.path}: {number} are behind links out of the dataset and not read: {_FOLLOW}",)

    def _sample(self) -> list[str]:
        step = max(1, len(self.names) // _INSPECTED)
        return [self.names[index] for index in range(0, len(self.names), step)][:_INSPECTED]

    def _found(self, base: str) -> int:
        return sum(file_exists(os.path.join(base, name)) for name in self._sample())

    def _may_read(self, path: str) -> bool:
        return self._follow_links or (os.path.realpath(path, strict=True) + os.sep).startswith(self._inside)

    def _read(self, path: str) -> bytes:
        folder = os.path.dirname(path)
        # Following every link of every path costs as much as reading the file: folders are remembered, and a file that
        # is no link itself is inside if its folder is.
        if folder not in self._safe_folders:
            if not self._may_read(folder):
                raise OutsideError(f"{path}: its folder is a link out of the dataset; {self._refused}")
            self._safe_folders.add(folder)
        if os.path.islink(path) and not self._may_read(path):
            raise OutsideError(f"{path}: is a link out of the dataset; {self._refused}")
        return read_file(path)


def _files_in(folder: str, follow_links: bool) -> tuple[list[str], list[str]]:
    """All files in a folder and its subfolders, each of which is entered once; and links to subfolders not entered."""
    files, links, starts, seen = [], list[str](), [folder], set[str]()
    while starts:
        links = []
        for start in starts:
            for parent, folders, names in os.walk(start, onerror=_refuse_folder):
                real = os.path.realpath(parent)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                files += [os.path.join(parent, name) for name in names]
                paths = (os.path.join(parent, name) for name in sorted(folders))
                links += filter(os.path.islink, paths)
        starts = links if follow_links else []
    return files, [link for link in links if os.path.realpath(link) not in seen]


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
    if not name.strip():
        raise DataError(f"a source has no path; give {what}, relative to the data root {root}, which is . itself")
    if "://" in name:
        raise DataError(f"{name}: is an address, which is not fetched: download it, and give {what}")
    path = Path(root) / name
    # Union14M's 1.0 folder goes by two names.
    other = {"mmocr1.0": "mmocr1.0.x", "mmocr1.0.x": "mmocr1.0"}.get(path.parent.name)
    if other and not path.exists() and (sibling := path.parent.parent / other / path.name).exists():
        return sibling
    if not path.exists():
        raise DataError(f"{path}: does not exist; give {what}, relative to the data root {root}")
    return path
