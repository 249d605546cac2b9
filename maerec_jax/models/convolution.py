"""Convolutions as PyTorch has them, and the residual networks of the baselines made of them."""

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import product
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import ones, uniform, variance_scaling, xavier_normal, zeros

from maerec_jax.models.batch_norm import BatchNorm
from maerec_jax.models.winograd import convolve_by_tiles

Array = jax.Array
Strides = tuple[int, int]

kaiming_normal = variance_scaling(2.0, "fan_out", "normal")
"""He initialisation for ReLU by the outputs, untruncated as in PyTorch."""

SHARDING = (
    (r"conv\w*/kernel", (None, None, None, "fsdp")),
    (r"conv\w*/bias", ()),
)
"""How convolutions lie on a mesh (``ModelConfig.sharding``), where they are named so."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FEW_PIXELS = 8
_FEW_CHANNELS = 4
_WIDE, _ENOUGH_PIXELS = 64, 24  # from which fewer products outweigh the sums for them, and those of the kernel


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Array, kernel: Array, strides: Strides, groups: int) -> Array:
    """Convolve (B, H, W, in) with a float32 kernel (rows, columns, in / groups, out), in the dtype of ``x``.

    Borders are padded with zeros by half of the kernel. The kernel's gradient is summed in float32. Where there is no
    gradient, as in reading, wide kernels of 3 x 3 take fewer products on CPUs (``models.winograd``).
    """
    kernel, direct = kernel.astype(x.dtype), partial(_convolve, strides=strides, groups=groups)
    if kernel.shape[:2] == (3, 3) and groups == 1 and x.dtype == jnp.float32:
        large = min(kernel.shape[2:]) >= _WIDE and x.shape[1] * x.shape[2] >= _ENOUGH_PIXELS
        if large and strides in ((1, 1), (2, 1)):
            return jax.lax.platform_dependent(
                x, kernel, cpu=partial(convolve_by_tiles, strides=strides), default=direct
            )
        if kernel.shape[2] <= _FEW_CHANNELS and strides == (1, 1):
            return jax.lax.platform_dependent(x, kernel, cpu=_of_surroundings, default=direct)
    return direct(x, kernel)


def _convolve(x: Array, kernel: Array, strides: Strides, groups: int) -> Array:
    # Compilers for CPUs take twice as long for kernels of one pixel as for products, nine times as long for kernels of
    # single channels as for sums of shifted maps, and ten times as long for the smallest maps.
    (rows, columns, _, outputs), padding = kernel.shape, [(side // 2, side // 2) for side in kernel.shape[:2]]
    if (rows, columns, groups) == (1, 1, 1):
        return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
    if groups == outputs == x.shape[-1] and strides == (1, 1):
        return reduce(jnp.add, (kernel[down, right, 0] * part for down, right, part in _shifted(x, padding)))
    if x.shape[1] * x.shape[2] <= _FEW_PIXELS and strides == (1, 1) and groups == 1:
        return _of_surroundings(x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT, feature_group_count=groups
    )


def _of_surroundings(x: Array, kernel: Array) -> Array:
    """As one product of each pixel with all that its kernel sees."""
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    around = jnp.concatenate([part for *_, part in _shifted(x, padding)], axis=-1)
    return around @ kernel.reshape(-1, kernel.shape[-1])


def _shifted(x: Array, padding: list[tuple[int, int]]) -> Iterator[tuple[int, int, Array]]:
    """For each pixel (row, column) of a kernel, the map that it sees, as large as ``x``."""
    rows, columns = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    for down, right in product(*(range(2 * side + 1) for side, _ in padding)):
        yield down, right, x[:, down : down + rows, right : right + columns]


def _forward(x: Array, kernel: Array, strides: Strides, groups: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel.astype(x.dtype), strides, groups), (x, kernel)


def _backward(strides: Strides, groups: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    exact = x.astype(jnp.float32)
    of_x = jax.linear_transpose(lambda x: _convolve(x, kernel.astype(x.dtype), strides, groups), x)
    of_kernel = jax.linear_transpose(lambda kernel: _convolve(exact, kernel, strides, groups), kernel)
    return *of_x(g), *of_kernel(g.astype(jnp.float32))


convolve.defvjp(_forward, _backward)


@jax.custom_vjp
def add_bias(x: Array, bias: Array) -> Array:
    """Add a float32 bias (C) to (..., C) in the dtype of ``x``. Its gradient is summed in float32."""
    return x + bias.astype(x.dtype)


add_bias.defvjp(
    lambda x, bias: (add_bias(x, bias), None),
    lambda _, g: (g, g.sum(axis=tuple(range(g.ndim - 1)), dtype=jnp.float32)),
)


class Conv(nn.Module):
    """A convolution, padded by half of its kernel with zeros."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    strides: Strides = (1, 1)
    use_bias: bool = False
    groups: int = 1
    dtype: Any = jnp.float32
    kernel_init: Any = kaiming_normal
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        """(B, H, W, in) to (B, H / stride, W / stride, features), rounded up."""
        shape = (*self.kernel, x_BHWC.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        out = convolve(x_BHWC.astype(self.dtype), kernel, self.strides, self.groups)
        return add_bias(out, self.param("bias", self.bias_init, (self.features,))) if self.use_bias else out


class ConvNorm(nn.Module):
    """A convolution, batch normalisation and ReLU: ``conv`` and ``norm``."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    strides: Strides = (1, 1)
    use_bias: bool = False
    groups: int = 1
    dtype: Any = jnp.float32
    kernel_init: Any = kaiming_normal
    scale_init: Any = ones

    @nn.compact
    def __call__(self, x_BHWC: Array, counted_B: Array | None = None) -> Array:
        """(B, H, W, in) to (B, H / stride, W / stride, features)."""
        conv = Conv(
            self.features, self.kernel, self.strides, self.use_bias, self.groups, self.dtype, self.kernel_init,
            name="conv",
        )  # fmt: skip
        return nn.relu(BatchNorm(self.dtype, self.scale_init, name="norm")(conv(x_BHWC), counted_B))


class ResidualBlock(nn.Module):
    """Two convolutions, each with batch normalisation, beside a shortcut; the second one carries the strides."""

    features: int
    first_kernel: tuple[int, int]
    strides: Strides
    projects: bool  # whether the shortcut is a convolution and a norm, not the input itself
    dtype: Any
    kernel_init: Any
    scale_init: Any

    @nn.compact
    def __call__(self, x: Array, counted_B: Array | None) -> Array:
        """(B, H, W, in) to (B, H / stride, W / stride, features)."""
        conv = partial(Conv, self.features, dtype=self.dtype, kernel_init=self.kernel_init)
        norm = partial(BatchNorm, self.dtype, self.scale_init)
        h = nn.relu(norm(name="norm1")(conv(kernel=self.first_kernel, name="conv1")(x), counted_B))
        h = norm(name="norm2")(conv(strides=self.strides, name="conv2")(h), counted_B)
        if self.projects:
            shortcut = conv(kernel=(1, 1), strides=self.strides, name="conv_shortcut")(x)
            x = norm(name="norm_shortcut")(shortcut, counted_B)
        return nn.relu(h + x)


class ResNet45(nn.Module):
    """ASTER's residual network (IEEE TPAMI 2018): a stem and five stages of blocks of 1 x 1 and 3 x 3 kernels.

    ABINet has the same with other strides, a bias in the stem, and Xavier's initialisation.
    """

    stem: int
    widths: Sequence[int]
    blocks: Sequence[int]
    strides: Sequence[Strides]
    stem_bias: bool = False
    initialiser: Literal["kaiming", "xavier"] = "kaiming"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: Array, counted_B: Array | None = None) -> Array:
        """Normalised pixels to features; what each stage gives is sown as "stages"."""
        init = kaiming_normal if self.initialiser == "kaiming" else xavier_normal()
        x = ConvNorm(self.stem, use_bias=self.stem_bias, dtype=self.dtype, kernel_init=init, name="stem")(
            x_BHWC, counted_B
        )
        self.sow("intermediates", "stages", x)
        for stage, (width, blocks, strides) in enumerate(zip(self.widths, self.blocks, self.strides, strict=True), 1):
            for number in range(blocks):
                first = number == 0
                x = ResidualBlock(
                    width, (1, 1), strides if first else (1, 1), first, self.dtype, init, ones,
                    name=f"stage{stage}_{number}",
                )(x, counted_B)  # fmt: skip
            self.sow("intermediates", "stages", x)
        return x


class ResNet31(nn.Module):
    """The residual network of NRTR and SAR (arXiv 1811.00751, table 1): blocks of two 3 x 3 kernels between poolings.

    ``channels`` are those of the two convolutions of the stem and of the four stages. Each stage is a max-pooling, but
    for the last, its blocks, and a convolution.
    """

    channels: Sequence[int]
    blocks: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: Array, counted_B: Array | None = None) -> Array:
        """Normalised pixels to features (B, H / 8, W / 4, channels[-1]); each stage is sown as "stages"."""
        # PyTorch's mmcv begins with scales between 0 and 1 here.
        layer = partial(ConvNorm, use_bias=True, dtype=self.dtype, scale_init=uniform(1.0))
        x = layer(self.channels[0], name="stem1")(x_BHWC, counted_B)
        x = layer(self.channels[1], name="stem2")(x, counted_B)
        self.sow("intermediates", "stages", x)
        pools: tuple[Strides | None, ...] = ((2, 2), (2, 2), (2, 1), None)
        for stage, (width, blocks, pool) in enumerate(zip(self.channels[2:], self.blocks, pools, strict=True), 2):
            if pool is not None:
                x = nn.max_pool(x, pool, pool)
            for number in range(blocks):
                projects = x.shape[-1] != width
                x = ResidualBlock(
                    width, (3, 3), (1, 1), projects, self.dtype, kaiming_normal, uniform(1.0),
                    name=f"stage{stage}_{number}",
                )(x, counted_B)  # fmt: skip
            x = layer(width, name=f"stage{stage}")(x, counted_B)
            self.sow("intermediates", "stages", x)
        return x
