"""One command for all: ``maerec read|evaluate|train ...``, the same as ``python -m maerec_jax.predict`` and so on."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module, metadata

COMMANDS = {
    "read": ("maerec_jax.predict", "Read words in images, folders, LMDBs or whole pictures"),
    "detect": ("maerec_jax.detect", "List the words that a detector finds in pictures, for making data sets"),
    "evaluate": ("maerec_jax.evaluate", "Measure a recogniser on labelled sets, or compare two results"),
    "train": ("maerec_jax.train", "Pre-train or fine-tune; repeat the command to resume"),
    "checkpoints": ("maerec_jax.checkpoints", "List the checkpoints of a run, and what each can be used for"),
    "serve": ("maerec_jax.serve", "Read over HTTP"),
    "demo": ("maerec_jax.demo", "Read in the browser"),
    "export": ("maerec_jax.export", "Write weights as PyTorch, safetensors, ONNX or StableHLO"),
    "import": ("maerec_jax.import_pytorch", "Convert PyTorch weights"),
    "compile-ahead": ("maerec_jax.compile_ahead", "Estimate memory and speed on TPUs before renting them"),
    "data check": ("data_pipelines.check", "Check a download: what it holds, lacks, and what cannot be read"),
    "data prepare": ("data_pipelines.prepare", "Convert a data set to ArrayRecord shards"),
    "data overlaps": ("data_pipelines.find_overlaps", "Find benchmark images in training sets"),
    "data construct": ("data_pipelines.construct.__main__", "Make a data set from pictures, in steps"),
    "data render": ("data_pipelines.rendering.__main__", "Draw words for training"),
}
"""The module of each command, which has a function ``main``, and what the command does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["-h"], ["--help"]):
        return _help()
    if words == ["--version"]:
        print(f"maerec_jax {metadata.version('maerec-jax')}")
        return 0
    count = 2 if words[0] == "data" else 1
    command, rest = " ".join(words[:count]), words[count:]
    if command in COMMANDS:
        return import_module(COMMANDS[command][0]).main(rest, f"maerec {command}")
    if command in ("data", "data -h", "data --help"):
        return _help("data ")
    near = get_close_matches(command, COMMANDS, 1)
    meant = f"did you mean {near[0]!r}?" if near else "`maerec --help` lists the commands"
    print(f"error: there is no command {command!r}: {meant}", file=sys.stderr)
    return 2


def _help(start: str = "") -> int:
    from data_pipelines.command import guarded

    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{told}" for name, (_, told) in COMMANDS.items() if name.startswith(start)]
    usage = f"usage: maerec {start}COMMAND ...\n\nScene text recognition in JAX.\n\n"
    explained = f"\n\n`maerec {start}COMMAND --help` explains a command."
    return guarded(lambda: print(usage + "\n".join(lines) + explained) or 0)


if __name__ == "__main__":
    sys.exit(main())
