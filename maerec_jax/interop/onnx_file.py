"""A recogniser as one ONNX file: uint8 images in, character ids and probabilities out, the loop over places inside.

Its graph is the reading of ``pytorch_twin``, exported by PyTorch. All operators are ONNX's own. The metadata of the
file holds ``reading_facts``, each as JSON. This module needs the extra ``onnx``.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.checker
import onnx_ir
import torch
from onnx import ModelProto, helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, TopologicalSortPass
from onnxruntime.quantization import quantize_dynamic
from onnxscript import opset20 as op
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop_op
from torch.nn.utils.rnn import pad_sequence

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.interop.pytorch_file import tensors_of
from maerec_jax.interop.reading_facts import reading_facts, shapes_of
from maerec_jax.models.position import resize_table
from maerec_jax.weights.files import written_whole

_LARGEST = 2**31 - 1  # bytes of a protocol buffer


def write_onnx(path: Path, config: TrainConfig, params: Any, step: int, int8: bool = False) -> None:
    """Write a recogniser.

    Inputs and outputs are ``image`` uint8 RGB (B, H, W, 3), for any B; ``tokens`` int64 and ``probabilities`` float32
    (B, max_length), as in ``models.interface.Reading``; and ``steps`` int64 (), the number of places that were
    computed. H and W are those of the model, or for one trained with buckets those of any of them. With ``int8`` the
    weights have 8 bits, and a scale for each output, and activations are rounded to as many.

    Raises ``UserError`` where the model is of a kind that has no twin, or too large for one file, or the file cannot be
    written.
    """
    if config.model.kind != "maerec":
        raise UserError(f"a model of the kind {config.model.kind} has no ONNX export: only maerec has")
    model = _exported(config, params)
    if int8:
        model = _rounded(model)
    facts = reading_facts(config, step, "int8" if int8 else "float32")
    helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    if model.ByteSize() > _LARGEST:
        raise UserError(f"{path}: a model of {model.ByteSize():,} bytes is too large for one ONNX file; --int8 may fit")
    onnx.checker.check_model(model, full_check=True)
    with written_whole(path) as fresh:
        fresh.write_bytes(model.SerializeToString())


class _Reader(nn.Module):
    """uint8 images of one of several heights and widths to what ``write_onnx`` says."""

    shapes: Tensor
    tables: Tensor

    def __init__(self, model: twin.MAERec, shapes: Sequence[tuple[int, int]], tables: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("shapes", torch.tensor(shapes))
        self.register_buffer("tables", pad_sequence([torch.from_numpy(table[0]) for table in tables], batch_first=True))

    def forward(self, image_BHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T), probabilities (B, T) and the number of steps."""
        model, encoder = self.model, self.model.backbone
        assert isinstance(encoder, twin.Encoder)  # adapters are merged
        patch_BNP = twin.patchify(model.pixels(image_BHWC), model.config.encoder.patch_size)
        memory = model.decoder.keys_values(encoder.encode(patch_BNP, self._positions(image_BHWC, patch_BNP)))
        start = _flat(model.unread(memory, model.config.decoder.max_length))

        def goes_on(*state: Tensor) -> Tensor:
            return model.goes_on(_reading(state[: len(start)]))

        def read_place(*state: Tensor) -> tuple[Tensor, ...]:
            return _flat(model.read_place(_reading(state[: len(start)]), _pairs(state[len(start) :])))

        # What is carried must not share memory.
        carried: Any = tuple(x.clone() for x in start)
        constant: Any = tuple(x for pair in memory for x in pair)
        reading = _reading(while_loop_op(goes_on, read_place, carried, constant))
        return reading.tokens_BT, reading.probability_BT, reading.steps

    def _positions(self, image_BHWC: Tensor, patch_BNP: Tensor) -> Tensor:
        """The position table of the images' size; of a size that is not known, one that is not there, which fails."""
        if len(self.shapes) == 1:
            return self.tables
        height, width = image_BHWC.shape[1:3]
        alike_K = (self.shapes[:, 0] == height) & (self.shapes[:, 1] == width)
        index = torch.where(alike_K.any(), alike_K.int().argmax(), len(self.shapes))
        return self.tables.index_select(0, index[None])[:, : 1 + patch_BNP.shape[1]]


def _flat(reading: twin.Reading) -> tuple[Tensor, ...]:
    return (*reading[:3], *(x for pair in reading.past for x in pair))


def _reading(state: Sequence[Tensor]) -> twin.Reading:
    return twin.Reading(state[0], state[1], state[2], _pairs(state[3:]))


def _pairs(tensors: Sequence[Tensor]) -> twin.KeysValues:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _attention(query: Any, key: Any, value: Any, mask: Any = None, *_: Any, **__: Any) -> Any:
    """Scaled dot-product attention with half of the operations that the exporter's own has."""
    scaled = op.Mul(query, op.Constant(value_float=query.shape[-1] ** -0.5))
    scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
    if mask is not None:
        unseen: Any = op.Constant(value_float=-float("inf"))
        scores = op.Add(scores, op.Where(mask, op.Constant(value_float=0.0), unseen))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _exported(config: TrainConfig, params: Any) -> ModelProto:
    """The model in float32."""
    recogniser, params = config.model.merged(params)
    model, shapes = twin.MAERec(recogniser), shapes_of(config)
    model.load_state_dict(tensors_of(params, recogniser), strict=True)
    encoder, table = recogniser.encoder, params["encoder"]["pos_embed"]
    tables = [np.array(resize_table(table, encoder.grid, encoder.grid_of(shape)), np.float32) for shape in shapes]
    reader = _Reader(model, shapes, tables).eval().requires_grad_(False)
    sizes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if len(shapes) > 1:
        rows, columns = (side * torch.export.Dim(name) for side, name in zip(encoder.patch_size, "hw", strict=True))
        sizes |= {1: rows, 2: columns}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every package that it would support, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about PyTorch's own deprecations
        program = torch.onnx.export(
            reader,
            (torch.zeros(2, *shapes[0], 3, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=(sizes,),
            opset_version=20,  # the first that has the exact GELU as one of its operators
            input_names=["image"],
            output_names=["tokens", "probabilities", "steps"],
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _rounded(model: ModelProto) -> ModelProto:
    """The model with products in 8-bit integers, those of its loop, too; all operators are still ONNX's own."""
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # else it asks for that in the log
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rounded.onnx"
        options = {"EnableSubgraph": True}
        quantize_dynamic(model, file, op_types_to_quantize=["MatMul"], per_channel=True, extra_options=options)
        rounded = onnx_ir.load(file)
    TopologicalSortPass()(rounded)  # it does not count what a loop takes from outside
    return onnx_ir.to_proto(rounded)
