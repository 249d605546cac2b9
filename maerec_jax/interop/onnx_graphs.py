"""The ONNX graphs of recognisers: what their models in PyTorch read, exported by PyTorch. Needs the extra ``onnx``."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript import opset20 as op
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop_op
from torch.nn.utils.rnn import pad_sequence

from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.interop.pytorch_abinet import ABINet
from maerec_jax.interop.pytorch_text import Reading, Recogniser, State, flat

Shapes = Sequence[tuple[int, int]]
"""Heights and widths of images."""


def maerec_graph(model: twin.MAERec, shapes: Shapes, tables: Sequence[np.ndarray]) -> ModelProto:
    """What reads uint8 RGB ``image`` (B, H, W, 3) of one of several shapes, with a position table (1, 1 + N, D) each.

    Its outputs are those of ``onnx_file.write_onnx``.
    """
    sizes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if len(shapes) > 1:
        patch_size = model.config.encoder.patch_size
        rows, columns = (side * torch.export.Dim(name) for side, name in zip(patch_size, "hw", strict=True))
        sizes |= {1: rows, 2: columns}
    return _graph(_MAERecReader(model, shapes, tables), {"image": _images(shapes[0])}, (sizes,))


def baseline_graph(model: Recogniser) -> ModelProto:
    """The same of a model of ``pytorch_baselines``, for images of its size; also of int32 ``width`` (B), where it keeps
    the aspect ratio."""
    inputs = {"image": _images(model.config.image_size)}
    if model.keeps_ratio:
        inputs["width"] = torch.tensor(model.config.image_size[1:] * 2, dtype=torch.int32)
    return _graph(_BaselineReader(model), inputs, ({0: torch.export.Dim.DYNAMIC},) * len(inputs))


def _images(shape: Sequence[int]) -> Tensor:
    return torch.zeros(2, *shape, 3, dtype=torch.uint8)


class _MAERecReader(nn.Module):
    """uint8 images of one of several heights and widths to tokens (B, T), probabilities (B, T) and number of steps."""

    shapes: Tensor
    tables: Tensor

    def __init__(self, model: twin.MAERec, shapes: Shapes, tables: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("shapes", torch.tensor(shapes))
        self.register_buffer("tables", pad_sequence([torch.from_numpy(table[0]) for table in tables], batch_first=True))

    def forward(self, image_BHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, probabilities and the number of steps."""
        model, encoder = self.model, self.model.backbone
        assert isinstance(encoder, twin.Encoder)  # adapters are merged
        patch_BNP = encoder.patches(model.pixels(image_BHWC))
        encoded_BND = encoder.encode(patch_BNP, self._positions(image_BHWC, patch_BNP))
        return _read(model, flat(model.decoder.keys_values(encoded_BND)))

    def _positions(self, image_BHWC: Tensor, patch_BNP: Tensor) -> Tensor:
        """The position table of the images' size; of a size that is not known, one that is not there, which fails."""
        if len(self.shapes) == 1:
            return self.tables
        height, width = image_BHWC.shape[1:3]
        alike_K = (self.shapes[:, 0] == height) & (self.shapes[:, 1] == width)
        index = torch.where(alike_K.any(), alike_K.int().argmax(), len(self.shapes))
        return self.tables.index_select(0, index[None])[:, : 1 + patch_BNP.shape[1]]


class _BaselineReader(nn.Module):
    """uint8 images to the same."""

    def __init__(self, model: Recogniser) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_BHWC: Tensor, width_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, probabilities and the number of steps."""
        model = self.model
        encoded = model.encode(model.pixels(image_BHWC), width_B)
        if isinstance(model, ABINet):
            return model.read_off(model.recomputed(*encoded))[:3]
        return _read(model, model.remember(*encoded))


def _read(model: Recogniser, memory: State) -> tuple[Tensor, Tensor, Tensor]:
    """The loop over places."""
    start = model.unread(memory, model.max_length)
    carried: Any = _apart((*start[:3], *start.past))
    constant: Any = memory
    fixed = len(carried)

    def reading(state: tuple[Tensor, ...]) -> Reading:
        return Reading(state[0], state[1], state[2], state[3:fixed])

    def goes_on(*state: Tensor) -> Tensor:
        return model.goes_on(reading(state))

    def read_place(*state: Tensor) -> tuple[Tensor, ...]:
        found = model.read_place(reading(state), state[fixed:])
        return (*found[:3], *_apart(found.past))

    return while_loop_op(goes_on, read_place, carried, constant)[:3]


def _apart(tensors: State) -> State:
    """What a loop carries must not share memory."""
    return tuple(tensor.clone() for tensor in tensors)


def _attention(query: Any, key: Any, value: Any, mask: Any = None, *_: Any, **__: Any) -> Any:
    """Scaled dot-product attention with half of the operations that the exporter's own has."""
    scaled = op.Mul(query, op.Constant(value_float=query.shape[-1] ** -0.5))
    scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
    if mask is not None:
        unseen: Any = op.Constant(value_float=-float("inf"))
        scores = op.Add(scores, op.Where(mask, op.Constant(value_float=0.0), unseen))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _graph(reader: nn.Module, inputs: dict[str, Tensor], sizes: tuple[dict[int, Any], ...]) -> ModelProto:
    """The graph of a module with inputs by their names, of which some sizes may be others."""
    reader = reader.eval().requires_grad_(False)
    for name in ("torch.onnx", "onnx_ir"):  # they tell of every package that they would support, and of what they keep
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own deprecations
        # Loops over batches of any size can only be had in this way, which the exporter tries last.
        found = torch.export.export(reader, tuple(inputs.values()), dynamic_shapes=sizes, strict=True)
        program = torch.onnx.export(
            found,
            dynamo=True,
            opset_version=20,  # the first that has the exact GELU as one of its operators
            input_names=list(inputs),
            output_names=["tokens", "probabilities", "steps"],
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert program is not None
    RemoveUnusedNodesPass()(program.model)
    ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto
