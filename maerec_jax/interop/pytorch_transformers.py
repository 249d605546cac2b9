"""NRTR and SATRN in PyTorch (``pytorch_baselines``)."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from maerec_jax.interop.pytorch_resnets import ConvNorm, ResNet31
from maerec_jax.interop.pytorch_text import TextAttention, TextDecoder, TextMlp, TransformerRecogniser, position_table

_SIDE = 100  # rows and columns that SATRN's position tables have


def first_places(places: int, width_B: Tensor, whole: int) -> Tensor:
    """bool (B, places): those that stand for picture, where ``width_B`` of the ``whole`` columns of pixels are."""
    seen_B = (places * width_B + whole - 1) // whole
    return torch.arange(places, device=width_B.device) < seen_B[:, None]


def first_columns(map_BDHW: Tensor, width_B: Tensor, whole: int) -> Tensor:
    """bool (B, H * W): the places of a map in the columns that stand for picture."""
    rows, columns = map_BDHW.shape[2:]
    return first_places(columns, width_B, whole).repeat(1, rows)


class NRTRLayer(nn.Module):
    """Pre-norm layer: self-attention and feed-forward."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim, 1e-5), nn.LayerNorm(config.dim, 1e-5)
        self.attn, self.mlp = TextAttention(config, config.dim), TextMlp(config)

    def forward(self, x_BND: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) to (B, N, D); ``mask`` is bool (B, 1, 1, N), false where nothing is read."""
        h = self.norm1(x_BND)
        x_BND = x_BND + self.attn(h, *self.attn.keys_values(h), mask)
        return x_BND + self.mlp(self.norm2(x_BND))


class NRTREncoder(nn.Module):
    """Layers over the places of a map, which are told nothing of where they lie."""

    def __init__(self, config: Any, layers: int) -> None:
        super().__init__()
        self.layer_stack = nn.ModuleList(NRTRLayer(config) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(config.dim, 1e-5)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """(B, N, D) to (B, N, D); ``mask_BN`` is false where nothing is read."""
        mask = None if mask_BN is None else mask_BN[:, None, None]
        for layer in self.layer_stack:
            x_BND = layer(x_BND, mask)
        return self.layer_norm(x_BND)


def _sizes(config: Any) -> SimpleNamespace:
    """What the encoder's layers are made of."""
    sizes = {"dim": config.channels[-1], "heads": config.encoder_heads, "inner_dim": config.encoder_inner_dim}
    return SimpleNamespace(**sizes, dropout=config.dropout)


class NRTR(TransformerRecogniser):
    """NRTR (arXiv 1806.00926): a residual network, a Transformer's encoder and the text decoder."""

    keeps_ratio = True

    def __init__(self, config: Any) -> None:
        super().__init__(config, config, config.decoder.max_length)
        dim = config.channels[-1]
        self.backbone = ResNet31(config.channels, config.blocks)
        self.encoder = NRTREncoder(_sizes(config), config.encoder_layers)
        self.decoder = TextDecoder(config.decoder, dim, self.start_end + 3, self.padding)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """(B, N, D), and which of the places are seen."""
        map_BDHW = self.backbone(image_BCHW)
        x_BND, mask_BN = map_BDHW.flatten(2).transpose(1, 2), None
        if width_B is not None and self.config.mask == "columns":
            mask_BN = first_columns(map_BDHW, width_B, image_BCHW.shape[3])
        elif width_B is not None:
            mask_BN = first_places(x_BND.shape[1], width_B, image_BCHW.shape[3])
        return self.encoder(x_BND, mask_BN), mask_BN


class AdaptivePosition(nn.Module):
    """Position tables of rows and columns, whose channels are weighed by what is in the picture."""

    h_position_encoder: Tensor
    w_position_encoder: Tensor

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout, table = dropout, position_table(_SIDE, dim).transpose(1, 2)
        self.register_buffer("h_position_encoder", table[..., None].clone())
        self.register_buffer("w_position_encoder", table[:, :, None].clone())
        self.h_scale, self.w_scale = (
            nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1), nn.Sigmoid()) for _ in "hw"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W)."""
        rows, columns = x.shape[2:]
        mean = x.mean((2, 3), keepdim=True)
        x = x + self.h_scale(mean) * self.h_position_encoder[:, :, :rows]
        x = x + self.w_scale(mean) * self.w_position_encoder[..., :columns]
        return F.dropout(x, self.dropout, self.training)


class LocalFeedForward(nn.Module):
    """Feed-forward with a depthwise convolution: each place sees those around it."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, inner_dim, 1)
        self.depthwise_conv = ConvNorm(inner_dim, inner_dim, 3, groups=inner_dim)
        self.conv2 = ConvNorm(inner_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W)."""
        return self.conv2(self.depthwise_conv(self.conv1(x)))


class SATRNLayer(nn.Module):
    """Pre-norm layer: self-attention and ``LocalFeedForward``."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim, 1e-5), nn.LayerNorm(config.dim, 1e-5)
        self.attn = TextAttention(config, config.dim)
        self.feed_forward = LocalFeedForward(config.dim, config.inner_dim)

    def forward(self, x_BND: Tensor, grid: tuple[int, int], mask: Tensor | None) -> Tensor:
        """(B, N, D), of a map with a grid of rows and columns, to (B, N, D); ``mask`` is bool (B, 1, 1, N)."""
        h = self.norm1(x_BND)
        x_BND = x_BND + self.attn(h, *self.attn.keys_values(h), mask)
        map_BDHW = self.norm2(x_BND).transpose(1, 2).unflatten(2, grid)
        return x_BND + self.feed_forward(map_BDHW).flatten(2).transpose(1, 2)


class SATRNEncoder(nn.Module):
    """Positions in two dimensions, and layers over the places of a map."""

    def __init__(self, config: Any, layers: int) -> None:
        super().__init__()
        self.position_enc = AdaptivePosition(config.dim, config.dropout)
        self.layer_stack = nn.ModuleList(SATRNLayer(config) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(config.dim, 1e-5)

    def forward(self, map_BDHW: Tensor, mask_BN: Tensor | None) -> Tensor:
        """(B, D, H, W) to (B, H * W, D); ``mask_BN`` is false where nothing is read."""
        x_BND, grid = self.position_enc(map_BDHW).flatten(2).transpose(1, 2), map_BDHW.shape[2:]
        mask = None if mask_BN is None else mask_BN[:, None, None]
        for layer in self.layer_stack:
            x_BND = layer(x_BND, grid, mask)
        return self.layer_norm(x_BND)


class SATRN(TransformerRecogniser):
    """SATRN (arXiv 1910.04396): two convolutions, an encoder in two dimensions and the text decoder."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, config, config.decoder.max_length)
        first, dim = config.channels
        self.backbone = nn.Module()
        self.backbone.conv1, self.backbone.conv2 = ConvNorm(3, first), ConvNorm(first, dim)
        self.encoder = SATRNEncoder(_sizes(config), config.encoder_layers)
        self.decoder = TextDecoder(config.decoder, dim, self.start_end + 3, self.padding)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """(B, N, D), and which of the places the decoder sees: with a width by another rule than the encoder."""
        x = image_BCHW
        for layer in self.backbone.children():
            x = F.max_pool2d(layer(x), 2)
        if width_B is None:
            return self.encoder(x, None), None
        whole = image_BCHW.shape[3]
        encoded_BND = self.encoder(x, first_columns(x, width_B, whole))
        return encoded_BND, first_places(encoded_BND.shape[1], width_B, whole)
