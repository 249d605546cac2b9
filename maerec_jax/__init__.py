"""MAERec scene text recognition in JAX and Flax: pre-training, fine-tuning and reading."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maerec_jax.reading.recognizer import ReadingConfig, Recognizer, Word

__all__ = ["ReadingConfig", "Recognizer", "Word"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the processes that only read data come past here, too, and need no model.
    if name in __all__:
        from maerec_jax.reading import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
