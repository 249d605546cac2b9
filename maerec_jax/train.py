"""Pre-train or fine-tune: ``python -m maerec_jax.train --config configs/maerec_s.py [--workdir DIR] [overrides]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from maerec_jax.command import fail, guarded

_USAGE = """python -m maerec_jax.train --config FILE [--workdir DIR] [--init-from DIR] [overrides]

Runs the stage that the config describes: a masked autoencoder is pre-trained, a recogniser fine-tuned. A workdir that
holds a checkpoint is resumed. Every field of the config can be overridden: `--config FILE --help` lists them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser("python -m maerec_jax.train", _USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parsed, flags = parser.parse_known_args(arguments)
    if parsed.config is None:
        configs = "\n".join(f"  {p}" for p in sorted(Path("configs").glob("[!_]*.py")))
        print(f"{_USAGE}\nConfigs here:\n{configs or '  (none: run from the project, or give the path of your own)'}")
        wants_help = {"-h", "--help"} & set(flags)
        return 0 if wants_help else fail("--config is missing")

    return guarded(lambda: _train(parsed.config, flags))


def _train(path: str, flags: Sequence[str]) -> int:
    from maerec_jax.config import config_from_flags
    from maerec_jax.training.host_memory import run_steps_in_this_thread
    from maerec_jax.training.loop import train

    run_steps_in_this_thread()
    config = config_from_flags(path, flags)
    train(config)
    print(f"done: {config.workdir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
