"""Pre-training: the loss of masked autoencoders, their validation and their pictures."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.records import Batch
from maerec_jax.models.cross_mae import CrossMAEConfig, CrossMaskedAutoencoder
from maerec_jax.models.mae import (
    AutoencoderConfig,
    MAEConfig,
    MaskedAutoencoder,
    reconstruction_error,
    reconstruction_target,
)
from maerec_jax.models.vit import normalize, unpatchify
from maerec_jax.training.task import Loss, Validation

Array = jax.Array


class Pretraining:
    """Learn to reconstruct hidden patches (arXiv 2111.06377), all of them or some (arXiv 2401.14391).

    Validation is over all of them.
    """

    def __init__(self, config: MAEConfig | CrossMAEConfig, dtype: Any) -> None:
        self.config: AutoencoderConfig = config
        self.encoder = config.encoder
        self.dtype = dtype
        if isinstance(config, CrossMAEConfig):
            self.model: Any = CrossMaskedAutoencoder(config, dtype)
            self.whole: Any = CrossMaskedAutoencoder(replace(config, prediction_ratio=config.mask_ratio), dtype)
        else:
            self.model = self.whole = MaskedAutoencoder(config, dtype)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image = jnp.zeros((1, *self.encoder.image_size, 3))
        return self.model.init(key, image, jnp.zeros((1, self.encoder.n_patches)))["params"]

    def frozen(self, path: str) -> bool:
        """The position tables are constants here."""
        return path in ("encoder/pos_embed", "decoder_pos_embed")

    def prepare(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Add noise for the whole batch, which decides what is hidden and predicted however the batch is split."""
        rows, columns = self.encoder.grid_of(batch["image"].shape[1:3])
        return {**batch, "noise": jax.random.uniform(key, (len(batch["image"]), rows * columns))}

    def loss(self, params: Any, batch: dict[str, Array], key: Array) -> Loss:
        """Reconstruction error of the valid images, summed; the weight is their number."""
        del key
        image_BHWC = normalize(batch["image"], self.encoder)
        out = self.model.apply({"params": params}, image_BHWC, batch["noise"])
        return self._loss(out, image_BHWC, batch["valid"])

    def _loss(self, out: dict[str, Array], image_BHWC: Array, valid_B: Array) -> Loss:
        target_BNP = reconstruction_target(image_BHWC, self.config)
        error_B = reconstruction_error(out["pred"], target_BNP, out["predicted"])
        valid_B = valid_B.astype(jnp.float32)
        return Loss((error_B * valid_B).sum(), valid_B.sum(), {})

    def evaluation_step(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Summed loss, number of images and reconstructions of a batch, under noise that is the same every time.

        With the images themselves, for the pictures.
        """
        batch = self.prepare(batch, jax.random.key(0))
        image_BHWC = normalize(batch["image"], self.encoder)
        out = self.whole.apply({"params": params}, image_BHWC, batch["noise"])
        total, weight, _ = self._loss(out, image_BHWC, batch["valid"])
        found = {"total": total, "weight": weight, "image": batch["image"], "mask": out["mask"]}
        return found | {"pixels": self._pixels(out["pred"], image_BHWC)}

    def _pixels(self, pred_BNP: Array, image_BHWC: Array) -> Array:
        """Predicted patches as images in the encoder's pixel scale; normalised ones get the true mean and deviation."""
        cfg = self.config
        if cfg.norm_pix:
            raw = reconstruction_target(image_BHWC, replace(cfg, norm_pix=False))
            deviation = jnp.sqrt(raw.var(axis=-1, keepdims=True, ddof=1) + 1e-6)
            pred_BNP = pred_BNP * deviation + raw.mean(axis=-1, keepdims=True)
        return unpatchify(pred_BNP, image_BHWC.shape[1:3], cfg.encoder.patch_size)

    def validate(self, results: Iterable[tuple[Batch, dict[str, np.ndarray]]], labels: Any) -> Validation:
        """Mean loss over the batches, and a picture of originals, what the encoder saw of them, and reconstructions."""
        del labels
        total = weight = 0.0
        picture = None
        for _, out in results:
            total, weight = total + float(out["total"]), weight + float(out["weight"])
            if picture is None:
                picture = self._picture(out["image"], out["mask"], out["pixels"])
        loss = total / max(weight, 1.0)
        return Validation({"loss": loss, "images": weight}, -loss, picture, [])

    def _picture(self, image_BHWC: np.ndarray, mask_BN: np.ndarray, pixels_BHWC: np.ndarray) -> np.ndarray:
        """Words as original | masked | reconstructed (hidden patches predicted, the others as they are), uint8."""
        cfg = self.encoder
        n = min(16, len(image_BHWC))
        image = image_BHWC[:n]
        hidden = np.repeat(mask_BN[:n, :, None], cfg.patch_values, axis=2)
        hidden = np.asarray(unpatchify(jnp.asarray(hidden), image.shape[1:3], cfg.patch_size)) > 0
        predicted = pixels_BHWC[:n] * np.array(cfg.pixel_std) + np.array(cfg.pixel_mean)
        predicted = np.clip(predicted, 0, 255).astype(np.uint8)
        columns = [image, np.where(hidden, np.uint8(128), image), np.where(hidden, predicted, image)]
        columns = [np.pad(c, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255) for c in columns]
        words = np.concatenate(columns, axis=2).repeat(2, axis=1).repeat(2, axis=2)
        half = -(-n // 2)
        left, right = words[:half], np.pad(words[half:], ((0, 2 * half - n), (0, 0), (0, 0), (0, 0)))
        return np.concatenate(np.concatenate([left, right], axis=2), axis=0)
