"""The models in plain PyTorch, with the keys and shapes of the reference's state dicts. This file needs torch alone.

What is computed is what ``maerec_jax.models`` computes from the parameters that ``weights.state_dicts`` puts in their
place. The twin reads the reference's weights, is what speed is compared with, and is the way to whatever PyTorch is
the way to::

    model = load("maerec_s.pth")
    texts, confidences = model.texts(images)  # uint8 RGB (B, 32, 128, 3)

Models can also be made from ``MAEConfig``, ``MAERecConfig`` or other objects with these attributes; new ones hold no
useful weights. Images are normalised pixels (B, 3, H, W), their channels in the order of the weights.
"""

import json
import string
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CHARACTERS = string.digits + string.ascii_letters + "!\"#$%&'()*+,-./:;<=>?@[\\]_`~ "
"""Those of the published recognisers, in the order of their classes."""
MAX_POSITIONS = 200
KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values of attention in each layer, (B, heads, places, head dim) each."""


def load(path: str, characters: str = CHARACTERS) -> "MAERec | MaskedAutoencoder":
    """The model of a file, in eval mode, with its weights (``load_state_dict(strict=True)``).

    Files of ``maerec_jax.export`` say what they hold. Others are taken for a recogniser as published, of which only the
    width is found out: BGR pixels with their constants, and these ``characters``.
    """
    file = torch.load(path, map_location="cpu", weights_only=True)
    state = next((file[name] for name in ("state_dict", "model") if name in file), file)
    written = file.get("meta", {}).get("maerec_jax", "")
    if written:
        about = json.loads(written, object_hook=lambda values: SimpleNamespace(**values))
        config, config.color = about.model, about.color
    elif "decoder.classifier.weight" not in state:
        raise ValueError(f"{path} is not a recogniser written by maerec_jax.export: try maerec_jax.import_pytorch")
    else:
        adapted = any(name.startswith("backbone.vit.") for name in state)
        dim = state["decoder.classifier.weight"].shape[1]
        sizes = {"image_size": (32, 128), "patch_size": (4, 4), "dim": dim, "depth": 12, "heads": dim // 64}
        pixels = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)}
        encoder = SimpleNamespace(**sizes, **pixels, mlp_ratio=4, lora_rank=4 * adapted)
        decoder = SimpleNamespace(dim=dim, layers=6, heads=8, inner_dim=4 * dim, dropout=0.1, max_length=48)
        charset = SimpleNamespace(characters=characters)
        config = SimpleNamespace(encoder=encoder, decoder=decoder, charset=charset, color="bgr")
    model = MAERec(config) if hasattr(config, "charset") else MaskedAutoencoder(config)
    model.load_state_dict(state, strict=True)
    model.about = written
    return model.eval()


def save(model: "MAERec | MaskedAutoencoder", path: str) -> None:
    """Write a model that ``load`` made, after fine-tuning, for ``load`` and ``maerec_jax.import_pytorch``.

    What its file said of sizes, characters and pixels stays beside the weights, which would else be taken for those of
    a published recogniser. One that had nothing like that is written as it was found, as a state dict alone.
    """
    meta = {"maerec_jax": model.about} if model.about else {}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)


def normalize(image_BHWC: Tensor, config: Any) -> Tensor:
    """uint8 pixels (B, H, W, 3) to the float32 pixels (B, 3, H, W) that the encoder expects."""
    mean, std = (image_BHWC.new_tensor(x, dtype=torch.float32) for x in (config.pixel_mean, config.pixel_std))
    return ((image_BHWC.float() - mean) / std).permute(0, 3, 1, 2)


def patchify(image_BCHW: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, N, P) in raster order; values in (row, column, channel) order."""
    b, c, h, w = image_BCHW.shape
    ph, pw = patch_size
    x = image_BCHW.reshape(b, c, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // ph) * (w // pw), ph * pw * c)


class AdaptedQkv(nn.Module):
    """Queries, keys and values, of which the first and the last have adapters (LoRA): W x + b + B A x."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.linear_a_q, self.linear_a_v = (nn.Linear(dim, rank, bias=False) for _ in "qv")
        self.linear_b_q, self.linear_b_v = (nn.Linear(rank, dim, bias=False) for _ in "qv")
        for linear_b in (self.linear_b_q, self.linear_b_v):
            nn.init.zeros_(linear_b.weight)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) to (B, N, 3 D)."""
        q, v = self.linear_b_q(self.linear_a_q(x_BND)), self.linear_b_v(self.linear_a_v(x_BND))
        return self.qkv(x_BND) + torch.cat([q, torch.zeros_like(q), v], dim=-1)


class Attention(nn.Module):
    """Self-attention of the image models: queries, keys and values from one linear map."""

    def __init__(self, dim: int, heads: int, lora_rank: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = AdaptedQkv(dim, lora_rank) if lora_rank else nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        b, n, d = x_BND.shape
        q, k, v = self.qkv(x_BND).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.proj(h.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm Transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, lora_rank: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, 1e-6)
        self.attn = Attention(dim, heads, lora_rank)
        self.norm2 = nn.LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchEmbedding(nn.Module):
    """A linear map of patches, whose weights are those of a convolution with stride."""

    def __init__(self, dim: int, patch_size: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, patch_BNP: Tensor) -> Tensor:
        """Patches as ``patchify`` cuts them (B, N, P) to (B, N, D)."""
        return F.linear(patch_BNP, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """Patches, class token, position table, blocks, norm: what the encoder and the masked autoencoder are made of."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        patches = (config.image_size[0] // config.patch_size[0]) * (config.image_size[1] // config.patch_size[1])
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.dim))
        self.patch_embed = PatchEmbedding(config.dim, config.patch_size)
        sizes = (config.dim, config.heads, config.mlp_ratio, config.lora_rank)
        self.blocks = nn.Sequential(*(Block(*sizes) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim, 1e-6)

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """The patches of images of the config's size."""
        if tuple(image_BCHW.shape[-2:]) != tuple(self.config.image_size):
            raise ValueError(f"images are {tuple(image_BCHW.shape[-2:])}, the model's {self.config.image_size}")
        return patchify(image_BCHW, self.config.patch_size)

    def encode(self, patch_BKP: Tensor, position_BKD: Tensor) -> Tensor:
        """Class token and patches (B, 1 + K, D), which lie at these positions: (B, 1 + K, D) or (1, 1 + K, D)."""
        x = self.patch_embed(patch_BKP) + position_BKD[:, 1:]
        cls = (self.cls_token + position_BKD[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([cls, x], dim=1)))


class Encoder(VisionTransformer):
    """The image encoder of a recogniser."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, 1 + N, D)."""
        return self.encode(self.patches(image_BCHW), self.pos_embed)


class AdaptedEncoder(nn.Module):
    """An encoder that is not trained beside adapters that are. These have second names, in a list of each kind."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vit = Encoder(config)
        for name, parameter in self.vit.named_parameters():
            parameter.requires_grad_("linear_" in name)
        for kind, part in (("query", "a"), ("query", "b"), ("value", "a"), ("value", "b")):
            own = [self.vit.get_submodule(f"blocks.{i}.attn.qkv.linear_{part}_{kind[0]}") for i in range(config.depth)]
            self.add_module(f"{kind}_{part.upper()}s", nn.ModuleList(own))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, 1 + N, D)."""
        return self.vit(image_BCHW)


class MaskedAutoencoder(VisionTransformer):
    """The masked autoencoder of pre-training; its position tables are constants."""

    about = ""
    """What the file that it comes from says of sizes, characters and pixels, as JSON."""

    def __init__(self, config: Any) -> None:
        super().__init__(config.encoder)
        self.mae_config = config
        width, encoder = config.decoder_dim, config.encoder
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.pos_embed.shape[1], width), requires_grad=False)
        self.decoder_embed = nn.Linear(encoder.dim, width)
        blocks = (Block(width, config.decoder_heads, 4) for _ in range(config.decoder_depth))
        self.decoder_blocks = nn.Sequential(*blocks)
        self.decoder_norm = nn.LayerNorm(width, 1e-6)
        self.decoder_pred = nn.Linear(width, 3 * encoder.patch_size[0] * encoder.patch_size[1])
        self.pos_embed.requires_grad_(False)

    def forward(self, image_BCHW: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask normalised pixels by noise, one value a patch, and reconstruct them.

        Returns:
          The loss, a scalar; the predicted patches (B, N, P); the mask (B, N), 1 where a patch was hidden.
        """
        n_keep = int(noise_BN.shape[1] * (1 - self.mae_config.mask_ratio))
        order_BN = noise_BN.argsort(dim=1)
        restore_BN = order_BN.argsort(dim=1)
        mask_BN = (restore_BN >= n_keep).float()
        patch_BNP = self.patches(image_BCHW)
        keep_BK = order_BN[:, :n_keep]
        seen_BKP = patch_BNP.gather(1, keep_BK[..., None].expand(-1, -1, patch_BNP.shape[-1]))
        positions = self.pos_embed[0][F.pad(1 + keep_BK, (1, 0))]  # the first is the class token's
        x = self.decoder_embed(self.encode(seen_BKP, positions))
        hidden = self.mask_token.to(x.dtype).expand(len(x), noise_BN.shape[1] - n_keep, -1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        patches = patches.gather(1, restore_BN[..., None].expand(-1, -1, x.shape[-1]))
        x = self.decoder_blocks(torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed)
        pred_BNP, target_BNP = self.decoder_pred(self.decoder_norm(x)[:, 1:]).float(), patch_BNP
        if self.mae_config.norm_pix:
            variance, mean = torch.var_mean(patch_BNP, dim=-1, keepdim=True, correction=1)
            target_BNP = (patch_BNP - mean) * torch.rsqrt(variance + 1e-6)
        error_BN = (pred_BNP - target_BNP).square().mean(dim=-1)
        return (error_BN * mask_BN).sum() / mask_BN.sum(), pred_BNP, mask_BN


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
        self.position_enc.register_buffer("position_table", torch.zeros(1, MAX_POSITIONS, config.dim))
        self.layer_stack: Any = nn.ModuleList(TextLayer(config, memory_dim) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.dim, 1e-6)
        self.classifier = nn.Linear(config.dim, n_classes)

    def keys_values(self, memory_BND: Tensor) -> KeysValues:
        """Those of cross-attention to an encoded image: computed once an image."""
        return [layer.enc_attn.keys_values(memory_BND) for layer in self.layer_stack]

    def forward(self, tokens_BT: Tensor, memory_BND: Tensor) -> Tensor:
        """Logits of the next tokens (B, T, classes), each place seeing itself and those before (teacher forcing)."""
        place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        mask = (place_T <= place_T[:, None]) & (tokens_BT != self.padding)[:, None, None]
        return self._logits(tokens_BT, place_T, mask, self.keys_values(memory_BND))[0]

    def step(self, place: Tensor, tokens_BT: Tensor, past: KeysValues, memory: KeysValues) -> tuple[Tensor, KeysValues]:
        """The logits (B, classes) of what comes after one place, and the keys and values with those of this place.

        Args:
          place: int64 scalar, counted from 0.
          tokens_BT: the tokens up to there, and padding.
          past: those of self-attention at the places before, or room for the most that there can be.
          memory: what ``keys_values`` gives.
        """
        token_B1, place_1 = tokens_BT.index_select(1, place[None]), place[None]
        places = min(past[0][0].shape[2] + 1, self.config.max_length)
        mask = (tokens_BT[:, :places] != self.padding)[:, None, None]
        logits, past = self._logits(token_B1, place_1, mask, memory, past)
        return logits[:, 0], past

    def _kept(self, old: Tensor, new: Tensor, place_1: Tensor) -> Tensor:
        """Keys or values, and those of one place: appended, or written there where there are as many as can be."""
        if old.shape[2] < self.config.max_length:
            return torch.cat([old, new], dim=2)
        here_T1 = (torch.arange(old.shape[2], device=old.device) == place_1)[:, None]
        return torch.where(here_T1, new, old)

    def _logits(
        self, tokens_BQ: Tensor, place_Q: Tensor, mask: Tensor, memory: KeysValues, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Logits (B, Q, classes), and what each layer attended to: all Q places, or of one those of the past, too."""
        positions = self.position_enc.get_buffer("position_table")[:, place_Q]
        x = F.dropout(self.trg_word_emb(tokens_BQ) + positions, self.config.dropout, self.training)
        own: KeysValues = []
        for i, (layer, image) in enumerate(zip(self.layer_stack, memory, strict=True)):
            h = layer.norm1(x)
            keys, values = layer.self_attn.keys_values(h)
            if past is not None:
                keys, values = (self._kept(*pair, place_Q) for pair in zip(past[i], (keys, values), strict=True))
            own.append((keys, values))
            x = x + layer.self_attn(h, keys, values, mask)
            x = x + layer.enc_attn(layer.norm2(x), *image)
            x = x + layer.mlp(layer.norm3(x))
        return self.classifier(self.layer_norm(x)), own


class Reading(NamedTuple):
    """What was read, before it is turned into text (``Charset.decode``)."""

    tokens_BT: Tensor
    """int64 (B, T): a class for each place, the start token not included; padding after the end."""
    probability_BT: Tensor
    """float32 (B, T): softmax probability of that class; 0 where nothing was read."""
    steps: Tensor
    """int64 scalar: how many places have been read."""
    past: KeysValues
    """See ``TextDecoder.step``."""


class MAERec(nn.Module):
    """Word images to text: the image encoder followed by the text decoder."""

    about = ""
    """What the file that it comes from says of sizes, characters and pixels, as JSON."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.backbone = AdaptedEncoder(config.encoder) if config.encoder.lora_rank else Encoder(config.encoder)
        self.start_end = len(config.charset.characters)  # then padding and the class of unknown characters
        self.decoder = TextDecoder(config.decoder, config.encoder.dim, self.start_end + 3, self.start_end + 1)

    def forward(self, image_BCHW: Tensor, tokens_BT: Tensor) -> Tensor:
        """Teacher-forced logits of the next tokens (B, T, classes), from normalised pixels and tokens."""
        return self.decoder(tokens_BT, self.backbone(image_BCHW))

    def pixels(self, image_BHWC: Tensor) -> Tensor:
        """uint8 RGB images (B, H, W, 3) to what the weights expect: normalised, channels first and in their order."""
        pixels = normalize(image_BHWC, self.config.encoder)
        return pixels.flip(1) if getattr(self.config, "color", "rgb") == "bgr" else pixels

    def tokens(self, texts: list[str]) -> Tensor:
        """Texts as int64 (B, T): start, a class for each character, end, padding. ``loss`` learns from them."""
        classes = {character: i for i, character in enumerate(self.config.charset.characters)}
        unknown, ends = self.start_end + 2, [self.start_end]
        rows = [torch.tensor([*ends, *(classes.get(c, unknown) for c in text), *ends]) for text in texts]
        tokens_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.decoder.padding)
        if tokens_BT.shape[1] > self.config.decoder.max_length:
            raise ValueError(f"the longest text has more than {self.config.decoder.max_length - 2} characters")
        return tokens_BT.to(self.decoder.classifier.weight.device)

    def loss(self, image_BCHW: Tensor, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy of each next token, a mean over those that are no padding; see ``pixels`` and ``tokens``."""
        logits = self(image_BCHW, tokens_BT[:, :-1]).float()
        target = tokens_BT[:, 1:].flatten().long()
        return F.cross_entropy(logits.flatten(0, 1), target, ignore_index=self.decoder.padding)

    @torch.no_grad()
    def read(self, image_BCHW: Tensor) -> Reading:
        """Read images greedily, with cached keys and values, until every text has ended. For a model in eval mode."""
        memory = self.decoder.keys_values(self.backbone(image_BCHW))
        reading = self.unread(memory)
        while self.goes_on(reading):
            reading = self.read_place(reading, memory)
        return reading

    def unread(self, memory: KeysValues, room: int = 0) -> Reading:
        """A reading of no places yet, of images with these keys and values, and room for those of so many places."""
        keys = memory[0][0]
        past = keys.new_zeros(keys.shape[0], keys.shape[1], room, keys.shape[3])
        tokens_BT = torch.full((len(keys), self.config.decoder.max_length), self.decoder.padding, device=keys.device)
        probability_BT = torch.zeros_like(tokens_BT, dtype=torch.float32)
        return Reading(tokens_BT, probability_BT, torch.tensor(0, device=keys.device), [(past, past)] * len(memory))

    def goes_on(self, reading: Reading) -> Tensor:
        """bool scalar: whether there is a text that has not ended, and place for it."""
        unfinished_B = (reading.tokens_BT != self.start_end).all(dim=1)
        return (reading.steps < self.config.decoder.max_length) & unfinished_B.any()

    def read_place(self, reading: Reading, memory: KeysValues) -> Reading:
        """The reading with one place more."""
        tokens_BT, probability_BT, place, past = reading
        ended_B = (tokens_BT == self.start_end).any(dim=1)
        before_BT = F.pad(tokens_BT[:, :-1], (1, 0), value=self.start_end)
        logits_BV, past = self.decoder.step(place, before_BT, past, memory)
        probability_B, token_B = logits_BV.float().softmax(dim=-1).max(dim=-1)
        token_B = token_B.masked_fill(ended_B, self.decoder.padding)
        probability_B = probability_B.masked_fill(ended_B, 0.0)
        here_T = torch.arange(tokens_BT.shape[1], device=place.device) == place
        tokens_BT = torch.where(here_T, token_B[:, None], tokens_BT)
        return Reading(tokens_BT, torch.where(here_T, probability_B[:, None], probability_BT), place + 1, past)

    def texts(self, image_BHWC: Tensor) -> tuple[list[str], list[float]]:
        """Texts of uint8 RGB images (B, H, W, 3), and the means of their characters' probabilities."""
        reading = self.read(self.pixels(image_BHWC))
        names = [*self.config.charset.characters, "", "", "<UKN>"]
        kept_BT = (reading.tokens_BT != self.start_end) & (reading.tokens_BT != self.decoder.padding)
        texts = ["".join(names[token] for token in tokens) for tokens in reading.tokens_BT.tolist()]
        sums_B = (reading.probability_BT * kept_BT).sum(dim=1)
        return texts, (sums_B / kept_BT.sum(dim=1).clamp(min=1)).tolist()
