"""What processes leave in shared memory: nothing, and what killed ones have left is removed by the next."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import shared_memory
from data_pipelines.errors import DataError
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.pipeline import evaluation_batches
from data_pipelines.rendering import RenderedWords
from data_pipelines.shared_memory import Parcel, parcel_folders, remove_leftovers
from tests.conftest import REPOSITORY

BATCH = {
    "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "valid": np.array([True, False]),
    "index": np.array([3, -1]),
    "none": np.zeros((0, 2), np.int32),
}


def left(name):
    """All that the process of a name has in shared memory and among the temporary files."""
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return {path for place in places if place.is_dir() for path in place.glob(f"*{name}*")}


def assert_unpacked(parcel, folder):
    assert Path(parcel.path).parent == folder
    for name, array in parcel.unpack().items():
        np.testing.assert_array_equal(array, BATCH[name])
        assert array.dtype == BATCH[name].dtype
    assert not list(folder.iterdir())


def test_a_batch_comes_out_as_it_went_in_and_leaves_no_file(tmp_path):
    assert_unpacked(Parcel.pack(BATCH, [str(tmp_path)]), tmp_path)


@pytest.mark.parametrize("free", [40, 60])
def test_half_of_a_folder_is_left_to_others(tmp_path, monkeypatch, free):
    first, last = tmp_path / "first", tmp_path / "last"
    for folder in (first, last):
        folder.mkdir()
    room = os.statvfs_result((1, 1, 100, free, free, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    assert_unpacked(Parcel.pack(BATCH, [str(first), str(last)]), first if free > 50 else last)


def test_a_folder_that_is_full_after_all_is_passed_over(tmp_path):
    assert_unpacked(Parcel.pack(BATCH, ["/proc", str(tmp_path)]), tmp_path)
    with pytest.raises(OSError, match="/proc"):
        Parcel.pack(BATCH, ["/proc"])


KILLED = """
import time
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.pipeline import train_batches
from data_pipelines.rendering import RenderedWords
from data_pipelines.shared_memory import _own_name
from data_pipelines.sources.combining import Sources
if __name__ == "__main__":
    sources = Sources([RenderedWords(size=9).open()])
    batches = train_batches(sources, BatchDecoder(), batch_size=2, seed=0, num_workers=1)
    next(batches)
    print(_own_name(), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory is not in /dev/shm")
def test_what_killed_processes_leave_is_removed_by_the_next_and_what_living_ones_have_is_not(tmp_path):
    mine = {Path(folder) for folder in parcel_folders()}
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, tmp_path / "killed.py"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
    ) as process:
        name = process.stdout.readline().strip()
        his = left(name)
        remove_leftovers()
        assert his <= left(name)
        os.killpg(process.pid, signal.SIGKILL)
    # Its semaphores, the folders of its batches, and its lock.
    assert len([path for path in his if path.name.startswith("sem.")]) > 5
    assert any(path.is_dir() and path.parent == Path("/dev/shm") for path in his)
    remove_leftovers()
    assert not left(name)
    assert all(folder.is_dir() for folder in mine)
    for folder in mine:
        folder.rmdir()


ENDED = """
import gc
from glob import glob
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.pipeline import evaluation_batches
from data_pipelines.rendering import RenderedWords
from data_pipelines.shared_memory import _own_name, parcel_folders
if __name__ == "__main__":
    gc.disable()
    parcel_folders()  # which nobody removes
    with evaluation_batches(RenderedWords(size=9).open(), BatchDecoder(), batch_size=2, num_workers=1) as batches:
        count = sum(1 for _ in batches)
    print(count, len(glob(f"/dev/shm/sem.{_own_name()}-*")), _own_name())
"""


def test_nothing_is_left_and_nothing_told_at_the_end(tmp_path):
    """Closed batches leave no semaphores for a later collection, which may come while others are made."""
    (tmp_path / "ended.py").write_text(ENDED)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, tmp_path / "ended.py"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    batches, semaphores, name = told.stdout.split()
    assert (batches, semaphores, told.stderr) == ("5", "0", "")
    assert not left(name)


def test_no_room_for_semaphores_is_told_with_the_place_and_what_to_do(monkeypatch):
    batches = evaluation_batches(RenderedWords(size=3).open(), BatchDecoder(), batch_size=2)

    class Full:
        def __next__(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    batches._iterator[0] = Full()
    with pytest.raises(DataError, match=r"/dev/shm.* is full.*--shm-size"):
        next(batches)


def test_a_worker_that_met_the_end_of_a_mapped_file_names_shared_memory(monkeypatch):
    batches = evaluation_batches(RenderedWords(size=3).open(), BatchDecoder(), batch_size=2)

    class Killed:
        def __next__(self):
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search the logs above")

        def close(self):
            pass

    batches._iterator[0] = Killed()
    with pytest.raises(DataError, match=r"exit code -7: a file was cut .*, or /dev/shm"):
        next(batches)
    assert shared_memory.full_shared_memory().startswith("/dev/shm")
