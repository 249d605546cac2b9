"""Preparing that is stopped, killed or begun twice: nothing else comes out, and nothing is done twice."""

import subprocess
import sys

import pytest

from data_pipelines.errors import DataError
from data_pipelines.prepare import LEFT_OUT
from data_pipelines.prepared import Records, shards
from tests.data_pipelines.killing import kill_9
from tests.data_pipelines.preparing import LINES, SET, run, told, tree


def test_wherever_it_stops_it_goes_on_from_there(dataset, monkeypatch):
    """An end before or after any file appears, then the same command: nothing else comes out, nothing is done twice."""
    flags = ("--sources", LINES, "--shard-records", 5)
    assert run(dataset, *flags, "--out", dataset / "whole") == 0
    whole, publish, write = tree(dataset / "whole"), shards.publish, shards.write_shard

    class Killed(BaseException):
        pass

    from data_pipelines.prepared import conversion

    files = 1 + 3 * 3 + 5 + 2
    for stop in range(2 * files):
        out, calls, written = dataset / f"out{stop}", [], []

        def interrupted(file, place, calls=calls, stop=stop):
            calls.append(place)
            if 2 * (len(calls) - 1) == stop:
                raise Killed
            publish(file, place)
            if 2 * (len(calls) - 1) + 1 == stop:
                raise Killed

        def counted(plan, folder, number, *records, written=written):
            written.append(number)
            return write(plan, folder, number, *records)

        monkeypatch.setattr(shards, "publish", interrupted)
        monkeypatch.setattr(conversion, "publish", interrupted)
        with pytest.raises(Killed):
            run(dataset, *flags, "--out", out)
        reported = (
            len(list((out / SET / ".unfinished").glob("*.json"))) - (out / SET / ".unfinished/plan.json").exists()
        )
        (out / SET / ".unfinished/writing-left").mkdir()
        (out / SET / ".unfinished/writing-left/00001.shard").write_text("half")
        monkeypatch.setattr(shards, "publish", publish)
        monkeypatch.setattr(conversion, "publish", publish)
        monkeypatch.setattr(conversion, "write_shard", counted)
        finished = (out / SET / "records.json").exists()
        assert run(dataset, *flags, "--out", out) == 0
        monkeypatch.setattr(conversion, "write_shard", write)
        assert written == ([] if finished else list(range(reported, 3)))
        assert tree(out) == whole
    assert finished


def test_kill_9_costs_no_finished_shard(dataset):
    """The processes are killed while they write; the same command then leaves alone what was finished."""
    lines = (dataset / LINES).read_text()
    (dataset / LINES).write_text(lines * 100)
    command = [
        sys.executable,
        "-m",
        "data_pipelines.prepare",
        str(dataset),
        "--sources",
        LINES,
        "--shard-records",
        "20",
    ]

    folder = dataset / "out" / SET
    reports = folder / ".unfinished"
    started = [*command, "--workers", "2", "--out", str(dataset / "out")]
    finished = kill_9(started, reports, "0*.json", lambda: _stats(folder))
    numbers = {path.stem for path in reports.glob("0*.json")}
    assert 3 <= len(numbers) < 60
    assert not (folder / "records.json").exists()
    with pytest.raises(DataError, match="is not finished; repeat the command"):
        Records(f"out/{SET}").open(dataset)
    assert run(dataset, "--sources", LINES, "--shard-records", 20) == 0
    after = _stats(folder)
    kept = [name for name in after if name.split("-")[-3:][0] in numbers]
    assert len(kept) == len(numbers)
    assert all(after[name] == finished[name] for name in kept)
    assert not reports.exists()
    assert run(dataset, "--sources", LINES, "--shard-records", 20, "--out", dataset / "whole") == 0
    assert tree(dataset / "out") == tree(dataset / "whole")


def _stats(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.stat().st_size) for p in folder.glob("*array_record*")}


def test_other_options_or_another_source_are_refused(dataset, capsys):
    flags = ("--sources", LINES, "--shard-records", 5)
    broken = dataset / "set/full_images/made/03.jpg"
    sound = broken.read_bytes()
    broken.write_bytes(b"")
    assert run(dataset, *flags, "--max-invalid", 0) == 1
    error = told(capsys)
    assert "1 of 12 records cannot be used, and --max-invalid is 0" in error
    assert "made/03.jpg: the file is empty" in error
    for _ in range(2):  # while it is unfinished, and when it is finished
        assert run(dataset, "--sources", LINES, "--shard-records", 4) == 1
        assert "was started with other settings (shard_records: 5, now 4)" in told(capsys)
        lines = (dataset / LINES).read_text()
        (dataset / LINES).write_text(lines.replace("Green", "Grean"))
        assert run(dataset, *flags) == 1
        assert "(the source has changed): give another --out or delete it" in told(capsys)
        (dataset / LINES).write_text(lines + lines.splitlines()[0])
        assert run(dataset, *flags) == 1
        assert "(source_records: 12, now 13)" in told(capsys)
        (dataset / LINES).write_text(lines)
        assert run(dataset, *flags) == LEFT_OUT
    broken.write_bytes(sound)
    assert run(dataset, *flags) == 1
    assert "the source has changed" in told(capsys)


def test_two_at_once_do_not_mix(dataset):
    import fcntl

    folder = dataset / f"out/{SET}/.unfinished"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(dataset, "--sources", LINES) == 1
    assert run(dataset, "--sources", LINES) == 0


def test_a_full_disk_is_one_line(dataset):
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000));"
        "from data_pipelines.prepare import *; from data_pipelines.command import run_command;"
        "sys.exit(run_command(PrepareArguments, prepare, 'prepare', sys.argv[1:]))"
    )
    flags = [str(dataset), "--out", str(dataset / "out"), "--sources", LINES, "--workers", "0"]
    done = subprocess.run([sys.executable, "-c", script, *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "cannot be written" in done.stderr or "too large" in done.stderr
