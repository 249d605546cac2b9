"""Recognisers kept on disk as compiled programs: the next process reads without importing or tracing a model.

A folder of ``folder_for`` has what ``Handling`` needs, the weights as the programs take them, and a program for each
shape of a batch. They are native code of the user's own, as the programs are that JAX keeps.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from data_pipelines.charset import Charset
from data_pipelines.images.resizing import KeepRatio
from data_pipelines.storage import checksum, is_bucket
from maerec_jax.reading.handling import Handling
from maerec_jax.reading.settings import ReadingConfig

Batch = Mapping[str, np.ndarray]
Step = Callable[[Sequence[jax.Array], Mapping[str, jax.Array]], dict[str, jax.Array]]
"""A greedy ``Reader.step`` of a list of weights."""

_MOST = 8  # recognisers that are kept
_ALIGNMENT = 64  # bytes: arrays that begin so are used where the file is mapped, without a copy
_OUTPUTS = {"tokens_BKT": 0, "probability_BKT": 0}
_CHARSET, _KEEP_RATIO = "charset", "keep_ratio"
# What decides about a program beside what it computes.
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_disable_most_optimizations")


def folder_for(weights: Path, reading: ReadingConfig) -> Path | None:
    """Where is kept what reads with a file of weights on this machine; None for what is not kept.

    That is greedy reading on one CPU, unless ``JAX_ENABLE_COMPILATION_CACHE`` is false. The name is a checksum of all
    that programs depend on. Where the folder lies is no part of it, so that it can be copied.
    """
    cache = jax.config.values["jax_compilation_cache_dir"]
    if not cache or is_bucket(cache) or not jax.config.values["jax_enable_compilation_cache"] or not weights.is_file():
        return None
    if reading.beam > 1 or reading.lexicon or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return None
    programs_of = replace(reading, characters="", blocklist="")  # lists of characters are arguments of a program
    about = [checksum(weights), repr(programs_of), jax.__version__, version("jaxlib"), platform.machine(), _processor()]
    about += [os.environ.get("XLA_FLAGS", ""), *(str(jax.config.values[name]) for name in _SETTINGS)]
    package = Path(__file__).parents[1]
    sources = sorted(file for room in ("models", "reading", "weights") for file in (package / room).rglob("*.py"))
    digest = hashlib.sha256("\0".join(about).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return Path(cache) / "readers" / digest.hexdigest()[:32]


def _processor() -> str:
    """What the processor can do, as Linux tells it: code for another one may not run here."""
    with suppress(OSError):
        return next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith(("flags", "Feat"))), "")
    return platform.processor()


@contextmanager
def _without_cache() -> Iterator[None]:
    """Compile here and now: a program that JAX has taken from its own cache lacks parts when it is written again."""
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # which remembers whether it is used
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        reset_cache()


class Kept:
    """A recogniser in a folder of ``folder_for``: ``open`` one, or ``write`` a new one."""

    def __init__(self, folder: Path, handling: Handling, leaves: Sequence[jax.Array]) -> None:
        self.handling = handling
        self._folder, self._leaves = folder, leaves
        self._programs: dict[tuple[int, ...], Callable[..., dict[str, jax.Array]]] = {}

    @classmethod
    def open(cls, folder: Path, reading: ReadingConfig) -> "Kept | None":
        """What is kept in a folder; None where nothing is, or nothing that can be used."""
        try:
            about = json.loads((folder / "about.json").read_text("utf-8"))
            mapped = np.memmap(folder / "weights", np.uint8, "r")
            leaves = []
            for dtype, shape, start in about.pop("arrays"):
                size = math.prod(shape) * np.dtype(dtype).itemsize
                leaves.append(mapped[start : start + size].view(dtype).reshape(shape))
            about |= {_CHARSET: Charset(**about[_CHARSET]), "shapes": tuple(map(tuple, about["shapes"]))}
            about[_KEEP_RATIO] = about[_KEEP_RATIO] and KeepRatio(**about[_KEEP_RATIO])
            handling = Handling(**about, reading=reading)
            os.utime(folder)  # used now
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return cls(folder, handling, jax.device_put(leaves))

    @classmethod
    def write(cls, folder: Path, handling: Handling, leaves: Sequence[jax.Array]) -> "Kept":
        """Keep a recogniser, and leave the ``_MOST`` that were used last."""
        about = asdict(handling)
        del about["reading"], about["lexicon"]
        arrays, start = [], 0
        for leaf in leaves:
            arrays.append((str(leaf.dtype), leaf.shape, start))
            start += -(-leaf.nbytes // _ALIGNMENT) * _ALIGNMENT
        with suppress(OSError):  # without room for it, reading goes on
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                fresh = Path(scratch) / "reader"
                fresh.mkdir()
                with (fresh / "weights").open("wb") as file:
                    for leaf in leaves:
                        file.write(np.asarray(leaf).tobytes().ljust(-(-leaf.nbytes // _ALIGNMENT) * _ALIGNMENT, b"\0"))
                (fresh / "about.json").write_text(json.dumps(about | {"arrays": arrays}), "utf-8")
                shutil.rmtree(folder, ignore_errors=True)  # what could not be opened
                fresh.rename(folder)
            for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_MOST]:
                shutil.rmtree(old)
        return cls(folder, handling, leaves)

    def read(self, batch: Batch, step: Callable[[], Step]) -> dict[str, jax.Array]:
        """Read a batch by a program that was kept, or else by one that is compiled of what ``step`` returns, and kept.

        Returns what ``Reader.step`` does.
        """
        shape = batch["image"].shape
        if shape not in self._programs:
            self._programs[shape] = self._kept_program(batch) or self._compile(batch, step())
        return self._programs[shape](self._leaves, batch)

    def _file(self, batch: Batch) -> Path:
        return self._folder / f"program-{'x'.join(map(str, batch['image'].shape))}"

    def _kept_program(self, batch: Batch) -> Callable[..., dict[str, jax.Array]] | None:
        inputs, outputs = jax.tree.structure(((self._leaves, batch), {})), jax.tree.structure(_OUTPUTS)
        try:
            return deserialize_and_load(self._file(batch).read_bytes(), inputs, outputs)
        except Exception:  # there is none, or it is damaged in whatever way: it is compiled anew
            return None

    def _compile(self, batch: Batch, step: Step) -> Callable[..., dict[str, jax.Array]]:
        with _without_cache():
            program = jax.jit(step).lower(self._leaves, batch).compile()
        # Programs that hold constants beside the weights cannot be kept.
        with suppress(OSError, NotImplementedError, ValueError):
            written = serialize(program)[0]
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                fresh = Path(scratch) / "program"
                fresh.write_bytes(written)
                fresh.replace(self._file(batch))
        return program
