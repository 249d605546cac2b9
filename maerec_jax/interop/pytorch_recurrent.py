"""SAR and ASTER in PyTorch (``pytorch_baselines``)."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from maerec_jax.interop.pytorch_resnets import ASTERResNet, ConvNorm, ResNet31
from maerec_jax.interop.pytorch_text import Recogniser, State
from maerec_jax.interop.pytorch_transformers import first_places

_POINTS = 20  # of the thin-plate spline


class RecurrentRecogniser(Recogniser):
    """A recogniser whose decoder has a recurrent state: ``first_state``, ``memory_of`` and ``step``."""

    decoder: Any

    def decode(self, tokens_BT: Tensor, *encoded: Any) -> Tensor:
        """Teacher-forced logits of the next tokens (B, T, classes)."""
        memory, found = self.remember(*encoded), []
        past = self.start(memory, 0)
        for place in range(tokens_BT.shape[1]):
            logits_BV, past = self.decoder.step(tokens_BT[:, place], past, memory)
            found.append(logits_BV)
        return torch.stack(found, dim=1)

    def remember(self, *encoded: Any) -> State:
        """What the decoder sees of the images, and what of it is the same for all steps."""
        return self.decoder.memory_of(*encoded)

    def start(self, memory: State, room: int) -> State:
        """The recurrent state."""
        return self.decoder.first_state(memory)

    def step(self, place: Tensor, tokens_BT: Tensor, past: State, memory: State) -> tuple[Tensor, State]:
        """One step of the decoder."""
        return self.decoder.step(tokens_BT.index_select(1, place[None])[:, 0], past, memory)

    def recomputed(self, *encoded: Any) -> Tensor:
        """All steps, each of which computes anew what does not change between them."""
        past: State = ()
        found: list[Tensor] = []
        token_B = torch.full((len(encoded[0]),), self.start_end, device=encoded[0].device)
        for _ in range(self.max_length):
            memory = self.remember(*encoded)
            logits_BV, past = self.decoder.step(token_B, past or self.start(memory, 0), memory)
            found.append(logits_BV)
            token_B = logits_BV.argmax(dim=-1)
        return torch.stack(found, dim=1)


class SAREncoder(nn.Module):
    """An LSTM over the columns of a map, and the feature of the whole picture that it ends with."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.rnn_encoder = nn.LSTM(inputs, dim, 2, batch_first=True)
        self.linear = nn.Linear(dim, dim)

    def forward(self, map_BDHW: Tensor, seen_BW: Tensor | None) -> Tensor:
        """(B, D, H, W) to (B, dim); ``seen_BW`` is bool, false for the columns of the filling."""
        states_BWE, _ = self.rnn_encoder(map_BDHW.amax(dim=2).transpose(1, 2))
        if seen_BW is None:
            return self.linear(states_BWE[:, -1])
        last_BW = torch.arange(seen_BW.shape[1], device=seen_BW.device) == seen_BW.sum(dim=1, keepdim=True) - 1
        return self.linear((states_BWE * last_BW[..., None]).sum(dim=1))


class SARDecoder(nn.Module):
    """Two LSTM cells that look at the map in two dimensions."""

    def __init__(self, config: Any, classes: int, padding: int) -> None:
        super().__init__()
        self.dropout, self.cell_state = config.dropout, config.cell_state
        features, encoder_dim, dim = config.channels[-1], config.encoder_dim, config.decoder_dim
        self.conv1x1_1 = nn.Conv2d(dim, config.attention_dim, 1)
        self.conv3x3_1 = nn.Conv2d(features, config.attention_dim, 3, padding=1)
        self.conv1x1_2 = nn.Conv2d(config.attention_dim, 1, 1)
        self.rnn_decoder_layer1 = nn.LSTMCell(encoder_dim, dim)
        self.rnn_decoder_layer2 = nn.LSTMCell(dim, dim)
        self.embedding = nn.Embedding(classes, encoder_dim, padding_idx=padding)
        self.prediction = nn.Linear(dim + features + encoder_dim, classes)

    def memory_of(self, map_BDHW: Tensor, whole_BE: Tensor, seen_BW: Tensor | None) -> State:
        """The map, its keys, the feature of the whole picture, and which columns are seen if not all."""
        return (map_BDHW, self.conv3x3_1(map_BDHW), whole_BE, *(() if seen_BW is None else (seen_BW,)))

    def first_state(self, memory: State) -> State:
        """The hidden states and memories of both cells after a step with the whole picture as its input."""
        first = self.rnn_decoder_layer1(memory[2])
        return (*first, *self.rnn_decoder_layer2(first[0]))

    def step(self, token_B: Tensor, past: State, memory: State) -> tuple[Tensor, State]:
        """Logits (B, classes) of what comes after a token, and the next state."""
        map_BDHW, key_BAHW, whole_BE, *seen = memory
        h1, c1 = self.rnn_decoder_layer1(self.embedding(token_B), (past[0], past[1]))
        h2, c2 = self.rnn_decoder_layer2(h1, (past[2], past[3]))
        energy_BHW = self.conv1x1_2(torch.tanh(key_BAHW + self.conv1x1_1(h2[..., None, None])))[:, 0]
        if seen:
            energy_BHW = energy_BHW.masked_fill(~seen[0][:, None], -torch.inf)
        weights_BN1 = energy_BHW.flatten(1).softmax(dim=-1)[..., None]
        glimpse_BD = (map_BDHW.flatten(2) @ weights_BN1)[..., 0]
        logits_BV = self.prediction(torch.cat([h2, glimpse_BD, whole_BE], dim=-1))
        logits_BV = F.dropout(logits_BV, self.dropout, self.training)
        # The original code hands on hidden states as the cells' memories.
        return logits_BV, (h1, h1, h2, h2) if self.cell_state == "hidden" else (h1, c1, h2, c2)


class SAR(RecurrentRecogniser):
    """SAR (arXiv 1811.00751): a residual network and LSTMs with attention in two dimensions."""

    keeps_ratio = True

    def __init__(self, config: Any) -> None:
        super().__init__(config, config, config.max_length)
        self.backbone = ResNet31(config.channels, config.blocks)
        self.encoder = SAREncoder(config.channels[-1], config.encoder_dim)
        self.decoder = SARDecoder(config, self.start_end + 3, self.padding)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """The map (B, D, H, W), the feature of the whole picture (B, E), and which columns are seen (B, W) or None."""
        map_BDHW, seen_BW = self.backbone(image_BCHW), None
        if width_B is not None:
            seen_BW = first_places(map_BDHW.shape[3], width_B, image_BCHW.shape[3])
        return map_BDHW, self.encoder(map_BDHW, seen_BW), seen_BW


class Spline(nn.Module):
    """A thin-plate spline: rows of points in a picture become the upper and lower edge of a straight one."""

    inverse_kernel: Tensor
    padding_matrix: Tensor
    target_coordinate_repr: Tensor
    target_control_points: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = height, width = (size[0], size[1])
        points_K2 = edge_points(0.05)
        ones = torch.ones(_POINTS, 1, dtype=torch.float64)
        affine_K3 = torch.cat([ones, points_K2], dim=1)
        zeros = torch.zeros(3, 3, dtype=torch.float64)
        kernel = torch.cat(
            [torch.cat([_bending(points_K2, points_K2), affine_K3], 1), torch.cat([affine_K3.T, zeros], 1)]
        )
        y, x = (torch.linspace(0, 1, side, dtype=torch.float64) for side in (height, width))
        pixels_P2 = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)
        table = torch.cat([_bending(pixels_P2, points_K2), torch.ones_like(pixels_P2[:, :1]), pixels_P2], dim=1)
        self.register_buffer("inverse_kernel", torch.linalg.inv(kernel).float())
        self.register_buffer("padding_matrix", torch.zeros(3, 2))
        self.register_buffer("target_coordinate_repr", table.float())
        self.register_buffer("target_control_points", points_K2.float())

    def grid(self, points_BK2: Tensor) -> Tensor:
        """Where pixels of the straight picture come from, (B, height, width, 2) in [-1, 1], by points in [0, 1]."""
        padded = torch.cat([points_BK2, self.padding_matrix.expand(len(points_BK2), 3, 2)], dim=1)
        source_BP2 = self.target_coordinate_repr @ (self.inverse_kernel @ padded)
        return source_BP2.clamp(0, 1).unflatten(1, self.size) * 2 - 1

    def forward(self, image_BCHW: Tensor, points_BK2: Tensor) -> Tensor:
        """The straight picture (B, C, height, width)."""
        return F.grid_sample(image_BCHW, self.grid(points_BK2), align_corners=True)


def edge_points(margin: float) -> Tensor:
    """float64 (20, 2): points (x, y) along the upper edge, then along the lower one, both from left to right."""
    x = torch.linspace(margin, 1 - margin, _POINTS // 2, dtype=torch.float64)
    return torch.cat([torch.stack([x, torch.full_like(x, y)], dim=1) for y in (margin, 1 - margin)])


def _bending(from_P2: Tensor, to_K2: Tensor) -> Tensor:
    """The spline's kernel between points, (P, K)."""
    squared = (from_P2[:, None] - to_K2).square().sum(dim=-1)
    return 0.5 * torch.xlogy(squared, squared)


class Rectifier(nn.Module):
    """Finds the edges of a word in a small picture of it, and makes it straight."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.small = tuple(config.localisation_size)
        self.tps = Spline(config.rectified_size)
        widths, layers = (3, 32, 64, 128, 256, 256, 256), []
        for inputs, outputs in pairwise(widths):
            layers += [ConvNorm(inputs, outputs), nn.MaxPool2d(2)]
        self.stn_convnet = nn.Sequential(*layers[:-1])
        features = widths[-1] * (self.small[0] // 32) * (self.small[1] // 32)
        self.stn_fc1 = nn.Sequential(nn.Linear(features, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.stn_fc2 = nn.Linear(512, 2 * _POINTS)
        nn.init.zeros_(self.stn_fc2.weight)
        self.stn_fc2.bias.data = edge_points(0.01).float().flatten()

    def points(self, image_BCHW: Tensor) -> Tensor:
        """Points (x, y) on the edges, (B, 20, 2) in [0, 1], in the order of ``edge_points``."""
        small = F.interpolate(image_BCHW, self.small, mode="bilinear", align_corners=True)
        x = self.stn_fc1(self.stn_convnet(small).flatten(1))
        return self.stn_fc2(0.1 * x).unflatten(1, (_POINTS, 2))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to those of the straight picture."""
        return self.tps(image_BCHW, self.points(image_BCHW))


class ASTEREncoder(nn.Module):
    """An LSTM in both directions over one row of features."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.bilstm = nn.LSTM(inputs, dim, 2, batch_first=True, bidirectional=True)

    def forward(self, map_BD1N: Tensor) -> Tensor:
        """(B, D, 1, N) to (B, N, 2 * dim)."""
        return self.bilstm(map_BD1N.squeeze(2).transpose(1, 2))[0]


class ASTERDecoder(nn.Module):
    """A GRU with attention to the encoded row."""

    def __init__(self, config: Any, classes: int) -> None:
        super().__init__()
        encoded, dim, size = 2 * config.encoder_dim, config.attention_dim, config.decoder_dim
        self.proj_feat, self.proj_hidden = nn.Linear(encoded, dim), nn.Linear(size, dim)
        self.proj_sum = nn.Linear(dim, 1)
        self.embedding = nn.Embedding(classes, dim)
        self.gru = nn.GRU(dim + encoded, size, batch_first=True)
        self.fc = nn.Linear(size, classes)

    def memory_of(self, encoded_BNE: Tensor) -> State:
        """The encoded row, and its keys."""
        return encoded_BNE, self.proj_feat(encoded_BNE)

    def first_state(self, memory: State) -> State:
        """The hidden state."""
        return (memory[0].new_zeros(len(memory[0]), self.gru.hidden_size),)

    def step(self, token_B: Tensor, past: State, memory: State) -> tuple[Tensor, State]:
        """Logits (B, classes) of what comes after a token, and the next state."""
        (encoded_BNE, key_BNA), (hidden,) = memory, past
        weights_BN1 = self.proj_sum(torch.tanh(key_BNA + self.proj_hidden(hidden)[:, None])).softmax(dim=1)
        context_BE = (weights_BN1.transpose(1, 2) @ encoded_BNE)[:, 0]
        gru: Any = self.gru
        weights = (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
        hidden = torch.gru_cell(torch.cat([self.embedding(token_B), context_BE], dim=-1), hidden, *weights)
        return self.fc(hidden), (hidden,)


class ASTER(RecurrentRecogniser):
    """ASTER (IEEE TPAMI 2018): a rectifier, a residual network, an LSTM and a GRU with attention."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, config, config.max_length)
        self.preprocessor = Rectifier(config)
        self.backbone = ASTERResNet(config.stem, config.widths, config.blocks)
        self.encoder = ASTEREncoder(config.widths[-1], config.encoder_dim)
        self.decoder = ASTERDecoder(config, self.start_end + 3)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """The encoded row (B, N, E)."""
        return (self.encoder(self.backbone(self.preprocessor(image_BCHW))),)
