"""Pre-train or fine-tune: ``python -m maerec_jax.train --config configs/maerec_s.py [--workdir DIR] [overrides]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.command import fail, guarded, keep_compiled_programs

if TYPE_CHECKING:
    from maerec_jax.config import TrainConfig

_USAGE = """python -m maerec_jax.train --config FILE [--workdir DIR] [--init-from DIR] [overrides]

Runs the stage that the config describes: a masked autoencoder is pre-trained, a recogniser fine-tuned. A workdir that
holds a checkpoint is resumed. Every field of the config can be overridden: `--config FILE --help` lists them.

SIGTERM, and Ctrl-C on a single machine, save a checkpoint and end the run; the same command goes on from there.

Several machines run the same command. On TPU pods, under srun of Slurm, mpirun of Open MPI and in indexed jobs of
Kubernetes they find each other; --cluster none leaves each on its own, --cluster tpu, slurm, ompi or k8s insists.
Elsewhere each is told: --coordinator HOST:PORT of process 0, --num-processes N, and its own --process-id I from 0.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser("python -m maerec_jax.train", _USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--cluster", default="auto", choices=("auto", "none", "tpu", "slurm", "ompi", "k8s"))
    parsed, flags = parser.parse_known_args(arguments)
    if parsed.config is None:
        configs = "\n".join(f"  {p}" for p in sorted(Path("configs").glob("[!_]*.py")))
        print(f"{_USAGE}\nConfigs here:\n{configs or '  (none: run from the project, or give the path of your own)'}")
        wants_help = {"-h", "--help"} & set(flags)
        return 0 if wants_help else fail("--config is missing")

    from maerec_jax.distributed.cluster import Cluster, run_together
    from maerec_jax.distributed.host_memory import run_steps_in_this_thread

    run_steps_in_this_thread()
    asked: list[Any] = []

    def read() -> int:
        from maerec_jax.config import config_from_flags

        asked.append(config_from_flags(parsed.config, flags))
        asked.append(Cluster(parsed.coordinator, parsed.num_processes, parsed.process_id, parsed.cluster))
        return 0

    # Before the others are looked for: a mistake, or --help, has nothing to do with them.
    if status := guarded(read):
        return status
    config, cluster = asked
    return run_together(cluster, lambda: _train(config))


def _train(config: "TrainConfig") -> int:
    import jax

    from maerec_jax.training.loop import train
    from maerec_jax.training.stopping import Stopped

    keep_compiled_programs()
    try:
        train(config)
    except Stopped as stopped:
        if jax.process_index() == 0:
            print(f"{stopped}; workdir {config.workdir}", flush=True)
        return stopped.status
    if jax.process_index() == 0:
        print(f"done: {config.workdir}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
