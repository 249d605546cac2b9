"""One step of making a data set: ``python -m data_pipelines.construct STEP ...``; ``maerec data construct`` as well."""

import sys
from collections.abc import Sequence
from importlib import import_module

from data_pipelines.command import fail, guarded

STEPS = {
    "crop": ("data_pipelines.construct.crop", "Cut the marked words out of pictures"),
    "deduplicate": ("data_pipelines.construct.deduplicate", "Leave out copies and benchmark images"),
    "vote": ("data_pipelines.construct.vote", "Sort words by how many recognisers read them right"),
    "find-unlabelled": ("data_pipelines.construct.find_unlabelled", "Cut out the words that several detectors found"),
    "pseudo-label": ("data_pipelines.construct.pseudo_label", "Label words by what several recognisers agree on"),
    "write": ("data_pipelines.construct.write", "Write lists of words in Union14M's layout"),
}
"""The module of each step, which has a function ``main``, and what the step does."""


def main(arguments: Sequence[str] | None = None, name: str = "python -m data_pipelines.construct") -> int:
    """Run a step; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["-h"], ["--help"]):
        lines = "\n".join(f"  {step:18}{told}" for step, (_, told) in STEPS.items())
        told = f"usage: {name} STEP ...\n\nMake a data set of word images.\n\n{lines}\n\n"
        return guarded(lambda: print(f"{told}`{name} STEP --help` explains a step.") or 0)
    step, *rest = words
    if step not in STEPS:
        return fail(f"there is no step {step!r}; there are {', '.join(STEPS)}")
    return import_module(STEPS[step][0]).main(rest, f"{name} {step}")


if __name__ == "__main__":
    sys.exit(main())
