"""What the commands share: parsing their arguments, and one clear line for each mistake of the user."""

import errno
import gc
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import TypeVar

import tyro
from absl import logging

from data_pipelines.errors import DataError, UserError

Arguments = TypeVar("Arguments")

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "maerec_jax"
"""Where commands keep what can be made again."""


def fail(message: str) -> int:
    """Print an error; returns the exit status."""
    print(f"error: {message}", file=sys.stderr)
    return 1


def tell(text: str) -> None:
    """Print a line for people, at once and not among the results."""
    print(text, file=sys.stderr, flush=True)


def guarded(run: Callable[[], int], place: Callable[[], str] = lambda: "") -> int:
    """Run a command; mistakes that the user can mend, and files that cannot be used, become one line and status 1.

    ``place`` says what such a line begins with.
    """
    # Loading JAX makes a million objects that stay: by default Python looks for garbage among them a hundred times.
    gc.set_threshold(100_000, 20, 100)
    _leave_out_tpus()
    logging.set_verbosity(logging.FATAL)  # Orbax tells of every step that it takes, and of errors that it raises, too
    # And it leaves errors of many reads behind where one was enough, some of which find that nobody waits for them.
    # Google's clients tell of every try.
    for name in ("asyncio", "gcsfs", "google.auth"):
        getLogger(name).setLevel("CRITICAL")
    hook = sys.unraisablehook
    sys.unraisablehook = lambda late: None if str(late.exc_value) == "Event loop is closed" else hook(late)
    # Where there is no room, whoever waits for a thread that writes is told of it.
    thread_hook = threading.excepthook
    threading.excepthook = lambda late: None if _is_for_want_of_room(late.exc_value) else thread_hook(late)
    try:
        status = run()
        if sys.stdout is not None:  # which it is where a shell closed it
            sys.stdout.flush()
        return status
    except (UserError, DataError) as error:
        return fail(f"{place()}{error}")
    except BrokenPipeError:  # of "| head"; what Python would still write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return fail(f"{place()}{str(stop) or 'interrupted'}")
    except Exception as error:
        if isinstance(error, ImportError) and "gcsfs" in str(error):  # fsspec's, which names what it lacks
            return fail(f"{place()}buckets need gcsfs: pip install -e '.[gcs]' in the project's folder")
        if _is_of_a_bucket(error):
            told = f"a bucket cannot be used ({error or type(error).__name__}): check its name, rights and the network"
            return fail(f"{place()}{told}")
        if not isinstance(error, OSError):
            raise
        if error.filename is None and not _is_for_want_of_room(error):
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        return fail(f"{place()}{where}{error.strerror}")


def _leave_out_tpus() -> None:
    """Let JAX not look for TPUs where their library is installed, as for ``compile-ahead``, and no chip is there.

    The library would write of it, as if something were wrong.
    """
    chips = (*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*"))
    others = importlib.util.find_spec("jax_plugins")  # for GPUs: which of them there are, JAX finds out
    if chips or others or "JAX_PLATFORMS" in os.environ or not importlib.util.find_spec("libtpu"):
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_platforms", "cpu")


def _is_for_want_of_room(error: BaseException | None) -> bool:
    """Whether a file could not be written because its disk is full, or broken."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _is_of_a_bucket(error: Exception) -> bool:
    """Whether an error comes from the clients of buckets: theirs, or one of the system's without its number."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return error.errno is None and "gcsfs" in sys.modules
    return type(error).__module__.startswith(("aiohttp.", "gcsfs.", "google.", "requests."))


def run_command(
    kind: type[Arguments], run: Callable[[Arguments], int], name: str, arguments: Sequence[str] | None = None
) -> int:
    """Parse a dataclass of arguments and run a command with it; returns its exit status."""
    return guarded(lambda: run(tyro.cli(kind, args=arguments, prog=name)))


def main_of(kind: type[Arguments], run: Callable[[Arguments], int], module: str) -> Callable[..., int]:
    """The function ``main`` of a command: ``main(arguments, name)`` takes what ``run_command`` does, by default the
    arguments of the process and the name that Python runs the module by."""

    def main(arguments: Sequence[str] | None = None, name: str = f"python -m {module}") -> int:
        return run_command(kind, run, name, arguments)

    return main


def check_outputs(*paths: str) -> None:
    """See to it that files can be written at the end of a command's work, before it begins; "" is none.

    Raises:
      UserError: for a path that cannot be written, and for two that are the same.
    """
    from data_pipelines.storage import is_bucket

    for name in filter(is_bucket, paths):
        raise UserError(f"{name}: cannot be written to a bucket: give a local path, and copy the file")
    wanted = [Path(name) for name in paths if name]
    for path in wanted:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
            if path.exists():
                path.open("ab").close()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    if len({path.resolve() for path in wanted}) < len(wanted):
        raise UserError(f"two outputs have the same name: {', '.join(map(str, wanted))}")


def keep_compiled_programs() -> None:
    """Keep what JAX compiles on disk, so that the next start of a command finds it; for commands that run models.

    In ``~/.cache/maerec_jax/compiled``, or where ``JAX_COMPILATION_CACHE_DIR`` says; with
    ``JAX_ENABLE_COMPILATION_CACHE=false`` nothing is kept.
    """
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        # Others would be told the folder, which then is a part of the keys: a copy would be of no use.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
