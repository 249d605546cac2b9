"""What the recognisers in PyTorch share: the text decoder, and reading step by step. This file needs torch alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from unicodedata import normalize as normal_form

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

MAX_POSITIONS = 200
KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values of attention in each layer, (B, heads, places, head dim) each."""
State = tuple[Tensor, ...]
"""What is known between the steps of reading; the first axis is the batch's."""


def normalize(image_BHWC: Tensor, config: Any) -> Tensor:
    """uint8 pixels (B, H, W, 3) to the float32 pixels (B, 3, H, W) that the encoder expects."""
    mean, std = (image_BHWC.new_tensor(x, dtype=torch.float32) for x in (config.pixel_mean, config.pixel_std))
    return ((image_BHWC.float() - mean) / std).permute(0, 3, 1, 2)


def position_table(length: int, dim: int) -> Tensor:
    """Position table of the original Transformer: sin and cos in turn, float32 (1, length, dim)."""
    frequencies = (10000.0 ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)).float()
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(1, length, dim)


def pairs(tensors: Sequence[Tensor]) -> KeysValues:
    """Keys and values that lie in turn, as pairs."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def flat(keys_values: KeysValues) -> State:
    """Pairs of keys and values as tensors in turn."""
    return tuple(tensor for pair in keys_values for tensor in pair)


class TextAttention(nn.Module):
    """Multi-head attention without biases whose keys and values are computed apart, so that they can be kept."""

    def __init__(self, config: Any, memory_dim: int) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.linear_q = nn.Linear(config.dim, config.dim, bias=False)
        self.linear_k = nn.Linear(memory_dim, config.dim, bias=False)
        self.linear_v = nn.Linear(memory_dim, config.dim, bias=False)
        self.fc = nn.Linear(config.dim, config.dim, bias=False)

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, K, D), each (B, heads, K, head dim)."""
        return self._split(self.linear_k(x_BKD)), self._split(self.linear_v(x_BKD))

    def forward(self, x_BQD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from (B, Q, D); ``mask`` is bool, broadcastable to (B, heads, Q, K), false where nothing is read."""
        dropout = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(self._split(self.linear_q(x_BQD)), keys, values, mask, dropout)
        return F.dropout(self.fc(h.transpose(1, 2).flatten(2)), self.dropout, self.training)


class TextMlp(nn.Module):
    """Two linear maps with an exact GELU between them and dropout after them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.w_1 = nn.Linear(config.dim, config.inner_dim)
        self.w_2 = nn.Linear(config.inner_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return F.dropout(self.w_2(F.gelu(self.w_1(x))), self.dropout, self.training)


class TextLayer(nn.Module):
    """What a pre-norm layer is made of: causal self-attention, attention to the image, feed-forward."""

    def __init__(self, config: Any, memory_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.dim, 1e-5) for _ in range(3))
        self.self_attn = TextAttention(config, config.dim)
        self.enc_attn = TextAttention(config, memory_dim)
        self.mlp = TextMlp(config)


class TextDecoder(nn.Module):
    """Token ids and the encoded image to the logits of the next tokens."""

    def __init__(self, config: Any, memory_dim: int, n_classes: int, padding: int) -> None:
        super().__init__()
        self.config, self.padding = config, padding
        self.trg_word_emb = nn.Embedding(n_classes, config.dim, padding_idx=padding)
        self.position_enc = nn.Module()
        self.position_enc.register_buffer("position_table", position_table(MAX_POSITIONS, config.dim))
        self.layer_stack: Any = nn.ModuleList(TextLayer(config, memory_dim) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim, 1e-6)
        self.classifier = nn.Linear(config.dim, n_classes)

    def keys_values(self, memory_BND: Tensor) -> KeysValues:
        """Those of cross-attention to an encoded image: computed once an image."""
        return [layer.enc_attn.keys_values(memory_BND) for layer in self.layer_stack]

    def forward(self, tokens_BT: Tensor, memory_BND: Tensor, memory_mask_BN: Tensor | None = None) -> Tensor:
        """Logits of the next tokens (B, T, classes), each place seeing itself and those before (teacher forcing).

        ``memory_mask_BN`` is bool, false for the places of the image that nothing is read from.
        """
        return self.classifier(self.hidden(tokens_BT, memory_BND, memory_mask_BN))

    def hidden(self, tokens_BT: Tensor, memory_BND: Tensor, memory_mask_BN: Tensor | None = None) -> Tensor:
        """What ``forward`` makes its logits of, (B, T, D)."""
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        mask = (place_T <= place_T[:, None]) & (tokens_BT != self.padding)[:, None, None]
        return self._hidden(tokens_BT, place_T, mask, self.keys_values(memory_BND), memory_mask_BN)[0]

    def step(
        self,
        place: Tensor,
        tokens_BT: Tensor,
        past: KeysValues,
        memory: KeysValues,
        memory_mask_BN: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The logits (B, classes) of what comes after one place, and the keys and values with those of this place.

        Args:
          place: int64 scalar, counted from 0.
          tokens_BT: the tokens up to there, and padding.
          past: those of self-attention at the places before, or room for the most that there can be.
          memory: what ``keys_values`` gives.
          memory_mask_BN: as for ``forward``.
        """
        token_B1, place_1 = tokens_BT.index_select(1, place[None]), place[None]
        places = min(past[0][0].shape[2] + 1, self.config.max_length)
        mask = (tokens_BT[:, :places] != self.padding)[:, None, None]
        hidden_B1D, past = self._hidden(token_B1, place_1, mask, memory, memory_mask_BN, past)
        return self.classifier(hidden_B1D)[:, 0], past

    def _kept(self, old: Tensor, new: Tensor, place_1: Tensor) -> Tensor:
        """Keys or values, and those of one place: appended, or written there where there are as many as can be."""
        if old.shape[2] < self.config.max_length:
            return torch.cat([old, new], dim=2)
        here_T1 = (torch.arange(old.shape[2], device=old.device) == place_1)[:, None]
        return torch.where(here_T1, new, old)

    def _hidden(
        self,
        tokens_BQ: Tensor,
        place_Q: Tensor,
        mask: Tensor,
        memory: KeysValues,
        memory_mask_BN: Tensor | None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """(B, Q, D), and what each layer attended to: all Q places, or of one those of the past, too."""
        positions = self.position_enc.get_buffer("position_table")[:, place_Q]
        x = F.dropout(self.trg_word_emb(tokens_BQ) + positions, self.config.dropout, self.training)
        seen = None if memory_mask_BN is None else memory_mask_BN[:, None, None]
        own: KeysValues = []
        for i, (layer, image) in enumerate(zip(self.layer_stack, memory, strict=True)):
            h = layer.norm1(x)
            keys, values = layer.self_attn.keys_values(h)
            if past is not None:
                keys, values = (self._kept(*pair, place_Q) for pair in zip(past[i], (keys, values), strict=True))
            own.append((keys, values))
            x = x + layer.self_attn(h, keys, values, mask)
            x = x + layer.enc_attn(layer.norm2(x), *image, seen)
            x = x + layer.mlp(layer.norm3(x))
        return self.layer_norm(x), own


class Reading(NamedTuple):
    """What was read, before it is turned into text (``Charset.decode``)."""

    tokens_BT: Tensor
    """int64 (B, T): a class for each place, the start token not included; padding after the end."""
    probability_BT: Tensor
    """float32 (B, T): softmax probability of that class; 0 where nothing was read."""
    steps: Tensor
    """int64 scalar: how many places have been read."""
    past: State
    """What the next step goes on from (``Recogniser.step``)."""


class Recogniser(nn.Module):
    """Word images to text, one character after the other.

    Subclasses say how images are encoded (``encode``) and what comes of that in training (``decode``), step by step
    (``remember``, ``start``, ``step``), and step by step as the original code does it (``recomputed``). Those that keep
    the aspect ratio of images are told their widths in columns, int (B); None stands for whole images.
    """

    about = ""
    """What the file that it comes from says of sizes, characters and pixels, as JSON."""
    keeps_ratio = False
    """Whether images keep their aspect ratio, and are filled up with black on the right."""

    def __init__(self, config: Any, scale: Any, max_length: int) -> None:
        super().__init__()
        self.config, self.scale, self.max_length = config, scale, max_length
        self.start_end = len(config.charset.characters)  # then padding and the class of unknown characters
        self.padding, self.unknown = self.start_end + 1, self.start_end + 2

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """What normalised pixels are decoded from: the arguments of ``decode``, ``remember`` and ``recomputed``."""
        raise NotImplementedError

    def decode(self, tokens_BT: Tensor, *encoded: Any) -> Tensor:
        """Teacher-forced logits of the next tokens (B, T, classes)."""
        raise NotImplementedError

    def remember(self, *encoded: Any) -> State:
        """What all steps need of the images."""
        raise NotImplementedError

    def start(self, memory: State, room: int) -> State:
        """What the first step goes on from; ``room`` is how many places it has room for, 0 if it grows."""
        raise NotImplementedError

    def step(self, place: Tensor, tokens_BT: Tensor, past: State, memory: State) -> tuple[Tensor, State]:
        """Logits (B, classes) of what comes after a place, and what the next step goes on from.

        ``tokens_BT`` are the tokens up to that place, the start first, and padding.
        """
        raise NotImplementedError

    def recomputed(self, *encoded: Any) -> Tensor:
        """Logits (B, T, classes) of as many steps as there are places, with all that the original code computes."""
        raise NotImplementedError

    def forward(self, image_BCHW: Tensor, tokens_BT: Tensor, width_B: Tensor | None = None) -> Tensor:
        """Teacher-forced logits of the next tokens (B, T, classes), from normalised pixels and tokens."""
        return self.decode(tokens_BT, *self.encode(image_BCHW, width_B))

    def pixels(self, image_BHWC: Tensor) -> Tensor:
        """uint8 RGB images (B, H, W, 3) to what the weights expect: normalised, channels first and in their order."""
        pixels = normalize(image_BHWC, self.scale)
        return pixels.flip(1) if getattr(self.config, "color", "rgb") == "bgr" else pixels

    @torch.no_grad()
    def read(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> Reading:
        """Read images greedily until every text has ended, keeping what steps share. For a model in eval mode."""
        return self.read_from(self.remember(*self.encode(image_BCHW, width_B)))

    @torch.no_grad()
    def read_as_original(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> Reading:
        """The same as the original code computes it: all steps, however short the texts are, and nothing is kept."""
        return self.read_off(self.recomputed(*self.encode(image_BCHW, width_B)))

    @torch.no_grad()
    def read_from(self, memory: State) -> Reading:
        """Read what is known of images (``remember``)."""
        reading = self.unread(memory)
        while self.goes_on(reading):
            reading = self.read_place(reading, memory)
        return reading

    def unread(self, memory: State, room: int = 0) -> Reading:
        """A reading of no places yet, and room for those of so many (``start``)."""
        device = memory[0].device
        tokens_BT = torch.full((len(memory[0]), self.max_length), self.padding, device=device)
        probability_BT = torch.zeros_like(tokens_BT, dtype=torch.float32)
        return Reading(tokens_BT, probability_BT, torch.tensor(0, device=device), self.start(memory, room))

    def goes_on(self, reading: Reading) -> Tensor:
        """bool scalar: whether there is a text that has not ended, and place for it."""
        unfinished_B = (reading.tokens_BT != self.start_end).all(dim=1)
        return (reading.steps < self.max_length) & unfinished_B.any()

    def read_place(self, reading: Reading, memory: State) -> Reading:
        """The reading with one place more."""
        tokens_BT, probability_BT, place, past = reading
        ended_B = (tokens_BT == self.start_end).any(dim=1)
        before_BT = F.pad(tokens_BT[:, :-1], (1, 0), value=self.start_end)
        logits_BV, past = self.step(place, before_BT, past, memory)
        probability_B, token_B = logits_BV.float().softmax(dim=-1).max(dim=-1)
        token_B = token_B.masked_fill(ended_B, self.padding)
        probability_B = probability_B.masked_fill(ended_B, 0.0)
        here_T = torch.arange(tokens_BT.shape[1], device=place.device) == place
        tokens_BT = torch.where(here_T, token_B[:, None], tokens_BT)
        return Reading(tokens_BT, torch.where(here_T, probability_B[:, None], probability_BT), place + 1, past)

    def read_off(self, logits_BTV: Tensor) -> Reading:
        """The likeliest class at each place up to the end, of the logits of all places."""
        probability_BT, tokens_BT = logits_BTV.float().softmax(dim=-1).max(dim=-1)
        ends_BT = (tokens_BT == self.start_end).int()
        after_BT = ends_BT.cumsum(dim=1) > ends_BT
        tokens_BT = tokens_BT.masked_fill(after_BT, self.padding)
        steps = torch.tensor(self.max_length, device=logits_BTV.device)
        return Reading(tokens_BT, probability_BT.masked_fill(after_BT, 0.0), steps, ())

    def texts(self, image_BHWC: Tensor, width_B: Tensor | None = None) -> tuple[list[str], list[float]]:
        """Texts of uint8 RGB images (B, H, W, 3), and the means of their characters' probabilities."""
        reading = self.read(self.pixels(image_BHWC), width_B)
        names = [*self.config.charset.characters, "", "", "<UKN>"]
        kept_BT = (reading.tokens_BT != self.start_end) & (reading.tokens_BT != self.padding)
        written = ["".join(names[token] for token in tokens) for tokens in reading.tokens_BT.tolist()]
        texts = [normal_form("NFC", text) for text in written]  # letters and marks may be classes of their own
        sums_B = (reading.probability_BT * kept_BT).sum(dim=1)
        return texts, (sums_B / kept_BT.sum(dim=1).clamp(min=1)).tolist()


class TransformerRecogniser(Recogniser):
    """A recogniser with the text decoder; images are encoded as (B, N, D) and, or None, their places' mask (B, N)."""

    decoder: TextDecoder

    def decode(self, tokens_BT: Tensor, *encoded: Any) -> Tensor:
        """Teacher-forced logits of the next tokens (B, T, classes)."""
        return self.decoder(tokens_BT, *encoded)

    def remember(self, *encoded: Any) -> State:
        """Keys and values of cross-attention, and the mask if there is one."""
        memory_BND, mask_BN = encoded
        return (*flat(self.decoder.keys_values(memory_BND)), *(() if mask_BN is None else (mask_BN,)))

    def start(self, memory: State, room: int) -> State:
        """Keys and values of no places yet."""
        keys = memory[0]
        none = keys.new_zeros(keys.shape[0], keys.shape[1], room, keys.shape[3])
        return (none,) * 2 * self.config.decoder.layers

    def step(self, place: Tensor, tokens_BT: Tensor, past: State, memory: State) -> tuple[Tensor, State]:
        """``TextDecoder.step``."""
        masks, image = len(memory) % 2, len(memory) // 2 * 2
        mask_BN = memory[-1] if masks else None
        logits_BV, own = self.decoder.step(place, tokens_BT, pairs(past), pairs(memory[:image]), mask_BN)
        return logits_BV, flat(own)

    def recomputed(self, *encoded: Any) -> Tensor:
        """The whole decoder at every step, over one place more than are read."""
        memory_BND, mask_BN = encoded
        places = (len(memory_BND), self.max_length + 1)
        tokens_BT = torch.full(places, self.padding, device=memory_BND.device)
        tokens_BT[:, 0] = self.start_end
        found = []
        for place in range(self.max_length):
            hidden_BTD = self.decoder.hidden(tokens_BT, memory_BND, mask_BN)
            found.append(self.decoder.classifier(hidden_BTD[:, place]))
            tokens_BT[:, place + 1] = found[-1].argmax(dim=-1)
        return torch.stack(found, dim=1)
