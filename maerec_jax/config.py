"""What a training run is: frozen dataclasses, the configs/*.py files that return them, and their JSON in a workdir."""

import argparse
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import jax
import jax.numpy as jnp
import tyro
from etils import epath
from pydantic import Field, TypeAdapter, ValidationError

from data_pipelines.errors import UserError
from data_pipelines.images.augmentation import NO_AUGMENTATION, Augmentation, RandAugment
from data_pipelines.images.resizing import Interpolation
from data_pipelines.prepared import Records
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.combining import Mixing
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from maerec_jax.models.interface import ModelConfig, RecogniserConfig
from maerec_jax.models.kinds import model_configs

SourceConfig = Annotated[Annotations | LmdbWords | Folder | Records | RenderedWords, Field(discriminator="kind")]
if TYPE_CHECKING:
    AnyModel = ModelConfig
else:
    AnyModel = Annotated[Union[model_configs()], Field(discriminator="kind")]  # noqa: UP007
AugmentationConfig = Annotated[Augmentation | RandAugment, Field(discriminator="kind")]


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data, and how images are prepared."""

    root: str = "."
    """Data root: paths of sources are relative to this folder."""
    train: tuple[SourceConfig, ...] = ()
    """Sources of training images."""
    validation: tuple[SourceConfig, ...] = ()
    """Sources of validation images; without any, there is no validation."""
    mixing: Mixing = "by_size"
    """How training sources without a weight share the images: by size, or evenly (balanced)."""
    exclude: tuple[str, ...] = ()
    """Lists of training records to leave out, written by data_pipelines.find_overlaps (relative to root)."""
    interpolation: Interpolation = "bilinear"
    """How images are resized: area is right for large ones, too; published: bicubic, for fine-tuning bilinear."""
    augmentation: AugmentationConfig = NO_AUGMENTATION
    """Augmentation of training images; all probabilities 0 for none."""
    buckets: tuple[tuple[int, int], ...] = ()
    """Image sizes (height, width) instead of one size; each batch has one of them (docs/training_data.md)."""
    turn_vertical: bool = False
    """Train with tall crops turned left; read tall images upright, turned left and turned right."""
    unknown_characters: Literal["drop", "keep", "error"] = "drop"
    """Labels with characters outside the charset: drop, keep (as unknown class), or stop with an error."""
    max_invalid: float = 0.1
    """Stop if a larger share of recent images (and at least 100), of all or of one source, is unusable."""
    workers: int | Literal["auto"] = 0
    """Worker processes that read and decode; 0 for a thread; auto for as many as keep steps from waiting. Batches do
    not depend on it."""
    timeout: float = 900.0
    """Seconds to wait for a batch before the run stops; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.timeout < 0:
            raise ValueError(f"data.timeout must not be negative, but is {self.timeout}")
        if self.workers != "auto" and self.workers < 0:
            raise ValueError(f"data.workers must be auto, 0 or more, not {self.workers}")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule."""

    algorithm: Literal["adamw", "muon"] = "adamw"
    """Optimizer: adamw, as published, or muon (arXiv 2502.16982), which needs fewer images but slower steps."""
    learning_rate: float = 1e-4
    """Peak learning rate (for reference_batch images per step, if that is set)."""
    reference_batch: int = 0
    """Scale the learning rate by batch_size / reference_batch; 0 leaves it as it is."""
    schedule: Literal["cosine", "one_cycle", "constant", "steps"] = "cosine"
    """Schedule after warm-up; one_cycle starts at 1/25 of the peak and also warms up; steps needs step_epochs."""
    step_epochs: tuple[float, ...] = ()
    """Schedule "steps": after each of these epochs the learning rate is a tenth of what it was."""
    warmup_epochs: float = 0.0
    """Warm-up in epochs."""
    warmup_steps: int = 0
    """Warm-up steps; overrides warmup_epochs if not 0."""
    final_learning_rate: float = 0.0
    """Final learning rate of cosine (one_cycle ends at 4e-6 of the peak)."""
    weight_decay: float = 0.05
    """Decoupled weight decay, scaled by the learning rate."""
    decay_vectors: bool = False
    """Also apply weight decay to biases and norm scales."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW: decay rates of the first and second moments."""
    epsilon: float = 1e-8
    """AdamW: added to the root of the second moment."""
    clip_norm: float = 0.0
    """Clip gradients to this global norm; 0 for no clipping."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay: factor from each encoder block to the one below; 1 for none."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_epochs", "warmup_steps", "weight_decay", "clip_norm", "reference_batch"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name} must not be negative, but is {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas) or not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optimizer.betas {self.betas} must be in [0, 1), layer_decay {self.layer_decay} in (0, 1]"
            )
        if bool(self.step_epochs) != (self.schedule == "steps"):
            raise ValueError("optimizer.step_epochs is for optimizer.schedule steps, which needs it")


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are laid out (see docs/tpu.md). The losses do not depend on it."""

    data: int = -1
    """Devices per slice for data parallelism, each with the whole model; -1 for all that the others leave."""
    fsdp: int = 1
    """Devices for fully sharded data parallelism: parameters and optimizer state are divided, too."""
    tensor: int = 1
    """Devices for tensor parallelism: attention heads and hidden units are divided."""
    slices: int = 1
    """TPU slices, connected by the data centre network; data parallelism runs over them."""

    def __post_init__(self) -> None:
        if self.data != -1 and self.data < 1:
            raise ValueError(f"mesh.data must be at least 1, or -1 for the rest of the devices, not {self.data}")
        for name in ("fsdp", "tensor", "slices"):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class ProfileConfig:
    """A trace of some steps, of what devices and threads did when (docs/profiling.md)."""

    steps: str = ""
    """FIRST:LAST, the steps to trace, both included; "" for none."""
    processes: tuple[int, ...] = (0,)
    """Of several processes, those that are traced."""

    def __post_init__(self) -> None:
        found = re.fullmatch(r"(\d+):(\d+)", self.steps)
        if self.steps and (found is None or not 1 <= int(found[1]) <= int(found[2])):
            raise ValueError(f"profile.steps must be FIRST:LAST, such as 100:110, not {self.steps}")

    @property
    def span(self) -> range:
        """The steps to trace."""
        first, last = map(int, (self.steps or "1:0").split(":"))
        return range(first, last + 1)


@dataclass(frozen=True)
class TrainConfig:
    """A training run: pre-training for a masked autoencoder, fine-tuning for a recogniser."""

    model: AnyModel
    """Model: sizes, image size and, for a recogniser, charset."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and schedule."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Layout of the devices."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Steps to trace."""
    batch_size: int = 256
    """Images per step, over all devices and accumulated parts."""
    accumulation: int = 1
    """Gradient accumulation: split each batch into this many parts to save memory; same result."""
    epochs: float = 10.0
    """Length of the run in epochs."""
    steps: int = 0
    """Length of the run in steps; overrides epochs if not 0."""
    label_smoothing: float = 0.0
    """Label smoothing for fine-tuning: share of each target spread over all classes."""
    ema_decay: float = 0.0
    """Decay of the moving average of parameters (EMA), used for validation and reading; 0 for none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the computation: auto is bfloat16 on GPU and TPU, float32 on CPU, where training always is. Parameters
    stay float32."""
    seed: int = 0
    """Seed of initialisation, data order, masks, dropout and augmentation."""
    log_every: int = 20
    """Steps between log lines."""
    validate_every: int = 0
    """Steps between validations; 0 for once per epoch. The last step is always validated."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; validated steps and the last step are also saved."""
    keep_last: int = 2
    """Number of latest checkpoints to keep."""
    keep_best: int = 1
    """Number of best checkpoints to keep, by validation score."""
    init_from: str = ""
    """Start from these parameters, as far as they fit: workdir, checkpoint, .safetensors file or built-in model."""
    init_encoder_from: str = ""
    """Replace the encoder of init_from by this one, such as after more pre-training on your own images."""
    workdir: str = ""
    """Folder for checkpoints and logs; a run in it is resumed. Default: runs/NAME_OF_CONFIG."""

    def __post_init__(self) -> None:
        if self.accumulation < 1 or self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        for name in ("batch_size", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("steps", "validate_every", "keep_best", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)}")
        if self.data.buckets:
            self.model.check_shapes(self.data.buckets)
        if self.model.needs_batches and self.batch_size == self.accumulation:
            raise ValueError("batch normalisation needs parts of at least 2 images: raise batch_size over accumulation")
        keeps = self.data.unknown_characters == "keep"
        if keeps and isinstance(self.model, RecogniserConfig) and not self.model.has_unknown:
            raise ValueError("data.unknown_characters keep needs a class for them, which this model lacks: set drop")
        if self.optimizer.layer_decay != 1 and self.model.encoder is None:
            raise ValueError("optimizer.layer_decay is for models with a Vision Transformer: set it to 1")
        if not self.steps and not self.epochs > 0:
            raise ValueError(f"epochs must be more than 0, not {self.epochs}")


def compute_dtype(name: str) -> Any:
    """The dtype that a config's ``dtype`` means on this machine."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


# What may differ between the run that wrote a checkpoint and the one that resumes it: the losses do not depend on it.
_FREE = {"data.root", "data.workers", "data.max_invalid", "data.timeout", "init_from", "init_encoder_from", "workdir"}
_FREE |= {"log_every", "validate_every", "checkpoint_every", "keep_last", "keep_best"}
_FREE |= {"profile.steps", "profile.processes"}
_FREE |= {"mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.slices"}


# Where config files of version 0.1 import from, and where that is now.
_MOVED = {
    "data_pipelines.augmentation": "data_pipelines.images.augmentation",
    "data_pipelines.buckets": "data_pipelines.images.buckets",
    "data_pipelines.resizing": "data_pipelines.images.resizing",
    "maerec_jax.charset": "data_pipelines.charset",
}


def config_files(folder: Path) -> list[Path]:
    """The config files in a folder."""
    files = (path for path in folder.glob("[!_]*.py") if path.is_file())
    return sorted(path for path in files if b"def get_config(" in path.read_bytes())


def load_config_module(path: str) -> ModuleType:
    """Import a config file by its path. Raises ``UserError`` where there is none, or it has no ``get_config``."""
    for old, new in _MOVED.items():
        sys.modules.setdefault(old, importlib.import_module(new))
    file = Path(path)
    if not file.is_file():
        known = config_files(file.parent) or config_files(Path("configs"))
        hint = f"; available: {', '.join(map(str, known))}" if known else ""
        raise UserError(f"no such config file: {path}{hint}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: a config file must be a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    with _told_in_a_line(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path}: a config file must define get_config() -> TrainConfig")
    return module


def config_beside(file: str, name: str) -> TrainConfig:
    """The run of another config file in the same folder, for a ``file`` that says only what it does otherwise."""
    return load_config_module(str(Path(file).with_name(f"{name}.py"))).get_config()


@contextmanager
def _told_in_a_line(path: str) -> Iterator[None]:
    """Whatever a config file raises becomes a ``UserError`` that names the line of the file where it happened."""
    try:
        yield
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        raise UserError(f"{path}{f':{line}' if line else ''}: {type(error).__name__}: {error}") from error


def _data_root(module: ModuleType, flags: Sequence[str]) -> dict[str, str]:
    """``--data.root``, for the ``get_config(root)`` of a config file that depends on files there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data.root", dest="root")
    root = parser.parse_known_args(flags)[0].root
    return {"root": root} if root and "root" in inspect.signature(module.get_config).parameters else {}


def config_from_flags(path: str, flags: Sequence[str]) -> TrainConfig:
    """Load a config file and override its fields by command-line flags such as ``--optimizer.learning-rate 1e-3``.

    Ends the program with a message, as command-line parsers do, where a flag is unknown or values do not fit.
    """
    module = load_config_module(path)
    with _told_in_a_line(path):
        default = module.get_config(**_data_root(module, flags))
    if not isinstance(default, TrainConfig):
        raise UserError(f"{path}: get_config() returned {type(default).__name__}, not TrainConfig")
    if default.model.encoder is None and (given := [flag for flag in flags if flag.startswith("--model.encoder.")]):
        raise UserError(
            f"{given[0]}: a model of kind {default.model.kind!r} has no Vision Transformer, nor adapters (LoRA) of one"
        )
    description = f"{inspect.getdoc(module) or ''}\n\nDefaults below are those of {path}."
    config = tyro.cli(
        TrainConfig,
        default=default,
        args=list(flags),
        prog=f"python -m maerec_jax.train --config {path}",
        description=description,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    return config if config.workdir else replace(config, workdir=str(Path("runs") / Path(path).stem))


_ADAPTER = TypeAdapter(TrainConfig)


def to_json(config: TrainConfig) -> str:
    """The config as JSON, every default resolved."""
    return _ADAPTER.dump_json(config, indent=2).decode() + "\n"


def read_json(path: epath.Path | Path) -> TrainConfig:
    """Read what ``to_json`` wrote. Raises ``UserError`` where the file is missing or no such config."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not the workdir of a run: it has no {path.name}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a config of this version: {place or 'JSON'}: {first['msg']}") from error


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if is_dataclass(value):
        parts = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, tuple) and any(is_dataclass(v) for v in value):
        parts = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {path: value}
    return {k: v for name, part in parts for k, v in _leaves(part, f"{path}.{name}" if path else name).items()}


def differences(saved: TrainConfig, wanted: TrainConfig) -> list[str]:
    """``"field old -> new"`` for each field in which two runs differ and may not, if one is to go on with the other."""
    old, new = _leaves(saved), _leaves(wanted)
    names = [n for n in (old | new) if n not in _FREE and old.get(n) != new.get(n)]
    return [f"{n} {old.get(n)!r} -> {new.get(n)!r}" for n in names]
