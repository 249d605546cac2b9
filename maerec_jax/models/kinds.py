"""The kinds of models there are: those of this package, and those that other installed packages bring."""

import warnings
from importlib.metadata import entry_points

from maerec_jax.models.abinet import ABINetConfig
from maerec_jax.models.aster import ASTERConfig
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.interface import ModelConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.sar import SARConfig

OURS = (MAEConfig, CrossMAEConfig, MAERecConfig, ABINetConfig, ASTERConfig, SARConfig)


def model_configs() -> tuple[type[ModelConfig], ...]:
    """The configs of all kinds. One of another package that cannot be used is left out with a warning.

    Other packages name theirs by entry points of the group "maerec_jax.models": ``kind = "package.module:Config"``.
    """
    found: dict[str, type[ModelConfig]] = {model.kind: model for model in OURS}
    for entry in entry_points(group="maerec_jax.models"):
        try:
            if entry.name in found:
                raise ValueError("there is a model of this kind already")
            found[entry.name] = entry.load()
        except Exception as error:  # whatever the package raises: others go on without it
            warnings.warn(f"the model {entry.name!r} ({entry.value}) cannot be used: {error}", stacklevel=2)
    return tuple(found.values())
