"""Memory of steps on CPUs is used again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
if {keep}:
    run_steps_in_this_thread()
    assert keep_freed_memory()
import jax
import jax.numpy as jnp

x = jnp.ones((6000, 32))
step = jax.jit(lambda x: (x @ x.T) @ x)  # a temporary of 137 MiB
for _ in range(3):
    step(x).block_until_ready()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(7):
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(sorted(after - before for before, after in zip(faults, faults[1:]))[3])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is kept: run it on Linux with glibc")
def test_steps_get_the_memory_of_those_before():
    """Pages that a program is handed anew for its temporaries: tens of thousands at each step, or only now and then."""
    faults = {}
    for keep in (False, True):
        command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        faults[keep] = int(run.stdout)
    # Of seven steps the middle one: where another thread has taken a piece, or the system a page, some need new ones.
    assert faults[False] > 10_000
    assert faults[True] < faults[False] / 4
