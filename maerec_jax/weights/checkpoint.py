"""Checkpoints of a run, and reading the parameters of one: everything that touches Orbax.

Workdirs are folders or places in a bucket (``gs://``). All processes of a run write their parts of a checkpoint; it
counts once all have.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import itemgetter
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from data_pipelines.errors import UserError
from data_pipelines.storage import write_whole
from maerec_jax.config import TrainConfig, differences, read_json, to_json
from maerec_jax.distributed.processes import as_first, meet
from maerec_jax.weights.checkpoint_files import absolute, damage, note_files, set_aside_damaged, written_steps

CONFIG_FILE = "config.json"
FOLDER = "checkpoints"
_ITEM = "state"
_NO_ROOM = "No space left on device|Disk quota exceeded|File too large"  # as C libraries say it
_GIVE_UP_SECONDS = 20  # after which a process that fails waits no longer for the others to save with it


def claim_workdir(config: TrainConfig, write: bool, extend: bool = False) -> list[str]:
    """Make the workdir, or check that what is in it was made by the same config, and write the resolved config.

    Of a run that is there the length may change where the learning rate does not follow it, or with ``extend``.

    Returns a line for what has changed. Raises ``UserError`` listing the fields that differ.
    """
    workdir = epath.Path(config.workdir)
    file = workdir / CONFIG_FILE
    if saved_steps(workdir):
        saved = read_json(file)
        if not saved.data.train:
            raise UserError(
                f"{workdir} holds imported weights, not a run to resume: choose another --workdir, and start from "
                f"them with --init-from {workdir}"
            )
        changed, longer = differences(saved, config), replace(saved, epochs=config.epochs, steps=config.steps)
        told = "; ".join([*changed[:6], *([f"and {len(changed) - 6} more"] if len(changed) > 6 else [])])
        if differences(longer, config):
            raise UserError(
                f"{workdir} holds a checkpoint of another config ({told}): choose another --workdir, or "
                "start from its parameters with --init-from"
            )
        schedule = config.optimizer.schedule
        follows = schedule not in ("constant", "steps")
        if changed and follows and not extend:
            raise UserError(
                f"{workdir} holds a run of another length ({told}), which its learning rate follows "
                f"(optimizer.schedule {schedule}): choose another --workdir, or go on with --extend, by the "
                "schedule of the new length from the next step on"
            )
        if changed and write:
            write_whole(file, to_json(longer))
        if changed:
            return [f"another length: {told}{', which the learning rate follows from here on' if follows else ''}"]
    elif write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(file, to_json(config))
    return []


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of complete checkpoints in a workdir, in order."""
    folder = epath.Path(workdir) / FOLDER
    return [step for step in written_steps(folder) if damage(folder / str(step)) is None]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which is not to ask JAX whether to stop: it counts otherwise than ``StopRequests``."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of a run: saved while training goes on, kept by recency and by validation score.

    All processes of a run make one, and call its methods together.

    Args:
      workdir: the run's folder.
      keep_last: how many of the latest to keep.
      keep_best: how many of those with the best scores to keep.
      message: prints a line.
    """

    def __init__(
        self, workdir: epath.PathLike, keep_last: int, keep_best: int, message: Callable[[str], None] = print
    ) -> None:
        self._folder = absolute(epath.Path(workdir) / FOLDER)
        self._first = jax.process_index() == 0
        meet("all have looked at the checkpoints")
        if self._first:
            set_aside_damaged(self._folder, message)
        meet("damaged checkpoints are set aside")
        score = itemgetter("score")
        latest = preservation_policy.LatestN(n=keep_last)
        best = preservation_policy.BestN(get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
            enable_async_checkpointing=True,
            best_fn=score,  # without it scores are not written
            cleanup_tmp_directories=True,  # of processes that were killed
            async_options=ocp.AsyncOptions(post_finalization_callback=self._note_files),
        )
        self._saving, self._pending = -1, False
        self._manager = _Manager(self._folder, options=options, item_names=(_ITEM,))

    @property
    def latest(self) -> int:
        """The latest step with a complete checkpoint, as the first process sees it; 0 where there is none."""
        return as_first(self._manager.latest_step() or 0)

    def is_scored(self, step: int) -> bool:
        """Whether the checkpoint of a step has a validation score."""
        return bool(as_first(self._first and self._has_score(step)))

    def _has_score(self, step: int) -> bool:
        return step in self._manager.all_steps() and read_score(self._folder / str(step)) is not None

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Begin to save a state; returns when it is copied. A step that is saved already stays as it is.

        But one that has no score gets it, if there is another checkpoint to go on from should this one be interrupted.
        """
        self.wait()  # for the one before, whose files are noted under its number
        steps = self._manager.all_steps()
        keeps = step in steps and (score is None or len(steps) == 1 or self._has_score(step))
        if as_first(keeps):
            return
        if as_first(step in steps):
            self._manager.delete(step)
        self._saving = step
        metrics = None if score is None else {"score": score}
        args = ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(state)})
        with self._writing():
            self._manager.save(step, args=args, metrics=metrics, force=True)
        self._pending = True

    def _note_files(self) -> None:
        """Write down the files of the checkpoint being saved, just before it counts: Orbax calls this."""
        if self._first:
            # In buckets it has its name from the beginning.
            (folder,) = (p for p in self._folder.iterdir() if re.fullmatch(rf"{self._saving}(\..*tmp.*)?", p.name))
            note_files(folder)

    def wait(self) -> None:
        """Wait until what is being saved is on disk. Raises ``UserError`` where there is no room for it."""
        self._pending = False
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raise what has gone wrong with what was being saved, if that has ended meanwhile.

        Of several processes, none asks: it would wait for the others.
        """
        if self._pending and jax.process_count() == 1 and not self._manager.is_saving_in_progress():
            self.wait()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            found = re.search(_NO_ROOM, f"{error} {error.__cause__}")
            if found is None:
                raise
            raise UserError(
                f"{self._folder / str(self._saving)}: cannot be written ({found[0]}): make room, and repeat the "
                "command to resume from the checkpoint before"
            ) from error

    def restore(self, step: int, like: Any) -> Any:
        """Read the state of a step into arrays of the shapes, dtypes and shardings of ``like``."""
        args = ocp.args.Composite(**{_ITEM: ocp.args.StandardRestore(like)})
        return self._manager.restore(step, args=args)[_ITEM]

    def __enter__(self) -> "Checkpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything is on disk. A process that fails does not wait long for the others to do their part."""
        if error is None:
            self.wait()
            self._manager.close()
            return
        if jax.process_count() == 1:
            with suppress(Exception):  # what has happened before is what is told
                self._manager.close()
            return
        thread = threading.Thread(target=self._manager.close, daemon=True)
        thread.start()
        thread.join(_GIVE_UP_SECONDS)


def check_free(workdir: epath.PathLike) -> None:
    """Raises ``UserError`` where a workdir is no place for a new run: a file, or a folder with something in it."""
    path = epath.Path(workdir)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder: choose another, or remove it")


def write_run(config: TrainConfig, params: Any) -> None:
    """Make a workdir that holds parameters and their config, as if a run had been saved before its first step.

    ``load_params`` reads it; training cannot go on in it, since its config names no data. Raises ``UserError`` where
    the workdir is not free.
    """
    assert not config.data.train
    check_free(config.workdir)
    claim_workdir(config, write=True)
    with Checkpoints(config.workdir, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(0, {"params": params})


def read_score(checkpoint: epath.Path) -> float | None:
    """The validation score of a checkpoint, if it has one."""
    file = checkpoint / "metrics" / "metrics"
    return json.loads(file.read_text())["score"] if file.exists() else None


def default_step(scores: Mapping[int, float | None]) -> int:
    """The step that is read with where none is named, by the scores of all: the best, or else the latest."""
    scored = {step: score for step, score in scores.items() if score is not None}
    return max(scored, key=lambda step: (scored[step], step)) if scored else max(scores)


def load_params(path: epath.PathLike) -> tuple[TrainConfig, Any, int]:
    """Read the parameters of a run, wherever it was trained: its moving average where it kept one.

    Args:
      path: a workdir (its best validated checkpoint is taken, or its latest), or one of its ``checkpoints/<step>``.

    Returns:
      The run's config, the parameters as NumPy arrays, and the step.

    Raises:
      UserError: where there is no checkpoint, it is damaged, or has NaN or infinity.
    """
    workdir = epath.Path(path)
    step = None
    if workdir.parent.name == FOLDER and re.fullmatch(r"\d+", workdir.name):
        step, workdir = int(workdir.name), workdir.parent.parent
    if not workdir.is_dir():
        raise UserError(f"no such checkpoint: {path}")
    config, steps, folder = read_json(workdir / CONFIG_FILE), saved_steps(workdir), workdir / FOLDER
    if not steps or (step is not None and step not in steps):
        known = [f"there are {', '.join(map(str, steps))}"] if steps else []
        known += [f"{n} is damaged ({found})" for n in written_steps(folder) if (found := damage(folder / str(n)))]
        raise UserError("; ".join([f"{path}: no complete checkpoint", *known]))
    if step is None:
        step = default_step({n: read_score(folder / str(n)) for n in steps})
    with ocp.CheckpointManager(
        absolute(folder),
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={_ITEM: ocp.PyTreeCheckpointHandler()},
    ) as manager:
        try:
            tree = manager.item_metadata(step)[_ITEM].tree
            wanted = {"ema": tree["ema"]} if tree.get("ema") else {"params": tree["params"]}
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True)
            params = manager.restore(step, args=ocp.args.Composite(**{_ITEM: args}))[_ITEM]
        except Exception as error:  # Orbax and TensorStore raise whatever they meet in damaged files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{workdir}: checkpoint {step} cannot be read, is it damaged? ({reason})") from error
    (params,) = params.values()
    for place, value in jax.tree.leaves_with_path(params):
        if not np.isfinite(value).all():
            name = jax.tree_util.keystr(place, simple=True, separator="/")
            raise UserError(f"{workdir}: checkpoint {step}: {name} has NaN or infinity: use an earlier checkpoint")
    return config, params, step
