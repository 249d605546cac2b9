"""Weights to read with, wherever they are: training runs, exported files, and those that come with the package."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.prepared.storage import is_bucket
from maerec_jax.adapters import attach_adapters
from maerec_jax.config import TrainConfig, UserError
from maerec_jax.interop.pytorch_names import params_from_state_dict, state_dict_from_params
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.training.checkpoint import load_params
from maerec_jax.weight_files import BASE, ENDING, read_weights, write_weights


def load_recognizer(
    path: epath.PathLike | None = None, adapters: str | Path | None = None
) -> tuple[TrainConfig, Any, int]:
    """Read the weights of a recogniser.

    Args:
      path: a workdir of a fine-tuning run (its best checkpoint by validation, or its latest), one of its
        ``checkpoints/<step>``, or a file that ``save_recognizer`` wrote. By default the weights that come with the
        package.
      adapters: a file that ``maerec_jax.adapters.save_adapters`` wrote, if any. Then ``path`` is what has its encoder,
        which may be a masked autoencoder, too, and the adapters are merged into that.

    Returns:
      The config of the run, of which an exported file holds no more than reading needs; the parameters as NumPy
      arrays; and the step.

    Raises:
      UserError: where there are none, they are not a recogniser's, or the adapters belong to another encoder.
    """
    path = _shipped() if path is None or not os.fspath(path) else path
    config, params, step = load_weights(path)
    if adapters:
        return attach_adapters((config, params, step), adapters)
    if not isinstance(config.model, MAERecConfig):
        raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
    return config, params, step


def load_weights(path: epath.PathLike) -> tuple[TrainConfig, Any, int]:
    """``load_recognizer`` for a model of any kind, from a workdir, a checkpoint, or a file of ``save_weights``."""
    if os.fspath(path).endswith(ENDING):
        if is_bucket(path):
            raise UserError(f"{path}: exported files are read from disks only: copy it to one first")
        return _read_file(Path(path))
    if Path(path).is_file():
        raise UserError(f"{path}: give the workdir of a run, one of its checkpoints, or a file ending in {ENDING}")
    return load_params(path)


def save_recognizer(path: str | Path, config: TrainConfig, params: Any, step: int) -> None:
    """Write a recogniser to one file, as ``save_weights`` does."""
    assert isinstance(config.model, MAERecConfig)
    save_weights(path, config, params, step)


def save_weights(path: str | Path, config: TrainConfig, params: Any, step: int) -> None:
    """Write a recogniser or a masked autoencoder to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of the reference's PyTorch state dicts. The metadata says, as JSON, what else
    is needed: sizes, characters, pixel scale, and how images are prepared.

    Raises:
      UserError: for another ending, where the reference has no such model, or the file cannot be written.
    """
    if not isinstance(config.model, MAEConfig | MAERecConfig):
        raise UserError(f"{path}: a model of the kind {config.model.kind} cannot be exported: the reference has none")
    write_weights(path, config, step, state_dict_from_params(params, config.model))


def _read_file(path: Path) -> tuple[TrainConfig, Any, int]:
    config, step, tensors, about = read_weights(path)
    if BASE in about:
        raise UserError(f"{path} holds adapters: give it as such (--adapters), and the checkpoint that they belong to")
    if not isinstance(config.model, MAEConfig | MAERecConfig):
        raise UserError(f"{path}: a model of the kind {config.model.kind} is in no such file")
    try:
        return config, params_from_state_dict(tensors, config.model), step
    except ValueError as error:
        raise UserError(f"{path}: its metadata and tensors do not fit: {error}") from error


def _shipped() -> Path:
    """The weights that come with the package."""
    folder = Path(str(resources.files("maerec_jax"))) / "shipped"
    found = sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    if not found:
        raise UserError("no weights come with this version: give --checkpoint, the workdir of a fine-tuning run")
    return found[0]
