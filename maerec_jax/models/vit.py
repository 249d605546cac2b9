"""The image encoder: a plain Vision Transformer over the patches of a word image (arXiv 2307.08723, section 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from maerec_jax.costs.work import Blocks, Work
from maerec_jax.models.attention import attend
from maerec_jax.models.dense import Dense, Keeps, rematerialised
from maerec_jax.models.lora import LowRank
from maerec_jax.models.position import resize_table, sincos_2d
from maerec_jax.models.stem import CHANNELS, SHRINKS, Stem, stem_operations
from maerec_jax.models.stem import SHARDING as STEM_SHARDING

Array = jax.Array

# A matrix is divided along "tensor" where its heads or hidden units are, so that attention and MLP need one reduction
# each, and along "fsdp" where the residual stream is. The rest is replicated: about a hundredth of a model.
SHARDING = (
    (r"blocks_\d+/q?kv/kernel", ("fsdp", None, "tensor", None)),  # width, 3 or 2, heads, head width
    (r"blocks_\d+/q?kv/bias", (None, "tensor", None)),
    (r"blocks_\d+/q/kernel", ("fsdp", "tensor", None)),
    (r"blocks_\d+/q/bias", ("tensor", None)),
    (r"lora_(query|value)/a/kernel", ()),  # width, rank: too small to be divided
    (r"lora_(query|value)/b/kernel", (None, "tensor", None)),  # rank, heads, head width
    (r"blocks_\d+/proj/kernel", ("tensor", None, "fsdp")),
    (r"blocks_\d+/fc1/kernel", ("fsdp", "tensor")),
    (r"blocks_\d+/fc1/bias", ("tensor",)),
    (r"blocks_\d+/fc2/kernel", ("tensor", "fsdp")),
    (r"blocks_(\d+/\w*)?norm\d?/(scale|bias)|blocks_\d+/(proj|fc2)/bias", ()),
    (r"encoder/patch_embed/kernel", (None, "fsdp")),  # patch values, width
    (r"patch_embed/bias|encoder/cls_token|encoder/pos_embed", ()),
    *STEM_SHARDING,
)
"""How the parameters of an encoder, and of blocks like its own, lie on a mesh (``ModelConfig.sharding``)."""


def check_positive(config: Any, *names: str) -> None:
    """Raise ``ValueError`` for a field of a config, a number or several, that is not above 0 and finite."""
    for name in names:
        value = getattr(config, name)
        if not all(0 < number < math.inf for number in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be above 0, but is {value}")


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer over word images, and the pixels that it expects."""

    dim: int = 384
    """Embedding width."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 6
    """Attention heads per block."""
    mlp_ratio: int = 4
    """Hidden width of the MLPs, as a multiple of dim."""
    image_size: tuple[int, int] = (32, 128)
    """Height and width of images, in pixels."""
    patch_size: tuple[int, int] = (4, 4)
    """Height and width of a patch, in pixels."""
    stem: Literal["patches", "convolutions"] = "patches"
    """What tokens are made from: patches of the pixels, or of what convolutions make of these, which learns sooner."""
    position_table: Literal["square", "grid"] = "square"
    """Initial position table: square, as in the published weights; grid, by the true rows and columns."""
    pixel_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Mean of R, G and B (0 to 255) to subtract from the pixels."""
    pixel_std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Standard deviation to divide R, G and B by."""
    remat: bool = False
    """Recompute each block in the backward pass: less memory, about a third more computation."""
    remat_keeps: Keeps = "nothing"
    """What remat keeps: products, the outputs of dense layers, cost memory but save most of that computation."""
    lora_rank: int = 0
    """Rank of LoRA adapters on queries and values, for fine-tuning with frozen encoder weights; 0 for none."""

    def __post_init__(self) -> None:
        check_positive(self, "dim", "depth", "heads", "mlp_ratio", "image_size", "patch_size", "pixel_std")
        if not all(map(math.isfinite, self.pixel_mean)):
            raise ValueError(f"pixel_mean must be finite, but is {self.pixel_mean}")
        if any(size % patch for size, patch in zip(self.image_size, self.patch_size, strict=True)):
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.stem == "convolutions" and any(a % b for a, b in zip(self.patch_size, SHRINKS, strict=True)):
            raise ValueError(
                f"patch_size {self.patch_size} is not a multiple of {SHRINKS}, what stem 'convolutions' shrinks by"
            )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if not 0 <= self.lora_rank <= self.dim:
            raise ValueError(f"lora_rank {self.lora_rank} must be at least 0 and at most dim {self.dim}")
        sincos_2d(self.grid, self.dim, self.position_table)  # raises ValueError where there is no such table

    @classmethod
    def small(cls, **changes: Any) -> "ViTConfig":
        """ViT-S: 384 wide, 12 blocks, 6 heads."""
        return cls(**{"dim": 384, "depth": 12, "heads": 6, **changes})

    @classmethod
    def base(cls, **changes: Any) -> "ViTConfig":
        """ViT-B: 768 wide, 12 blocks, 12 heads."""
        return cls(**{"dim": 768, "depth": 12, "heads": 12, **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> "ViTConfig":
        """64 wide, 2 blocks, 2 heads: for tests."""
        return cls(**{"dim": 64, "depth": 2, "heads": 2, **changes})

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.grid_of(self.image_size)

    def grid_of(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Patch rows and columns of an image of another size, height and width in pixels."""
        return image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1]

    @property
    def n_patches(self) -> int:
        """Number of patches, the class token not counted."""
        return self.grid[0] * self.grid[1]

    def work(
        self, image_size: tuple[int, int], seen: int, decoder: Sequence[Blocks], rest: int, recomputed: int = 0
    ) -> Work:
        """The work of a model with this encoder.

        Args:
          image_size: height and width of the image.
          seen: patches of an image that are encoded.
          decoder: blocks of a decoder that are computed again where those of the encoder are.
          rest: the forward pass of everything else.
          recomputed: what else is computed again for the gradient.
        """
        blocks = [Blocks(1 + seen, self.dim, self.depth, self.mlp_ratio, self.lora_rank), *decoder]
        embedding = [2 * seen * math.prod(self.projected) * self.dim]
        if self.stem == "convolutions":
            embedding = [*stem_operations(image_size), *embedding]
        forward = sum(embedding) + sum(block.forward for block in blocks) + rest
        if self.remat:
            kept = self.remat_keeps == "products"
            recomputed += sum(b.between_products if kept else b.forward - b.last_kernel for b in blocks)
        # Pixels have no gradient; beside adapters nothing has that makes tokens of them.
        backward = 2 * forward - embedding[0]
        if self.lora_rank:
            backward = 2 * (forward - sum(embedding)) - sum(block.frozen for block in blocks)
        return Work(forward, backward, recomputed)

    @property
    def patch_values(self) -> int:
        """Values in a patch: height x width x 3."""
        return self.patch_size[0] * self.patch_size[1] * 3

    @property
    def projected(self) -> tuple[int, int, int]:
        """Rows, columns and channels of what is projected of a patch: of its pixels, or of the stem's map."""
        (rows, columns), (down, across) = self.patch_size, SHRINKS
        return (rows, columns, 3) if self.stem == "patches" else (rows // down, columns // across, CHANNELS[-1])

    @property
    def pixel_axes(self) -> dict[str, int]:
        """``ModelConfig.pixel_axes`` of the encoder in a model."""
        return {"encoder/patch_embed/kernel": 0} if self.stem == "patches" else {"encoder/stem/conv1/kernel": 2}


@jax.named_scope("patchify")
def patchify(image_BHWC: Array, patch_size: tuple[int, int]) -> Array:
    """Cut images (B, H, W, C) into patches (B, N, P) in raster order; values in (row, column, channel) order."""
    b, h, w, c = image_BHWC.shape
    ph, pw = patch_size
    x = image_BHWC.reshape(b, h // ph, ph, w // pw, pw, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // ph) * (w // pw), ph * pw * c)


def unpatchify(patch_BNP: Array, image_size: Sequence[int], patch_size: tuple[int, int]) -> Array:
    """The inverse of ``patchify``: (B, N, P) to images (B, H, W, C)."""
    (h, w), (ph, pw) = image_size, patch_size
    x = patch_BNP.reshape(len(patch_BNP), h // ph, w // pw, ph, pw, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(patch_BNP), h, w, -1)


def with_visible_pixels(image_BHWC: Array, keep_BK: Array, patch_size: tuple[int, int]) -> Array:
    """Images (B, H, W, C) in which the pixels of all patches but those of ``keep_BK``, int (B, K), are 0."""
    b, h, w, _ = image_BHWC.shape
    (ph, pw), n_patches = patch_size, h * w // math.prod(patch_size)
    seen_BN = (keep_BK[..., None] == jnp.arange(n_patches)).any(axis=1)
    seen_BHW = seen_BN.reshape(b, h // ph, w // pw).repeat(ph, axis=1).repeat(pw, axis=2)
    return jnp.where(seen_BHW[..., None], image_BHWC, 0)


class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    dim: int
    heads: int
    mlp_ratio: int
    dtype: Any
    lora_rank: int = 0

    @nn.compact
    def __call__(self, x_BND: Array) -> Array:
        """(B, N, D) to (B, N, D)."""
        h = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm1")(x_BND)
        heads = (self.heads, self.dim // self.heads)
        qkv = Dense((3, *heads), dtype=self.dtype, name="qkv")(h)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if self.lora_rank:
            q = q + LowRank(heads, self.lora_rank, self.dtype, name="lora_query")(h)
            v = v + LowRank(heads, self.lora_rank, self.dtype, name="lora_value")(h)
        h = attend(q, k, v)
        x_BND = x_BND + Dense(self.dim, contracted=2, dtype=self.dtype, name="proj")(h)
        return add_mlp(x_BND, self.mlp_ratio, self.dtype)


def add_mlp(x_BND: Array, ratio: int, dtype: Any) -> Array:
    """x + mlp(norm(x)), with parameters ``norm2``, ``fc1`` and ``fc2`` of the calling module."""
    dim = x_BND.shape[-1]
    h = nn.LayerNorm(1e-6, dtype=dtype, name="norm2")(x_BND)
    h = nn.gelu(Dense(dim * ratio, dtype=dtype, name="fc1")(h), approximate=False)
    return x_BND + Dense(dim, dtype=dtype, name="fc2")(h)


def apply_blocks(
    x_BND: Array, depth: int, heads: int, mlp_ratio: int, encoder: ViTConfig, dtype: Any, prefix: str = "blocks"
) -> list[Array]:
    """Run blocks ``{prefix}_0``, ``{prefix}_1`` ... and LayerNorm ``{prefix}_norm`` inside the calling module.

    ``encoder`` says what is recomputed in the backward pass, and whether blocks have adapters. Returns what goes into
    each block, and last what comes out of the norm.
    """
    block = rematerialised(Block, encoder.remat, encoder.remat_keeps)
    features = []
    for i in range(depth):
        features.append(x_BND)
        x_BND = block(x_BND.shape[-1], heads, mlp_ratio, dtype, encoder.lora_rank, name=f"{prefix}_{i}")(x_BND)
    return [*features, nn.LayerNorm(1e-6, dtype=dtype, name=f"{prefix}_norm")(x_BND)]


class ViTEncoder(nn.Module):
    """Stem or none, patch embedding, class token, position table, blocks and a final norm, computed in ``dtype``."""

    config: ViTConfig
    dtype: Any = jnp.float32

    def __call__(self, image_BHWC: Array, keep_BK: Array | None = None) -> Array:
        """Encode images: the last of the ``features``, (B, 1 + K, D)."""
        return self.features(image_BHWC, keep_BK)[-1]

    @nn.compact
    def features(self, image_BHWC: Array, keep_BK: Array | None = None) -> list[Array]:
        """Encode images, and keep what lies between the blocks.

        Args:
          image_BHWC: normalised pixels (B, H, W, 3), float. Where their size is not that of the config, the position
            table is interpolated, which makes sense for a "grid" table only.
          keep_BK: int, indices of the patches to encode, all that is seen of the images; all of them by default.

        Returns:
          What goes into each block, float32, and last the encoded image in the dtype of the computation; each
          (B, 1 + K, D): the class token, then the patches in the order of ``keep_BK``.
        """
        cfg = self.config
        if cfg.stem == "patches":
            patch_BNP = patchify(image_BHWC, cfg.patch_size)
        else:
            # Windows of the stem reach beyond a patch, so that what is hidden has to be before it.
            shown = image_BHWC if keep_BK is None else with_visible_pixels(image_BHWC, keep_BK, cfg.patch_size)
            patch_BNP = patchify(Stem(self.dtype, name="stem")(shown), cfg.projected[:2])
        cls = self.param("cls_token", normal(0.02), (1, 1, cfg.dim))
        pos = self.param("pos_embed", lambda _: jnp.asarray(sincos_2d(cfg.grid, cfg.dim, cfg.position_table)))
        pos = resize_table(pos, cfg.grid, cfg.grid_of(image_BHWC.shape[1:3]))
        patch_pos = pos[:, 1:]
        if keep_BK is not None:
            patch_BNP = jnp.take_along_axis(patch_BNP, keep_BK[..., None], axis=1)
            patch_pos = patch_pos[0, keep_BK]
        embed = Dense(cfg.dim, dtype=self.dtype, name="patch_embed")
        # The residual stream stays in float32 whatever the dtype of the layers that read it and add to it.
        x = embed(patch_BNP) + patch_pos
        cls = jnp.broadcast_to(cls + pos[:, :1], (x.shape[0], 1, cfg.dim))
        x = jnp.concatenate([cls, x], axis=1)
        return apply_blocks(x, cfg.depth, cfg.heads, cfg.mlp_ratio, cfg, self.dtype)
