"""Finding, reading and writing weights."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Config files of version 0.1 import it from here. Imported when asked for: the modules below do not need it.
    if name == "load_recognizer":
        from maerec_jax.weights.finding import load_recognizer

        return load_recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
