"""A recogniser as one ONNX file: uint8 images in, character ids and probabilities out, the loop over places inside.

Its graph (``onnx_graphs``) is the reading of the model in PyTorch. All operators are ONNX's own. The metadata of the
file holds ``reading_facts``, each as JSON. This module needs the extra ``onnx``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx.checker
import onnx_ir
from onnx import ModelProto, helper
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.quantization import quantize_dynamic

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.interop.onnx_graphs import baseline_graph, maerec_graph
from maerec_jax.interop.pytorch_baselines import KINDS
from maerec_jax.interop.pytorch_file import tensors_of
from maerec_jax.interop.reading_facts import reading_facts, shapes_of
from maerec_jax.models.position import resize_table
from maerec_jax.weights.files import written_whole

_LARGEST = 2**31 - 1  # bytes of a protocol buffer


def write_onnx(path: Path, config: TrainConfig, params: Any, step: int, int8: bool = False) -> None:
    """Write a recogniser.

    Inputs and outputs are ``image`` uint8 RGB (B, H, W, 3), for any B; ``tokens`` int64 and ``probabilities`` float32
    (B, max_length), as in ``models.interface.Reading``; and ``steps`` int64 (), the number of places that were
    computed. H and W are those of the model, or for one trained with buckets those of any of them. Of a model that
    keeps the aspect ratio there is a second input, ``width`` int32 (B): how many columns of each image are picture.
    With ``int8`` the weights have 8 bits, and a scale for each output, and activations are rounded to as many.

    Raises ``UserError`` where the model is of a kind that is not known in PyTorch, or has no 8-bit weights, or is too
    large for one file, or the file cannot be written.
    """
    kind = config.model.kind
    if kind not in ("maerec", *KINDS):
        raise UserError(f"a model of the kind {kind} has no ONNX export: only maerec, {', '.join(KINDS)} have")
    if int8 and not getattr(config.model, "has_int8", False):
        raise UserError(f"a model of kind {kind!r} has no 8-bit weights: leave out --int8")
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


def _exported(config: TrainConfig, params: Any) -> ModelProto:
    """The model in float32."""
    recogniser, params = config.model.merged(params)
    state = tensors_of(params, recogniser)
    if recogniser.kind in KINDS:
        baseline = KINDS[recogniser.kind](recogniser)
        baseline.load_state_dict(state, strict=True)
        return baseline_graph(baseline)
    model, shapes = twin.MAERec(recogniser), shapes_of(config)
    model.load_state_dict(state, strict=True)
    encoder, table = recogniser.encoder, params["encoder"]["pos_embed"]
    tables = [np.array(resize_table(table, encoder.grid, encoder.grid_of(shape)), np.float32) for shape in shapes]
    return maerec_graph(model, shapes, tables)


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
