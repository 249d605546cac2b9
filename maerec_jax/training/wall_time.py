"""Where the wall time of a run goes: what of it was training, and what was lost (goodput)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

PARTS = {
    "starting": "starting",  # data, workdir and state
    "compiling": "compiling",
    "stepping": "stepping",
    "waiting": "waiting for data",
    "validating": "validating",
    "saving": "saving",
    "lost": "lost",  # what runs did after the checkpoint that the next one went on from
    "stopped": "stopped",  # from the last sign of a run to the start of the next
}
"""What a second can be spent on, and how that is told. A second is counted once."""


class WallTime:
    """The seconds of this run, and of all runs in its workdir, by what they were spent on.

    What earlier runs have spent is in the lines of the log, which each of them adds when it starts, with every
    checkpoint, and at its end. So a run that is killed has told all but its last moments, and these are found out by
    the one after it.
    """

    def __init__(self) -> None:
        """This run starts now."""
        self._begun = self._since = time.time()
        self._part = "starting"
        self._run = dict.fromkeys(PARTS, 0.0)
        self._before = dict.fromkeys(PARTS, 0.0)
        self._runs, self._lost_steps = 1, 0

    def add_earlier(self, lines: Sequence[Mapping[str, Any]], start: int) -> None:
        """Take account of the runs before: all lines of their log, in order, and the step that this one starts from."""
        saved = [line for line in lines if line.get("group") == "time" and line["step"] <= start]
        if not saved:
            return
        last, alive = saved[-1], max(line.get("at", 0.0) for line in lines)
        self._before = dict(last["workdir"])
        self._before["lost"] += alive - last["at"]
        self._before["stopped"] += max(0.0, self._begun - alive)  # machines differ in their clocks
        self._runs = last["runs"] + 1
        self._lost_steps = last["lost_steps"] + max(line["step"] for line in lines) - start

    def turn_to(self, part: str) -> None:
        """From now on, time is spent on something else."""
        now = time.time()
        self._run[self._part] += now - self._since
        self._part, self._since = part, now

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Time in the block is spent on something else, which traces show, too."""
        before = self._part
        self.turn_to(part)
        try:
            with jax.profiler.TraceAnnotation(PARTS[part]):
                yield
        finally:
            self.turn_to(before)

    def line(self) -> dict[str, Any]:
        """What is known by now, for the log.

        ``run`` and ``workdir`` have seconds by part, of this run and since the workdir began; ``runs`` is their number,
        ``lost_steps`` how many steps were taken and have to be taken again, and ``at`` the time, in seconds since 1970.
        """
        self.turn_to(self._part)
        whole = {part: self._before[part] + seconds for part, seconds in self._run.items()}
        told = {"run": self._run, "workdir": whole}
        rounded = {name: {part: round(s, 3) for part, s in seconds.items()} for name, seconds in told.items()}
        return {**rounded, "runs": self._runs, "lost_steps": self._lost_steps, "at": round(self._since, 3)}

    def told(self) -> str:
        """The same for people."""
        line = self.line()
        text = f"wall time: {_shares(line['run'])}"
        if self._runs > 1:
            lost = f", {self._lost_steps:,} steps lost" if self._lost_steps else ""
            text += f"; since the workdir began, in {self._runs} runs{lost}: {_shares(line['workdir'])}"
        return text


def _shares(seconds: Mapping[str, float]) -> str:
    whole = sum(seconds.values())
    minutes, rest = divmod(round(whole), 60)
    shares = [f"{PARTS[part]} {value / whole:.1%}" for part, value in seconds.items() if value >= 0.0005 * whole]
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}, of that {', '.join(shares)}"
