"""The kinds of models there are: those of this package, and those that other installed packages bring."""

from importlib import import_module
from importlib.metadata import entry_points

from maerec_jax.models.interface import ModelConfig

OURS = ("mae:MAEConfig", "cross_mae:CrossMAEConfig", "maerec:MAERecConfig")
"""Modules of ``maerec_jax.models``, and the config in each."""

GROUP = "maerec_jax.models"
"""The entry points by which another package names its own: ``kind = "package.module:Config"``."""


def model_configs() -> tuple[type[ModelConfig], ...]:
    """The configs of all kinds. Raises what a package raises that cannot be imported."""
    ours = [named.split(":") for named in OURS]
    found = [getattr(import_module(f"maerec_jax.models.{module}"), name) for module, name in ours]
    return (*found, *(entry.load() for entry in entry_points(group=GROUP)))
