"""DBNet++, a text detector (Liao et al., TPAMI 2022), with the ResNet-50 of oCLIP: its inference alone.

Pictures of several sizes share a batch: each lies in the upper left of its row, on an area of its own whose sides are
multiples of 32. What is computed there does not depend on how large the row is, because every 3x3 convolution sees
zeros around the area, and means are taken over it alone.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from maerec_jax.models.batch_norm import BatchNorm
from maerec_jax.models.convolution import Conv
from maerec_jax.models.interface import normalize
from maerec_jax.models.names.dbnetpp import dbnetpp_names
from maerec_jax.models.names.table import NameTable

Array = jax.Array

STRIDE = 32
"""Sides of an area are multiples of this many pixels, as the deepest features have a 32nd of its size."""

_BLOCKS, _WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)  # of the four stages of the ResNet
_FUSED, _SMOOTH = 256, 64  # channels of the neck, and of each of the four maps that it joins


class Maps(NamedTuple):
    """What the network makes of pictures (B, H, W); what of it is not used under jit is not computed."""

    features: tuple[Array, ...]
    """float32 (B, H / s, W / s, C) of the backbone's four stages: s is 4, 8, 16, 32, and C 256, 512, 1024, 2048."""
    neck_BHWC: Array
    """float32 (B, H / 4, W / 4, 256): the features of all stages, fused by scale."""
    logits_BHW: Array
    """float32 (B, H, W): the probabilities before the sigmoid."""
    probability_BHW: Array
    """float32 (B, H, W): how likely a pixel belongs to a word, each word shrunken."""
    threshold_BHW: Array
    """float32 (B, H, W): the threshold of differentiable binarisation, which only training needs."""


@dataclass(frozen=True)
class DBNetPPConfig:
    """The detector that is published as dbnetpp_resnet50-oclip_fpnc_1200e_icdar2015: there are no other sizes."""

    kind: Literal["dbnetpp"] = "dbnetpp"
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """What R, G and B are divided by after that."""

    def init(self, key: Array) -> Any:
        """Fresh parameters, running means and variances included."""
        return DBNetPP().init(key, jnp.zeros((1, STRIDE, STRIDE, 3)), jnp.full((1, 2), STRIDE))["params"]

    def names(self) -> NameTable:
        """Where the tensors of the published file lie."""
        return dbnetpp_names(_BLOCKS)


def maps_of(params: Any, image_BHWC: Array, size_B2: Array) -> Maps:
    """The maps of pictures, each in the upper left of its row; under jit only what is used of them is computed.

    Args:
      params: the parameters.
      image_BHWC: uint8 RGB; height and width are multiples of 32.
      size_B2: int32, height and width of each picture; 0 for rows without any. Its area are the next multiples of 32,
        within which zeros, the mean colour, are around it.
    """
    config = DBNetPPConfig()
    x_BHWC = normalize(image_BHWC, config) * _inside(image_BHWC.shape, size_B2, 1)
    maps: Any = DBNetPP().apply({"params": params}, x_BHWC, -(-size_B2 // STRIDE) * STRIDE)
    return maps


class DBNetPP(nn.Module):
    """The whole detector. Norms use their running statistics."""

    @nn.compact
    def __call__(self, x_BHWC: Array, area_B2: Array) -> Maps:
        """The maps of a batch.

        Args:
          x_BHWC: normalised RGB; height and width are multiples of 32. What is outside an area does not count.
          area_B2: int32, height and width of each picture's area, multiples of 32; 0 for rows without a picture.
        """
        inside = {s: _inside(x_BHWC.shape, area_B2, s) for s in (1, 2, 4, 8, 16, 32)}
        features = _Backbone(name="backbone")(x_BHWC, inside)
        neck = _Neck(name="neck")(features, inside)
        logits = _Head(name="binarize")(neck, inside)
        thresholds = _Head(name="threshold")(neck, inside)
        return Maps(features, neck, logits, jax.nn.sigmoid(logits), jax.nn.sigmoid(thresholds))


def _inside(shape: tuple[int, ...], area_B2: Array, stride: int) -> Array:
    """float32 (B, H / stride, W / stride, 1): 1 in the areas of the pictures, 0 outside."""
    rows, columns = (jnp.arange(shape[1 + axis] // stride) < area_B2[:, axis, None] // stride for axis in (0, 1))
    return (rows[:, :, None] & columns[:, None, :]).astype(jnp.float32)[..., None]


def _conv(features: int, name: str, size: int = 1, stride: int = 1, bias: bool = False) -> Conv:
    return Conv(features, (size, size), (stride, stride), bias, name=name)


def _halved(x: Array) -> Array:
    return nn.avg_pool(x, (2, 2), (2, 2))


def _enlarged(x: Array, times: int) -> Array:
    """Each pixel ``times`` times in both directions: the nearest neighbour."""
    return jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2)


class _ConvNorm(nn.Module):
    """A convolution without bias and a norm; of size 3 with zeros around the area."""

    features: int
    size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, inside: Array | None = None) -> Array:
        x = x if inside is None else x * inside
        return BatchNorm(name="norm")(_conv(self.features, "conv", self.size, self.stride)(x))


class _Bottleneck(nn.Module):
    """A residual block. What halves the size are average pools, not strides."""

    width: int
    halves: bool
    projects: bool

    @nn.compact
    def __call__(self, x: Array, inside: Array) -> Array:
        """(B, H, W, C) to (B, H, W, 4 width), or half of H and W; ``inside`` is that of the input."""
        made = nn.relu(_ConvNorm(self.width, name="conv1")(x))
        made = nn.relu(_ConvNorm(self.width, 3, name="conv2")(made, inside))
        made = _ConvNorm(4 * self.width, name="conv3")(_halved(made) if self.halves else made)
        if self.projects:
            x = _ConvNorm(4 * self.width, name="shortcut")(_halved(x) if self.halves else x)
        return nn.relu(made + x)


class _Backbone(nn.Module):
    @nn.compact
    def __call__(self, x: Array, inside: dict[int, Array]) -> tuple[Array, ...]:
        for i, (features, stride) in enumerate(((32, 2), (32, 1), (64, 1))):
            x = nn.relu(_ConvNorm(features, 3, stride, name=f"stem_{i}")(x, inside[1 if i == 0 else 2]))
        x, stages = _halved(x), []
        for stage, (blocks, width) in enumerate(zip(_BLOCKS, _WIDTHS, strict=True)):
            for i in range(blocks):
                halves = stage > 0 and i == 0
                mask = inside[2 ** (stage + 1) if halves else 2 ** (stage + 2)]
                x = _Bottleneck(width, halves, i == 0, name=f"layer{stage + 1}_{i}")(x, mask)
            stages.append(x)
        return tuple(stages)


class _Neck(nn.Module):
    """The feature pyramid (FPNC), its maps weighted at each pixel by adaptive scale fusion."""

    @nn.compact
    def __call__(self, features: tuple[Array, ...], inside: dict[int, Array]) -> Array:
        maps = [_conv(_FUSED, f"lateral_{i}")(x) for i, x in enumerate(features)]
        for i in (2, 1, 0):
            maps[i] += _enlarged(maps[i + 1], 2)
        smooth = [_conv(_SMOOTH, f"smooth_{i}", 3)(x * inside[4 * 2**i]) for i, x in enumerate(maps)]
        smooth = [_enlarged(x, 2**i) for i, x in enumerate(smooth)]
        mask, joined = inside[4], jnp.concatenate(smooth, axis=-1)

        x = _conv(_FUSED, "fuse", 3, bias=True)(joined * mask)
        mean = (x * mask).sum(axis=(1, 2), keepdims=True) / jnp.maximum(mask.sum(axis=(1, 2), keepdims=True), 1)
        channels = _conv(_FUSED, "channel_1")(nn.relu(_conv(_SMOOTH, "channel_0")(mean)))
        x += jax.nn.sigmoid(channels)
        places = _conv(1, "spatial_0", 3)(x.mean(axis=-1, keepdims=True) * mask)
        x += jax.nn.sigmoid(_conv(1, "spatial_1")(nn.relu(places)))
        weights = jax.nn.sigmoid(_conv(len(smooth), "scales")(x))
        return jnp.concatenate([x * weights[..., i, None] for i, x in enumerate(smooth)], axis=-1)


class _Doubled(nn.Module):
    """A transposed convolution of size and stride 2: of each pixel four."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 2, 2, self.features))
        bias = self.param("bias", zeros, (self.features,))
        batch, height, width, _ = x.shape
        made = jnp.einsum("bhwi,iyxo->bhywxo", x, kernel) + bias
        return made.reshape(batch, 2 * height, 2 * width, self.features)


class _Head(nn.Module):
    """From the neck's features to a map of the picture's size, before its sigmoid."""

    @nn.compact
    def __call__(self, x: Array, inside: dict[int, Array]) -> Array:
        x = nn.relu(_ConvNorm(_SMOOTH, 3, name="conv")(x, inside[4]))
        x = nn.relu(BatchNorm(name="norm")(_Doubled(_SMOOTH, name="double_0")(x)))
        return _Doubled(1, name="double_1")(x)[..., 0]
