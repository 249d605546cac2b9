"""ABINet in PyTorch (``pytorch_baselines``)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from maerec_jax.interop.pytorch_resnets import ABINetResNet, ConvNorm
from maerec_jax.interop.pytorch_text import Reading, Recogniser, position_table


class Positions(nn.Module):
    """The table of positions, a constant."""

    position_table: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("position_table", position_table(length, dim))


class Attention(nn.Module):
    """Multi-head attention whose queries, keys and values have one matrix."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BQD: Tensor, memory_BND: Tensor, mask: Tensor | None) -> Tensor:
        """(B, Q, D) to (B, Q, D); ``mask`` is bool (B, 1, Q, N), false where nothing is read."""
        dim = x_BQD.shape[-1]
        q, k, v = (
            F.linear(x, self.in_proj_weight[part : part + dim], self.in_proj_bias[part : part + dim])
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for x, part in ((x_BQD, 0), (memory_BND, dim), (memory_BND, 2 * dim))
        )
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return F.dropout(self.out_proj(h.transpose(1, 2).flatten(2)), self.dropout, self.training)


class Layer(nn.Module):
    """Post-norm layer: attention and feed-forward, each added to its input before a norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, inner_dim, dropout = config.dim, config.inner_dim, config.dropout
        attention, mlp = nn.Module(), nn.Module()
        attention.attn = Attention(dim, config.heads, dropout)
        first = nn.Sequential(nn.Linear(dim, inner_dim), nn.ReLU(), nn.Dropout(dropout))
        mlp.layers = nn.Sequential(first, nn.Linear(inner_dim, dim), nn.Dropout(dropout))
        self.attentions: Any = nn.ModuleList([attention])
        self.ffns: Any = nn.ModuleList([mlp])
        self.norms = nn.ModuleList(nn.LayerNorm(dim, 1e-5) for _ in range(2))

    def forward(self, x_BQD: Tensor, memory_BND: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, Q, D), which attends to itself or to a memory, to (B, Q, D)."""
        memory_BND = x_BQD if memory_BND is None else memory_BND
        x_BQD = self.norms[0](x_BQD + self.attentions[0].attn(x_BQD, memory_BND, mask))
        return self.norms[1](x_BQD + self.ffns[0].layers(x_BQD))


class ABINetEncoder(nn.Module):
    """Layers over the places of a map."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        places = (config.image_size[0] // 4) * (config.image_size[1] // 4)
        self.pos_encoder = Positions(places, config.dim)
        self.transformer = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W)."""
        x_BND = map_BDHW.flatten(2).transpose(1, 2) + self.pos_encoder.position_table
        for layer in self.transformer:
            x_BND = layer(x_BND)
        return x_BND.transpose(1, 2).unflatten(2, map_BDHW.shape[2:])


class VisionDecoder(nn.Module):
    """Attends to the encoded map from all places of a text at once."""

    def __init__(self, config: Any, max_length: int, classes: int) -> None:
        super().__init__()
        dim, keys = config.dim, config.key_channels
        down = [ConvNorm(dim, keys, stride=(1, 2)), *(ConvNorm(keys, keys, stride=2) for _ in range(3))]
        up = [*(ConvNorm(keys, keys) for _ in range(3)), ConvNorm(keys, dim)]
        self.k_encoder = nn.ModuleList(down)
        self.k_decoder: Any = nn.ModuleList(nn.Sequential(nn.Identity(), layer) for layer in up)  # after enlarging
        self.pos_encoder = Positions(max_length, dim)
        self.project = nn.Linear(dim, dim)
        self.cls = nn.Linear(dim, classes)

    def keys(self, map_BDHW: Tensor) -> Tensor:
        """What the encoded map is found by, (B, D, H, W)."""
        seen = [map_BDHW]
        for layer in self.k_encoder:
            seen.append(layer(seen[-1]))
        x = seen.pop()
        for layer in self.k_decoder:
            same = seen.pop()
            x = layer(F.interpolate(x, same.shape[2:], mode="nearest"))
            x = x + same if seen else x  # but for the first map
        return x

    def forward(self, map_BDHW: Tensor) -> tuple[Tensor, Tensor]:
        """The encoded map to a feature for each place of the text (B, T, D), and its logits (B, T, classes)."""
        query_1TD = self.project(self.pos_encoder.position_table)
        scores_BTN = query_1TD @ self.keys(map_BDHW).flatten(2) * query_1TD.shape[-1] ** -0.5
        feature_BTD = scores_BTN.softmax(dim=-1) @ map_BDHW.flatten(2).transpose(1, 2)
        return feature_BTD, self.cls(feature_BTD)


class LanguageDecoder(nn.Module):
    """Writes a text anew, each character by those around it."""

    def __init__(self, config: Any, max_length: int, classes: int, end: int) -> None:
        super().__init__()
        self.end, self.dropout = end, config.dropout
        self.proj = nn.Linear(classes, config.dim, bias=False)
        self.token_encoder, self.pos_encoder = Positions(max_length, config.dim), Positions(max_length, config.dim)
        self.decoder_layers = nn.ModuleList(Layer(config) for _ in range(config.language.layers))
        self.cls = nn.Linear(config.dim, classes)

    def lengths(self, logits_BTV: Tensor) -> Tensor:
        """Places up to the first end, this included, int64 (B); at least two, and all where there is no end."""
        ends_BT = (logits_BTV.argmax(dim=-1) == self.end).int()
        before_BT = ends_BT.cumsum(dim=1) == 0
        return (before_BT.sum(dim=1) + 1).clamp(2, logits_BTV.shape[1])

    def forward(self, logits_BTV: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a text to a feature for each place (B, T, D), and its logits (B, T, classes)."""
        embedded_BTD = self.proj(logits_BTV.softmax(dim=-1).detach()) + self.token_encoder.position_table
        embedded_BTD = F.dropout(embedded_BTD, self.dropout, self.training)
        place_T = torch.arange(logits_BTV.shape[1], device=logits_BTV.device)
        known_BT = place_T < self.lengths(logits_BTV)[:, None]
        mask = (place_T != place_T[:, None]) & known_BT[:, None, None]
        x_BTD = self.pos_encoder.position_table.expand_as(embedded_BTD)
        for layer in self.decoder_layers:
            x_BTD = layer(x_BTD, embedded_BTD, mask)
        return x_BTD, self.cls(x_BTD)


class ABINetLogits(NamedTuple):
    """Logits (B, T, classes) of each part."""

    vision: Tensor
    """What is seen."""
    language: list[Tensor]
    """What the language model makes of it, for each iteration; none without one."""
    fusion: list[Tensor]
    """What both say together, for each iteration."""

    @property
    def last(self) -> Tensor:
        """Those that are read."""
        return self.fusion[-1] if self.fusion else self.vision


class ABINetDecoder(nn.Module):
    """Vision, and what language makes of it if there is a language model."""

    def __init__(self, config: Any, max_length: int, classes: int, end: int) -> None:
        super().__init__()
        self.vision_decoder = VisionDecoder(config, max_length, classes)
        self.iterations = 0 if config.language is None else config.language.iterations
        if config.language is not None:
            self.language_decoder = LanguageDecoder(config, max_length, classes, end)
            self.w_att = nn.Linear(2 * config.dim, config.dim)
            self.cls = nn.Linear(config.dim, classes)

    def forward(self, map_BDHW: Tensor) -> ABINetLogits:
        """The encoded map to the logits of all parts."""
        seen_BTD, vision = self.vision_decoder(map_BDHW)
        found = ABINetLogits(vision, [], [])
        for _ in range(self.iterations):
            told_BTD, language = self.language_decoder(found.last)
            gate_BTD = torch.sigmoid(self.w_att(torch.cat([seen_BTD, told_BTD], dim=-1)))
            found.language.append(language)
            found.fusion.append(self.cls(gate_BTD * told_BTD + (1 - gate_BTD) * seen_BTD))
        return found


class ABINet(Recogniser):
    """ABINet (arXiv 2103.06495): all characters at once by what is seen, then corrected by a language model if any."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, config, config.max_length)
        self.backbone = ABINetResNet(config.stem, config.widths, config.blocks)
        self.encoder = ABINetEncoder(config)
        classes = self.start_end + (1 if config.end_only else 3)
        self.decoder = ABINetDecoder(config, self.max_length, classes, self.start_end)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """The encoded map (B, D, H, W)."""
        return (self.encoder(self.backbone(image_BCHW)),)

    def logits(self, image_BCHW: Tensor) -> ABINetLogits:
        """Logits of all parts, of normalised pixels."""
        return self.decoder(*self.encode(image_BCHW))

    def decode(self, tokens_BT: Tensor, *encoded: Any) -> Tensor:
        """Those that are read (B, T, classes); the tokens do not matter."""
        return self.decoder(*encoded).last

    def recomputed(self, *encoded: Any) -> Tensor:
        """The same."""
        return self.decoder(*encoded).last

    @torch.no_grad()
    def read(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> Reading:
        """Read images, all places at once."""
        return self.read_as_original(image_BCHW, width_B)
