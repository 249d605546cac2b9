"""Pre-training: the loss of masked autoencoders, their validation and their pictures."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.sources.records import Batch
from maerec_jax.models.interface import Loss, normalize
from maerec_jax.models.mae import AutoencoderConfig, reconstruction_error, reconstruction_target
from maerec_jax.models.vit import ViTConfig, unpatchify
from maerec_jax.training.task import Validation

Array = jax.Array


class Pretraining:
    """Learn to reconstruct hidden patches (arXiv 2111.06377), all of them or some (arXiv 2401.14391).

    Validation is over all of them.
    """

    confidence = None  # images are not turned to be reconstructed

    def __init__(self, config: AutoencoderConfig, dtype: Any) -> None:
        self.config, self.dtype, self.init = config, dtype, config.init
        self.model: Any = config.module(dtype)
        self.whole: Any = config.whole().module(dtype)

    def prepare(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Add noise for the whole batch, which decides what is hidden and predicted however the batch is split."""
        rows, columns = self.config.encoder.grid_of(batch["image"].shape[1:3])
        return {**batch, "noise": jax.random.uniform(key, (len(batch["image"]), rows * columns))}

    def loss(self, params: Any, batch: dict[str, Array], key: Array) -> Loss:
        """Reconstruction error of the valid images, summed; the weight is their number."""
        del key
        image_BHWC = normalize(batch["image"], self.config)
        return self._loss(self.model.apply({"params": params}, image_BHWC, batch["noise"]), image_BHWC, batch["valid"])

    @jax.named_scope("loss")
    def _loss(self, out: dict[str, Array], image_BHWC: Array, valid_B: Array) -> Loss:
        target_BNP, valid_B = reconstruction_target(image_BHWC, self.config), valid_B.astype(jnp.float32)
        error_B = reconstruction_error(out["pred"], target_BNP, out["predicted"])
        return Loss((error_B * valid_B).sum(), valid_B.sum(), {})

    def evaluation_step(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Predict all hidden patches of a batch, under noise that is the same every time.

        Returns:
          ``total`` and ``weight`` of the loss; and for the pictures ``image``; ``mask`` float32 (B, N), 1 where a patch
          is hidden; ``pixels`` float32 (B, H, W, 3), what is predicted, in the encoder's scale. Of normalised patches
          only the contrast within them is predicted: they get their true mean and deviation.
        """
        noise_BN = self.prepare(batch, jax.random.key(0))["noise"]
        image_BHWC = normalize(batch["image"], self.config)
        out = self.whole.apply({"params": params}, image_BHWC, noise_BN)
        total, weight, *_ = self._loss(out, image_BHWC, batch["valid"])
        pixels_BHWC = self._pixels(out["pred"], image_BHWC)
        return {"total": total, "weight": weight, "image": batch["image"], "mask": out["mask"], "pixels": pixels_BHWC}

    def _pixels(self, pred_BNP: Array, image_BHWC: Array) -> Array:
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
        if not weight:
            return Validation({"images": 0.0}, None, None, [])
        loss = total / weight
        return Validation({"loss": loss, "images": weight}, -loss, picture, [])

    def _picture(self, image_BHWC: np.ndarray, mask_BN: np.ndarray, pixels_BHWC: np.ndarray) -> np.ndarray:
        """The first words as original | masked | reconstructed, uint8."""
        n = min(16, len(image_BHWC))
        image_BHWC = image_BHWC[:n]
        columns = [image_BHWC, *masked_and_reconstructed(image_BHWC, mask_BN[:n], pixels_BHWC[:n], self.config.encoder)]
        columns = [np.pad(c, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255) for c in columns]
        words = np.concatenate(columns, axis=2).repeat(2, axis=1).repeat(2, axis=2)
        half = -(-n // 2)
        left, right = words[:half], np.pad(words[half:], ((0, 2 * half - n), (0, 0), (0, 0), (0, 0)))
        return np.concatenate(np.concatenate([left, right], axis=2), axis=0)


def masked_and_reconstructed(
    image_BHWC: np.ndarray, mask_BN: np.ndarray, pixels_BHWC: np.ndarray, encoder: ViTConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Images as a masked autoencoder saw them, hidden patches in grey, and with these as it predicted them: uint8.

    ``mask_BN`` and ``pixels_BHWC`` are those of ``Pretraining.evaluation_step``.
    """
    hidden = np.repeat(mask_BN[..., None], encoder.patch_values, axis=2)
    hidden = np.asarray(unpatchify(jnp.asarray(hidden), image_BHWC.shape[1:3], encoder.patch_size)) > 0
    predicted = pixels_BHWC * np.array(encoder.pixel_std) + np.array(encoder.pixel_mean)
    predicted = np.clip(predicted, 0, 255).astype(np.uint8)
    return np.where(hidden, np.uint8(128), image_BHWC), np.where(hidden, predicted, image_BHWC)
