"""Settings and fixtures for all tests."""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing import forkserver
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Runs that are stopped and started again compile the same programs each time: once is enough. Commands that tests start
# inherit this.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Most of the time of most tests is the compiler's: programs that are half as fast come sooner, and twice as soon with
# XLA's older way to make loops of fused operations, where that is still there: a flag that XLA does not know ends it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads that compute little together wait for each other, busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Loading the libraries, and tracing, make a million objects that stay: not to be looked through for garbage each time.
gc.disable()
FIXTURES = Path(__file__).resolve().parent / "fixtures"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file are for one worker, so that what they share is made and compiled once."""
    # What takes longest comes first: at the end no worker waits for another.
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/training/", "tests/evaluation/")))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """All has been imported."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_forks_are_left() -> Iterator[None]:
    """What forks processes for tests (tests/training/processes.py) ends with them."""
    yield
    forkserver._forkserver._stop()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference numbers."""
    return FIXTURES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds Union14M-L and Union14M-U; tests that need it are skipped where it is missing."""
    root = REPOSITORY.parent / "shared" / "data"
    if not (root / "Union14M-L").is_dir() or not (root / "Union14M-U").is_dir():
        pytest.skip(f"real words are not at ../shared/data: {root} holds no Union14M-L and Union14M-U")
    return root
