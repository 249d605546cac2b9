"""MAERec and its autoencoder in plain PyTorch, with the keys and shapes of the reference's state dicts.

What is computed is what ``maerec_jax.models`` computes from the parameters that ``weights.state_dicts`` puts in their
place. The twin reads the reference's weights, is what speed is compared with, and is the way to whatever PyTorch is
the way to::

    model = load("maerec_s.pth")
    texts, confidences = model.texts(images)  # uint8 RGB (B, 32, 128, 3)

Models can also be made from ``MAEConfig``, ``MAERecConfig`` or other objects with these attributes; new ones hold no
useful weights. Images are normalised pixels (B, 3, H, W), their channels in the order of the weights.
This file and ``pytorch_text`` need torch alone. ``pytorch_baselines`` has more recognisers.
"""

import json
import string
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from maerec_jax.interop.pytorch_text import TextDecoder, TransformerRecogniser
from maerec_jax.interop.pytorch_text import normalize as normalize

CHARACTERS = string.digits + string.ascii_letters + "!\"#$%&'()*+,-./:;<=>?@[\\]_`~ "
"""Those of the published recognisers, in the order of their classes."""


def load(path: str, characters: str = CHARACTERS, kinds: Mapping[str, Callable[[Any], Any]] | None = None) -> Any:
    """The model of a file, in eval mode, with its weights (``load_state_dict(strict=True)``).

    Files of ``maerec_jax.export`` say what they hold. Others are taken for a MAERec as published, of which only the
    width is found out: BGR pixels with their constants, and these ``characters``.

    Args:
      path: of the file.
      characters: those that a published recogniser reads.
      kinds: what makes a model of a config, by the kind of model; by default those of this file.

    Raises:
      ValueError: for a model of another kind.
    """
    file = torch.load(path, map_location="cpu", weights_only=True)
    state = next((file[name] for name in ("state_dict", "model") if name in file), file)
    written = file.get("meta", {}).get("maerec_jax", "")
    if written:
        about = json.loads(written, object_hook=lambda values: SimpleNamespace(**values))
        config, config.color = about.model, about.color
    elif "decoder.classifier.weight" not in state or not any("patch_embed" in name for name in state):
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
    kind, kinds = getattr(config, "kind", "maerec"), kinds or {"mae": MaskedAutoencoder, "maerec": MAERec}
    if kind not in kinds:
        raise ValueError(f"{path} holds a model of the kind {kind}, not of {', '.join(kinds)}: see pytorch_baselines")
    model = kinds[kind](config)
    model.load_state_dict(state, strict=True)
    model.about = written
    return model.eval()


def save(model: Any, path: str) -> None:
    """Write a model that ``load`` made, after fine-tuning, for ``load`` and ``maerec_jax.import_pytorch``.

    What its file said of sizes, characters and pixels stays beside the weights, which would else be taken for those of
    a published recogniser. One that had nothing like that is written as it was found, as a state dict alone.
    """
    meta = {"maerec_jax": model.about} if model.about else {}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)


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


class Stem(nn.Module):
    """Convolutions, each followed by a norm over its channels and an exact GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 3, (2, 2), 1), nn.LayerNorm(32, 1e-6)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, (2, 2), 1), nn.LayerNorm(64, 1e-6)
        self.conv3, self.norm3 = nn.Conv2d(64, 128, 3, (2, 1), 1), nn.LayerNorm(128, 1e-6)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) to a map (B, 128, H / 8, W / 4)."""
        x = image_BCHW
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2), (self.conv3, self.norm3)):
            x = F.gelu(norm(conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x


class PatchEmbedding(nn.Module):
    """A linear map of patches, whose weights are those of a convolution with stride."""

    def __init__(self, dim: int, patch_size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, patch_size)

    def forward(self, patch_BNP: Tensor) -> Tensor:
        """Patches as ``patchify`` cuts them (B, N, P) to (B, N, D)."""
        return F.linear(patch_BNP, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """What encoder and masked autoencoder are made of: stem or none, patches, class token, positions, blocks, norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        patches = (config.image_size[0] // config.patch_size[0]) * (config.image_size[1] // config.patch_size[1])
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.dim))
        self.stem = Stem() if getattr(config, "stem", "patches") == "convolutions" else None
        (rows, columns), channels = config.patch_size, 3
        if self.stem is not None:
            rows, columns, channels = rows // 8, columns // 4, 128
        self.projected = (rows, columns)
        self.patch_embed = PatchEmbedding(config.dim, self.projected, channels)
        sizes = (config.dim, config.heads, config.mlp_ratio, config.lora_rank)
        self.blocks = nn.Sequential(*(Block(*sizes) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim, 1e-6)

    def check(self, image_BCHW: Tensor) -> None:
        """Raise ``ValueError`` for images that are not of the config's size."""
        if tuple(image_BCHW.shape[-2:]) != tuple(self.config.image_size):
            raise ValueError(f"images are {tuple(image_BCHW.shape[-2:])}, the model's {self.config.image_size}")

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """What is projected of images (B, 3, H, W): their patches (B, N, P), or those of the map that a stem makes."""
        return patchify(image_BCHW if self.stem is None else self.stem(image_BCHW), self.projected)

    def encode(self, patch_BKP: Tensor, position_BKD: Tensor) -> Tensor:
        """Class token and patches (B, 1 + K, D), which lie at these positions: (B, 1 + K, D) or (1, 1 + K, D)."""
        x = self.patch_embed(patch_BKP) + position_BKD[:, 1:]
        cls = (self.cls_token + position_BKD[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([cls, x], dim=1)))


class Encoder(VisionTransformer):
    """The image encoder of a recogniser."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalised pixels to (B, 1 + N, D)."""
        self.check(image_BCHW)
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
        self.check(image_BCHW)
        n_keep = int(noise_BN.shape[1] * (1 - self.mae_config.mask_ratio))
        order_BN = noise_BN.argsort(dim=1)
        restore_BN = order_BN.argsort(dim=1)
        mask_BN = (restore_BN >= n_keep).float()
        patch_BNP = patchify(image_BCHW, self.config.patch_size)
        projected_BNP = patch_BNP if self.stem is None else self.patches(self._visible(image_BCHW, mask_BN))
        keep_BK = order_BN[:, :n_keep]
        seen_BKP = projected_BNP.gather(1, keep_BK[..., None].expand(-1, -1, projected_BNP.shape[-1]))
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

    def _visible(self, image_BCHW: Tensor, mask_BN: Tensor) -> Tensor:
        """Images whose hidden patches are 0, for windows that reach beyond a patch."""
        rows, columns = self.config.patch_size
        mask_BRC = mask_BN.view(len(mask_BN), image_BCHW.shape[2] // rows, -1)
        hidden_BHW = mask_BRC.repeat_interleave(rows, 1).repeat_interleave(columns, 2) > 0
        return image_BCHW.masked_fill(hidden_BHW[:, None], 0.0)


class MAERec(TransformerRecogniser):
    """Word images to text: the image encoder followed by the text decoder."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, config.encoder, config.decoder.max_length)
        self.backbone = AdaptedEncoder(config.encoder) if config.encoder.lora_rank else Encoder(config.encoder)
        self.decoder = TextDecoder(config.decoder, config.encoder.dim, self.start_end + 3, self.padding)

    def encode(self, image_BCHW: Tensor, width_B: Tensor | None = None) -> tuple[Any, ...]:
        """All tokens of the encoder (B, 1 + N, D), of which nothing is masked."""
        return self.backbone(image_BCHW), None

    def tokens(self, texts: list[str]) -> Tensor:
        """Texts as int64 (B, T): start, a class for each character, end, padding. ``loss`` learns from them."""
        classes = {character: i for i, character in enumerate(self.config.charset.characters)}
        ends = [self.start_end]
        rows = [torch.tensor([*ends, *(classes.get(c, self.unknown) for c in text), *ends]) for text in texts]
        tokens_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)
        if tokens_BT.shape[1] > self.max_length:
            raise ValueError(f"the longest text has more than {self.max_length - 2} characters")
        return tokens_BT.to(self.decoder.classifier.weight.device)

    def loss(self, image_BCHW: Tensor, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy of each next token, a mean over those that are no padding; see ``pixels`` and ``tokens``."""
        logits = self(image_BCHW, tokens_BT[:, :-1]).float()
        target = tokens_BT[:, 1:].flatten().long()
        return F.cross_entropy(logits.flatten(0, 1), target, ignore_index=self.padding)
