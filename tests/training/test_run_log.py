"""The log of a run: what it tells where there is no terminal, and where there is no room for it."""

import errno
import os
import threading
from types import SimpleNamespace

import pytest

from data_pipelines.errors import UserError
from maerec_jax.training import run_log
from maerec_jax.training.run_log import RunLog
from maerec_jax.training.wall_time import WallTime


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_a_line_comes_now_and_then_between_those_of_the_log(tmp_path, monkeypatch, capsys, every):
    monkeypatch.setattr(run_log, "TELL_EVERY", every)
    with RunLog(tmp_path, 0, 9, True, WallTime()) as log:
        log.advance(3)
        log.advance(3, validating=True)
    assert capsys.readouterr().err.splitlines() == (["step 3 of 9", "step 3 of 9, validating"] if not every else [])


def test_a_disk_that_is_full_ends_the_run_with_a_line_for_each_file(tmp_path, monkeypatch):
    """TensorBoard's events are written by a thread, which would be waited for when it has ended."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with RunLog(tmp_path, 0, 9, True, WallTime()) as log:
        writer = log._events.file_writer.event_writer
        monkeypatch.setattr(writer._ev_writer, "write_event", fail)
        log.scalars(1, {"loss": 1.0})
        writer._worker.join()
        with pytest.raises(UserError, match=r"tensorboard: cannot be written: make room, and repeat"):
            log.scalars(2, {"loss": 1.0})
        monkeypatch.setattr(writer._worker, "is_alive", lambda: True)
        monkeypatch.setattr(log, "_file", SimpleNamespace(write=fail, close=log._file.close))
        with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written: make room"):
            log.scalars(3, {"loss": 1.0})
