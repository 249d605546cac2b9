"""ABINet: a vision model that reads all characters at once, and a language model that corrects it (arXiv 2103.06495).

As Union14M trains it (arXiv 2307.08723) it has the vision model alone.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from maerec_jax.models import abinet_parts, batch_norm, convolution, vit
from maerec_jax.models.abinet_parts import Encoder, Fusion, LanguageModel, PositionAttention
from maerec_jax.models.batch_norm import STATISTICS
from maerec_jax.models.convolution import ResNet45
from maerec_jax.models.interface import Loss, Reading, RecogniserConfig, limited, token_loss
from maerec_jax.models.names.abinet import abinet_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.vit import check_positive

Array = jax.Array

_STRIDES = ((2, 2), (1, 1), (2, 2), (1, 1), (1, 1))  # of the residual network's stages
_SMALLEST = (32, 64)  # pixels of one place of the smallest map in the position attention


@dataclass(frozen=True)
class LanguageConfig:
    """The language model; its width, heads and inner width are those of the vision model."""

    layers: int = 4
    """Number of layers."""
    iterations: int = 3
    """How often the language model corrects a text, each time the one that was fused last."""

    def __post_init__(self) -> None:
        check_positive(self, "layers", "iterations")


@dataclass(frozen=True)
class ABINetConfig(RecogniserConfig):
    """ABINet; without ``language`` it is the vision model that was published with Union14M."""

    sharding: ClassVar = (*batch_norm.SHARDING, *convolution.SHARDING, *vit.SHARDING, *abinet_parts.SHARDING)
    has_attention: ClassVar = True
    has_lists: ClassVar = True
    needs_batches: ClassVar = True
    pixel_axes: ClassVar = {"backbone/stem/conv/kernel": 2}

    kind: Literal["abinet"] = field(default="abinet", kw_only=True)
    """Kind of model."""
    stem: int = 32
    """Channels of the first convolution."""
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """Channels of the stages of the residual network; the last is dim."""
    blocks: tuple[int, int, int, int, int] = (3, 4, 6, 6, 3)
    """Residual blocks of each stage."""
    dim: int = 512
    """Width of the Transformer layers."""
    heads: int = 8
    """Attention heads of each Transformer layer."""
    inner_dim: int = 2048
    """Hidden width of the feed-forward layers."""
    encoder_layers: int = 3
    """Transformer layers over the feature map."""
    key_channels: int = 64
    """Channels of the U-Net that makes the keys of the position attention."""
    dropout: float = 0.1
    """Dropout rate in Transformer layers."""
    max_length: int = 26
    """Longest text in tokens, start token included."""
    language: LanguageConfig | None = None
    """The language model; None for the vision model alone."""
    end_only: bool = False
    """The end is the only class beside the characters: what comes after the end is trained to be ends, too, and unknown
    characters cannot be learnt. So it is in the original's 37 classes."""
    image_size: tuple[int, int] = (32, 128)
    """Height and width of images, in pixels: multiples of 32 and 64."""
    pixel_mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    """Mean of R, G and B (0 to 255) to subtract from the pixels."""
    pixel_std: tuple[float, float, float] = (57.375, 57.12, 58.395)
    """Standard deviation to divide R, G and B by."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read."""

    def __post_init__(self) -> None:
        check_positive(self, "stem", "widths", "blocks", "dim", "heads", "inner_dim", "encoder_layers", "key_channels")
        check_positive(self, "image_size", "pixel_std")
        if self.widths[-1] != self.dim:
            raise ValueError(f"the last of widths {self.widths} must be dim, {self.dim}")
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(f"dim {self.dim} must be even, and a multiple of heads {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")
        if self.max_length < 2:
            raise ValueError(f"max_length {self.max_length} must be at least 2")
        if any(size % smallest for size, smallest in zip(self.image_size, _SMALLEST, strict=True)):
            raise ValueError(f"image_size {self.image_size} must be multiples of 32 and 64 pixels")

    @classmethod
    def tiny(cls, **changes: Any) -> "ABINetConfig":
        """32 wide, one block a stage: for tests."""
        sizes = {"stem": 8, "widths": (8, 8, 16, 16, 32), "blocks": (1,) * 5, "dim": 32, "heads": 4, "inner_dim": 64}
        return cls(**{**sizes, "encoder_layers": 1, "key_channels": 8, **changes})

    @property
    def n_classes(self) -> int:
        """Classes that are told apart."""
        return len(self.charset.characters) + 1 if self.end_only else self.charset.n_classes

    @property
    def has_unknown(self) -> bool:
        """Not with ``end_only``."""
        return not self.end_only

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        return self.image_size[0] // 4, self.image_size[1] // 4

    @property
    def character_tables(self) -> dict[str, int]:  # type: ignore[override]
        """The classifiers, and what embeds the classes for the language model."""
        parts = ["vision"] + (["language", "fusion"] if self.language else [])
        tables = {f"{part}/classifier/{name}": -1 for part in parts for name in ("kernel", "bias")}
        return tables | ({"language/embedding/kernel": 0} if self.language else {})

    def module(self, dtype: Any = jnp.float32) -> "ABINet":
        """The Flax module."""
        return ABINet(self, dtype)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        return self.module().init(key, jnp.zeros((1, *self.image_size, 3)))["params"]

    def frozen(self, path: str) -> bool:
        """Running statistics are."""
        return batch_norm.is_statistic(path)

    def loss(
        self,
        params: Any,
        image_BHWC: Array,
        tokens_BT: Array,
        valid_B: Array,
        key: Array,
        smoothing: float = 0.0,
        dtype: Any = jnp.float32,
    ) -> Loss:
        """Cross-entropy of what vision, language and fusion say, summed over the characters (and ends) of valid images.

        Those of language and fusion are means over the iterations. The weight is the number of characters and ends;
        with ``end_only`` that of all places.
        """
        seen, found = self.module(dtype).apply(
            {"params": params}, image_BHWC, valid_B, deterministic=False, rngs={"dropout": key}, mutable=[STATISTICS]
        )
        target_BT, ignored = self.targets(tokens_BT)
        loss_BT, weight_BT = self.prediction_loss(seen, target_BT, ignored, smoothing)
        weight_BT *= valid_B[:, None]
        correct_BT = (seen.final[:, :-1].argmax(axis=-1) == target_BT) * weight_BT
        metrics = {"character_accuracy": correct_BT.sum()}
        return Loss((loss_BT * valid_B[:, None]).sum(), weight_BT.sum(), metrics, found[STATISTICS])

    def targets(self, tokens_BT: Array) -> tuple[Array, int]:
        """The class of each place, int (B, T - 1), and the class whose places are not trained."""
        target_BT = tokens_BT[:, 1:]
        if not self.end_only:
            return target_BT, self.charset.padding
        return jnp.where(target_BT == self.charset.padding, self.charset.start_end, target_BT), -1

    @staticmethod
    def prediction_loss(
        seen: "Predictions", target_BT: Array, ignored: int, smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """The sum of the terms at each place, float32 (B, T - 1), and its weight, 0 where nothing is trained."""

        def term(logits_BTC: Array) -> tuple[Array, Array]:
            return token_loss(logits_BTC[:, :-1], target_BT, ignored, smoothing)

        loss_BT, weight_BT = term(seen.vision_BTC)
        for logits_IBTC in (seen.language_IBTC, seen.fused_IBTC):
            if logits_IBTC is not None:
                loss_BT += jax.vmap(term)(logits_IBTC)[0].mean(axis=0)
        return loss_BT, weight_BT

    def read(
        self, params: Any, image_BHWC: Array, dtype: Any = jnp.float32, allowed_BC: Array | None = None
    ) -> Reading:
        """Read normalised pixels, all places at once. The language model may think of classes that are not allowed."""
        seen: Any = self.module(dtype).apply({"params": params}, image_BHWC)
        probability_BTC = jax.nn.softmax(limited(seen.final, allowed_BC))
        token_BT = probability_BTC.argmax(axis=-1).astype(jnp.int32)
        ends_BT = token_BT == self.charset.start_end
        ended_BT = ends_BT.cumsum(axis=1) - ends_BT > 0
        return Reading(
            jnp.where(ended_BT, self.charset.padding, token_BT),
            jnp.where(ended_BT, 0.0, probability_BTC.max(axis=-1)),
        )

    def attention(self, params: Any, image_BHWC: Array, tokens_BT: Array, dtype: Any = jnp.float32) -> Array:
        """The position attention of the vision model, float32 (B, T, rows, columns).

        Each map adds up to 1. They depend on the image and the place only, not on the tokens.

        Raises:
          ValueError: where there are more tokens than the model reads.
        """
        length = tokens_BT.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens, but the model reads at most {self.max_length}")
        _, found = self.module(dtype).apply({"params": params}, image_BHWC, mutable=["intermediates"])
        return found["intermediates"]["vision"]["weights"][0][:, :length]

    def names(self) -> NameTable:
        """The reference's."""
        layers = self.language.layers if self.language else 0
        return abinet_names(self.dim, self.heads, self.map_size, self.max_length, len(self.blocks), layers)


class Predictions(NamedTuple):
    """What the parts of the model say, as float32 logits of T places; of I iterations all."""

    vision_BTC: Array
    """(B, T, classes)."""
    language_IBTC: Array | None = None
    """(I, B, T, classes), with a language model."""
    fused_IBTC: Array | None = None
    """(I, B, T, classes), with a language model."""

    @property
    def final(self) -> Array:
        """What is read."""
        return self.vision_BTC if self.fused_IBTC is None else self.fused_IBTC[-1]


class ABINet(nn.Module):
    """Word images to the logits of all places at once, computed in ``dtype``; parameters are float32."""

    config: ABINetConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the parts."""
        cfg, dtype = self.config, self.dtype
        layers = {"heads": cfg.heads, "inner_dim": cfg.inner_dim, "dropout": cfg.dropout, "dtype": dtype}
        self.backbone = ResNet45(cfg.stem, cfg.widths, cfg.blocks, _STRIDES, True, "xavier", dtype)
        self.encoder = Encoder(cfg.encoder_layers, **layers)
        self.vision = PositionAttention(cfg.max_length, cfg.key_channels, cfg.n_classes, dtype)
        if cfg.language:
            self.language = LanguageModel(cfg.n_classes, cfg.charset.start_end, cfg.dim, cfg.language.layers, **layers)
            self.fusion = Fusion(cfg.n_classes, dtype)

    def __call__(self, image_BHWC: Array, counted_B: Array | None = None, deterministic: bool = True) -> Predictions:
        """Normalised pixels to logits.

        ``counted_B``, float32 (B), tells in training of which images batch normalisation takes its statistics.
        """
        map_BHWD = self.encoder(self.backbone(image_BHWC, counted_B), deterministic)
        feature_BTD, logits_BTC = self.vision(map_BHWD, counted_B)
        language = self.config.language
        if language is None:
            return Predictions(logits_BTC)

        def correct(module: "ABINet", logits_BTC: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            language_BTD, language_BTC = module.language(logits_BTC, deterministic)
            fused_BTC = module.fusion(feature_BTD, language_BTD)
            return fused_BTC, (language_BTC, fused_BTC)

        corrected = nn.scan(
            correct,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=language.iterations,
        )
        _, (language_IBTC, fused_IBTC) = corrected(self, logits_BTC, None)
        return Predictions(logits_BTC, language_IBTC, fused_IBTC)
