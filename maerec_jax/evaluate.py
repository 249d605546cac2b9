"""Measure a recogniser: ``python -m maerec_jax.evaluate --checkpoint DIR_OR_FILE --data ROOT ...``."""

import sys

from data_pipelines.command import main_of
from maerec_jax.evaluation.arguments import EvaluateArguments


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate or compare, print the table, and return 0."""
    from maerec_jax.evaluation import running

    return running.evaluate(arguments)


main = main_of(EvaluateArguments, evaluate, "maerec_jax.evaluate")

if __name__ == "__main__":
    sys.exit(main())
