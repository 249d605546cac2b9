"""The two parts of an ONNX file as PyTorch modules around the twin: encoding an image, and one place of a text.

``onnx_file`` joins them: the second part is the body of a loop. This module needs PyTorch and its ONNX exporter.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from maerec_jax.interop.pytorch_twin import Block, Encoder, MAERec, TextDecoder

OPSET = 20
"""Version of the ONNX operators: the first that has the exact GELU as one of them."""

_FLEXIBLE = torch.export.Dim.DYNAMIC

KeysValues = tuple[Tensor, Tensor]


class Encoding(nn.Module):
    """Patches of normalised pixels to what reading needs of the image.

    Attention is spelled out, with its queries divided by sqrt(head dim) in the weights: the exporter's own form of it
    has twice as many operations.
    """

    def __init__(self, model: MAERec) -> None:
        super().__init__()
        assert isinstance(model.backbone, Encoder)  # its adapters, if any, are merged before
        self.backbone, self.decoder, config = model.backbone, model.decoder, model.config.encoder
        self.heads, self.head = config.heads, config.dim // config.heads
        scale_E = torch.ones(3 * config.dim)
        scale_E[: config.dim] = self.head**-0.5
        self.blocks = cast("list[Block]", list(self.backbone.blocks))
        for i, block in enumerate(self.blocks):
            qkv = block.attn.qkv
            assert isinstance(qkv, nn.Linear)  # no adapters, see above
            self.register_buffer(f"weight_{i}", qkv.weight.detach() * scale_E[:, None])
            self.register_buffer(f"bias_{i}", qkv.bias.detach() * scale_E)

    def _attend(self, x_BND: Tensor, i: int) -> Tensor:
        """The self-attention of block ``i``."""
        batch, places, width = x_BND.shape
        qkv = F.linear(x_BND, self.get_buffer(f"weight_{i}"), self.get_buffer(f"bias_{i}"))
        q, k, v = (x.reshape(batch, places, self.heads, self.head) for x in qkv.split(width, dim=2))
        weights = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(dim=-1)
        h = weights @ v.transpose(1, 2)
        return self.blocks[i].attn.proj(h.transpose(1, 2).reshape(batch, places, width))

    def forward(self, patch_BNP: Tensor, position_1ND: Tensor) -> list[KeysValues]:
        """Keys (B, heads, head dim, 1 + N) and values (B, heads, 1 + N, head dim) of each layer of the decoder.

        Args:
          patch_BNP: patches as ``pytorch_twin.patchify`` cuts them.
          position_1ND: the position table (1, 1 + N, D) for images of this size.
        """
        vit = self.backbone
        x = vit.patch_embed(patch_BNP) + position_1ND[:, 1:]
        cls = (vit.cls_token + position_1ND[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        for i, block in enumerate(self.blocks):
            x = x + self._attend(block.norm1(x), i)
            x = x + block.mlp(block.norm2(x))
        x = vit.norm(x)
        return [(keys.transpose(2, 3), values) for keys, values in self.decoder.keys_values(x)]


class Stepped(NamedTuple):
    """What comes of a step, in the order of the outputs of a loop's body."""

    unfinished: Tensor
    """bool (): whether any text has not ended."""
    ended_B: Tensor
    """bool: whether the text has ended."""
    token_B: Tensor
    """int64: the likeliest token of each image, also after its end."""
    hidden_B11T: Tensor
    """float32 (B, 1, 1, T): -inf where the places so far hold padding, which is not attended to; else 0."""
    past: list[KeysValues]
    """Self-attention's keys (B, heads, head dim, T) and values (B, heads, T, head dim) of each layer."""
    written_B: Tensor
    """int64: the token to be written: padding after the end."""
    probability_B: Tensor
    """float32: its probability, 0 after the end."""


class Step(nn.Module):
    """One place of a text, with as few operations as it takes: at batch size 1 each costs more than its arithmetic.

    So there is no axis for the one place, nothing is transposed, and what self-attention makes of its input is one
    product, in which the queries are divided by sqrt(head dim) already.
    """

    def __init__(self, decoder: TextDecoder, start_end: int) -> None:
        super().__init__()
        self.decoder, self.start_end = decoder, start_end
        self.heads, self.head = decoder.config.heads, decoder.config.dim // decoder.config.heads
        with torch.no_grad():
            for i, layer in enumerate(decoder.layers):
                own = layer.self_attn
                query, cross = (a.linear_q.weight * self.head**-0.5 for a in (own, layer.enc_attn))
                self.register_buffer(f"qkv_{i}", torch.cat([query, own.linear_k.weight, own.linear_v.weight]))
                self.register_buffer(f"query_{i}", cross.clone())

    def forward(
        self,
        position: Tensor,
        ended_B: Tensor,
        token_B: Tensor,
        hidden_B11T: Tensor,
        past: Sequence[KeysValues],
        memory: Sequence[KeysValues],
    ) -> Stepped:
        """The token at ``position`` (int64 scalar) to the next; see ``Stepped`` and ``Encoding`` for the others."""
        decoder, width = self.decoder, self.decoder.config.dim
        query, key = (-1, self.heads, 1, self.head), (-1, self.heads, self.head, 1)
        x = decoder.trg_word_emb(token_B) + decoder.position_enc.position_table[0].index_select(0, position.reshape(1))
        hidden_B = torch.where(token_B == decoder.padding, -torch.inf, 0.0)
        hidden_B11T = torch.cat([hidden_B11T, hidden_B[:, None, None, None]], dim=3)
        written = []
        for i, (layer, (keys, values), (memory_keys, memory_values)) in enumerate(
            zip(decoder.layers, past, memory, strict=True)
        ):
            q, k, v = F.linear(layer.norm1(x), self.get_buffer(f"qkv_{i}")).split(width, dim=1)
            keys = torch.cat([keys, k.reshape(key)], dim=3)
            values = torch.cat([values, v.reshape(query)], dim=2)
            written.append((keys, values))
            weights = (q.reshape(query) @ keys + hidden_B11T).softmax(dim=-1)
            x = x + layer.self_attn.fc((weights @ values).reshape(-1, width))
            q = F.linear(layer.norm2(x), self.get_buffer(f"query_{i}"))
            weights = (q.reshape(query) @ memory_keys).softmax(dim=-1)
            x = x + layer.enc_attn.fc((weights @ memory_values).reshape(-1, width))
            x = x + layer.mlp(layer.norm3(x))
        logits_BC = decoder.classifier(decoder.layer_norm(x))
        token_B = logits_BC.argmax(dim=-1)
        written_B = torch.where(ended_B, decoder.padding, token_B)
        probability_B = torch.where(ended_B, 0.0, logits_BC.softmax(dim=-1).amax(dim=-1))
        ended_B = ended_B | (token_B == self.start_end)
        return Stepped(~ended_B.all(), ended_B, token_B, hidden_B11T, written, written_B, probability_B)


def export_encoding(model: MAERec) -> onnx.GraphProto:
    """``Encoding`` as a graph, for any number of images and patches."""
    encoder = model.config.encoder
    patch_BNP = torch.zeros(2, encoder.n_patches, encoder.patch_values)
    position_1ND = torch.zeros(1, 1 + encoder.n_patches, encoder.dim)
    return _export(Encoding(model), (patch_BNP, position_1ND), ({0: _FLEXIBLE, 1: _FLEXIBLE}, {1: _FLEXIBLE}))


def export_step(model: MAERec) -> onnx.GraphProto:
    """``Step`` as a graph, for any numbers of images, of places so far, and of patches."""
    step = Step(model.decoder, model.config.charset.start_end)
    batch, places, patches, layers = 2, 3, 5, len(model.decoder.layers)
    shapes = [((batch, step.heads, step.head, n), (batch, step.heads, n, step.head)) for n in (places, patches)]
    keys_values = [[(torch.zeros(keys), torch.zeros(values)) for _ in range(layers)] for keys, values in shapes]
    ended_B, token_B = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
    inputs = (torch.tensor(0), ended_B, token_B, torch.zeros(batch, 1, 1, places), *keys_values)
    many = {0: _FLEXIBLE}
    kept = [({0: _FLEXIBLE, 3: _FLEXIBLE}, {0: _FLEXIBLE, 2: _FLEXIBLE})] * layers
    return _export(step, inputs, (None, many, many, {0: _FLEXIBLE, 3: _FLEXIBLE}, kept, kept))


def _export(module: nn.Module, inputs: tuple[Any, ...], sizes: tuple[Any, ...]) -> onnx.GraphProto:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of every package that it would support, too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about PyTorch's own deprecations
            program = torch.onnx.export(
                module.eval(), inputs, dynamo=True, dynamic_shapes=sizes, opset_version=OPSET, verbose=False
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    found = program.model_proto
    assert not found.functions
    return found.graph
