"""The kinds of models there are: those of this package, and those that other installed packages bring."""

import warnings
from importlib import import_module
from importlib.metadata import entry_points

from maerec_jax.models.interface import ModelConfig

OURS = ("mae:MAEConfig", "cross_mae:CrossMAEConfig", "maerec:MAERecConfig")
"""Modules of ``maerec_jax.models``, which are named like their kind, and the config in each."""

GROUP = "maerec_jax.models"
"""The entry points by which another package names its own: ``kind = "package.module:Config"``."""


def model_configs() -> tuple[type[ModelConfig], ...]:
    """The configs of all kinds. One of another package that cannot be used is left out with a warning."""
    found: dict[str, type[ModelConfig]] = {}
    for named in OURS:
        kind, name = named.split(":")
        found[kind] = getattr(import_module(f"maerec_jax.models.{kind}"), name)
    for entry in entry_points(group=GROUP):
        try:
            if entry.name in found:
                raise ValueError("there is a model of this kind already")
            found[entry.name] = entry.load()
        except Exception as error:  # whatever the package raises: others go on without it
            warnings.warn(f"the model {entry.name!r} ({entry.value}) cannot be used: {error}", stacklevel=2)
    return tuple(found.values())
