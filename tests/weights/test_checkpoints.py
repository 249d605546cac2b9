"""Which checkpoints there are: what is being written is neither read nor gone on from, and the command tells of it."""

import shutil

import pytest

from data_pipelines.errors import UserError
from maerec_jax import checkpoints
from maerec_jax.weights.checkpoint import load_params, saved_steps
from tests.training.conftest import unbroken  # noqa: F401


@pytest.fixture
def workdir(unbroken, tmp_path):  # noqa: F811
    """A run with three checkpoints: one that was cut, one that is whole, and one that is being written."""
    shutil.copytree(unbroken, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    first, last = saved_steps(unbroken)[-2:]
    (folder / str(first) / "state" / "manifest.ocdbt").unlink()
    shutil.copytree(folder / str(last), folder / "20.orbax-checkpoint-tmp-1")
    assert (first, last) == (8, 12)
    return tmp_path / "run"


def test_what_is_being_written_is_not_read(workdir):
    assert saved_steps(workdir) == [12]
    assert load_params(workdir)[2] == 12
    with pytest.raises(UserError, match=r"no complete checkpoint; there are 12; 8 is damaged"):
        load_params(workdir / "checkpoints" / "20")


def test_the_command_tells_what_each_can_be_used_for(workdir, capsys):
    assert checkpoints.main([str(workdir)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["step", "score", "MiB", "for"]
    assert [line.split()[0] for line in lines] == ["8", "12", "20"]
    assert lines[0].endswith("  nothing: damaged (state/manifest.ocdbt is missing)")
    assert lines[1].endswith("  read, evaluate, export, --init-from; train goes on from it")
    assert lines[2].endswith("  nothing: being written, or left by a process that was killed")


def test_a_folder_that_is_no_workdir_is_refused(tmp_path, capsys):
    assert checkpoints.main([str(tmp_path)]) == 1
    assert "is not the workdir of a run" in capsys.readouterr().err
