"""Pre-train or fine-tune: ``python -m maerec_jax.train --config configs/maerec_s.py [--workdir DIR] [overrides]``."""

import argparse
import atexit
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.command import fail, guarded, keep_compiled_programs

if TYPE_CHECKING:
    from maerec_jax.config import TrainConfig

_USAGE = """ --config FILE [--workdir DIR] [--init-from DIR] [overrides]

Pre-trains a masked autoencoder or fine-tunes a recogniser, as the config says. `--config FILE --help` lists all
fields of the config; each can be overridden, for example --batch-size 64 --optimizer.learning-rate 1e-4.

Repeat a command to resume its run. SIGTERM, or Ctrl-C on a single machine, saves a checkpoint and stops.

  --config FILE             Python file that describes the run
  --workdir DIR             folder for checkpoints and logs; a run in it is resumed (default: runs/NAME_OF_CONFIG)
  --init-from DIR           run or checkpoint with the parameters to start from
  --extend                  go on with a run to other --epochs or --steps, though its learning rate follows its length
  --resume-changed-data     go on with a run though its images or labels have changed

On several machines, run the same command on each. They find each other on TPU pods, under srun (Slurm) or mpirun
(Open MPI), and in indexed Kubernetes jobs. Otherwise, give all three addresses below.

  --cluster NAME            auto (default), tpu, slurm, ompi, k8s; none trains on this machine alone
  --coordinator HOST:PORT   address of process 0
  --num-processes N         number of processes
  --process-id I            index of this process, from 0
"""


def main(arguments: Sequence[str] | None = None, name: str = "python -m maerec_jax.train") -> int:
    """Run the command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    usage = name + _USAGE
    parser = argparse.ArgumentParser(name, usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--extend", action="store_true")
    parser.add_argument("--resume-changed-data", action="store_true")
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--cluster", default="auto", choices=("auto", "none", "tpu", "slurm", "ompi", "k8s"))
    parsed, flags = parser.parse_known_args(arguments)
    if parsed.config is None:
        configs = "\n".join(f"  {p}" for p in sorted(Path("configs").glob("[!_]*.py")))
        print(f"{usage}\nConfigs here:\n{configs or '  (none: run it in the folder of the project, or give your own)'}")
        wants_help = {"-h", "--help"} & set(flags)
        return 0 if wants_help else fail("--config is missing")

    from maerec_jax.distributed.cluster import Cluster, run_together
    from maerec_jax.distributed.host_memory import run_steps_in_this_thread

    run_steps_in_this_thread()

    def run() -> int:
        from maerec_jax.config import config_from_flags

        # Before the others are looked for: a mistake, or --help, has nothing to do with them.
        config = config_from_flags(parsed.config, flags)
        cluster = Cluster(parsed.coordinator, parsed.num_processes, parsed.process_id, parsed.cluster)
        return run_together(cluster, lambda: _train(config, parsed.resume_changed_data, parsed.extend))

    return guarded(run)


def _train(config: "TrainConfig", changed_data: bool, extend: bool) -> int:
    import jax

    from maerec_jax.training.loop import train
    from maerec_jax.training.stopping import Stopped
    from maerec_jax.weights.checkpoint import saved_steps

    def saved() -> str:
        steps = saved_steps(config.workdir)
        return f"step {steps[-1]} is saved in {config.workdir}" if steps else f"no step is saved in {config.workdir}"

    keep_compiled_programs()
    try:
        train(config, changed_data, extend)
    except Stopped as stopped:
        _ignore_sigterm()
        if jax.process_index() == 0:
            print(f"{stopped}; {saved()}", flush=True)
        return stopped.status
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {saved()}; repeat the command to resume") from None
    _ignore_sigterm()
    if jax.process_index() == 0:
        print(f"done: {config.workdir}", flush=True)
    return 0


def _ignore_sigterm() -> None:
    """What schedulers send has no meaning any more: all that is left is to end, which takes a moment."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: None)  # not ignored at once: that would be inherited
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
