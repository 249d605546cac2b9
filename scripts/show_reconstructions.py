"""What a masked autoencoder makes of images: python scripts/show_reconstructions.py --checkpoint runs/mae word.jpg"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from data_pipelines.command import keep_compiled_programs, run_command

if TYPE_CHECKING:
    from maerec_jax.config import TrainConfig
    from maerec_jax.training.pretraining import Pretraining

MOST = 64  # images in one picture
BATCH = 16
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ReconstructionArguments:
    """Draw images, what is left of them when most patches are hidden, and what a masked autoencoder makes of that.

    Original, masked and reconstructed image stand side by side, once for each mask ratio; visible patches are shown as
    they are, and hidden ones as they are predicted. The error is the mean squared error of the hidden patches, as the
    validation loss is. A model that was trained to predict each patch normalised by its own mean and deviation
    (norm_pix) knows nothing of these: hidden patches get the true ones, as in the pictures of validation, which
    flatters it.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders that are searched with their subfolders, and LMDBs as Union14M has them."""
    checkpoint: str
    """Workdir of a pre-training run (MAE or CrossMAE), or one of its checkpoints."""
    mask_ratio: tuple[float, ...] = ()
    """Shares of the patches that are hidden, such as 0.5 0.75 0.9; by default that of training. What one ratio hides,
    larger ones hide, too."""
    seed: int = 0
    """For what is hidden; each image has its own part of it, whatever the others are."""
    output: str = "reconstructions.png"
    """An image file for all (up to 64), or a folder for a file of each."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("name image files or folders")
        if wrong := [ratio for ratio in self.mask_ratio if not 0 < ratio < 1]:
            raise ValueError(f"a mask ratio is between 0 and 1, not {wrong[0]}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")


def load_images(names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray | None]]:
    """Images with their names, uint8 RGB; those that cannot be read are told, and None."""
    from data_pipelines.errors import RecordError
    from data_pipelines.images.decoding import DecodeError, pixels_of
    from maerec_jax.reading.named_images import open_images

    for prefix, source in map(open_images, names):
        for index in range(len(source)):
            name = prefix + source.name(index)
            try:
                yield name, pixels_of(source[index])
            except (DecodeError, RecordError) as error:
                print(f"not read: {error if name in str(error) else f'{name}: {error}'}", file=sys.stderr)
                yield name, None


def shapes_of(run: "TrainConfig") -> tuple[tuple[int, int], ...]:
    """Heights and widths that images of a run have."""
    return run.data.buckets or (run.model.encoder.image_size,)


def tasks_of(run: "TrainConfig", ratios: tuple[float, ...], checkpoint: str) -> dict[float, "Pretraining"]:
    """The model at each mask ratio. Raises ``UserError`` where there is none."""
    from data_pipelines.errors import UserError
    from maerec_jax.config import compute_dtype
    from maerec_jax.models.cross_mae import CrossMAEConfig
    from maerec_jax.models.mae import AutoencoderConfig
    from maerec_jax.training.pretraining import Pretraining

    config: Any = run.model
    if not isinstance(config, AutoencoderConfig):
        raise UserError(f"{checkpoint} holds a recogniser, which reconstructs nothing: give a run of pre-training")
    tasks = {}
    for ratio in ratios or (config.mask_ratio,):
        changes: dict[str, Any] = {"prediction_ratio": ratio} if isinstance(config, CrossMAEConfig) else {}
        try:
            changed: Any = replace(config, mask_ratio=ratio, **changes)
        except ValueError as error:
            raise UserError(str(error)) from error
        for shape in shapes_of(run):
            rows, columns = config.encoder.grid_of(shape)
            if not 0 < (visible := changed.n_keep(rows * columns)) < rows * columns:
                size = f"an image of {shape[0]} x {shape[1]} pixels"
                raise UserError(f"mask_ratio {ratio} leaves {visible} of {rows * columns} patches of {size}")
        tasks[ratio] = Pretraining(changed, compute_dtype(run.dtype))
    return tasks


def reconstruct(task: "Pretraining", params: Any, images: list[np.ndarray], noise: list[np.ndarray]) -> dict:
    """What ``Pretraining.reconstruct`` makes of images of one size, which are filled up to whole batches."""
    import jax

    step = jax.jit(task.reconstruct)
    parts = []
    for start in range(0, len(images), BATCH):
        batch = {"image": np.stack(images[start : start + BATCH]), "noise": np.stack(noise[start : start + BATCH])}
        rows = len(batch["image"])
        batch = {name: np.concatenate([x, np.repeat(x[:1], BATCH - rows, axis=0)]) for name, x in batch.items()}
        parts.append({name: x[:rows] for name, x in jax.device_get(step(params, batch)).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def show_reconstructions(arguments: ReconstructionArguments) -> int:
    """Draw, and print the errors; returns 1 if an image could not be read, else 0."""
    import jax

    from data_pipelines.errors import UserError
    from data_pipelines.images.buckets import nearest_shape
    from data_pipelines.images.resizing import resize_image
    from maerec_jax.reading.pictures import reconstructions_picture, save_picture
    from maerec_jax.training.pretraining import masked_and_reconstructed
    from maerec_jax.weights.checkpoint import load_params

    keep_compiled_programs()
    run, params, _ = load_params(arguments.checkpoint)
    tasks = tasks_of(run, arguments.mask_ratio, arguments.checkpoint)
    params = jax.device_put(params)
    encoder = run.model.encoder
    names: list[str] = []
    images: list[np.ndarray] = []
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    found = failed = 0
    for name, pixels in load_images(arguments.images):
        found += 1
        if pixels is None:
            failed += 1
            continue
        shape = nearest_shape(pixels.shape[:2], shapes_of(run))
        groups[shape].append(len(images))
        names.append(name)
        images.append(resize_image(pixels, *shape, run.data.interpolation))
    one = Path(arguments.output).suffix.lower() in ENDINGS
    if one and len(images) > MOST:
        raise UserError(f"{len(images)} images are too many for one picture (up to {MOST}): name a folder as --output")

    rows: list[list[tuple[str, np.ndarray, np.ndarray]]] = [[] for _ in images]
    for ratio, task in tasks.items():
        for shape, numbers in groups.items():
            patches = int(np.prod(encoder.grid_of(shape)))
            noise = [np.random.default_rng((arguments.seed, n)).random(patches, np.float32) for n in numbers]
            group = [images[n] for n in numbers]
            made = reconstruct(task, params, group, noise)
            shown = masked_and_reconstructed(np.stack(group), made["mask"], made["pixels"], encoder)
            for number, error, *pair in zip(numbers, made["error"], *shown, strict=True):
                rows[number].append((f"{ratio:.0%} hidden, error {error:.4f}", *pair))
    for name, labels in zip(names, rows, strict=True):
        print(f"{name}: {'; '.join(label for label, *_ in labels)}")
    note = "; hidden patches have their true mean and deviation" if tasks[next(iter(tasks))].config.norm_pix else ""
    pictures = [
        reconstructions_picture(Path(name).name + note, image, part)
        for name, image, part in zip(names, images, rows, strict=True)
    ]
    if one and pictures:
        width = max(picture.shape[1] for picture in pictures)
        same = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
        save_picture(np.concatenate(same), arguments.output)
    elif not one:
        for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            save_picture(picture, Path(arguments.output) / f"{number:06d}_{Path(name).stem[:80]}.png")
    if failed:
        print(f"{failed:,} of {found:,} images could not be read", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(ReconstructionArguments, show_reconstructions, "scripts/show_reconstructions.py"))
