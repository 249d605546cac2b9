"""A recogniser as one ONNX file: uint8 images in, character ids and probabilities out, the loop over places inside.

Its graph: pixels to patches, the ``Encoding`` of ``onnx_parts``, a loop whose body is its ``Step`` and that ends when
every text has, and what the loop wrote, filled up. All operators are ONNX's own. The metadata of the file holds
``reading_facts``, each as JSON. This module needs ``onnx``, and PyTorch with its exporter.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.interop.onnx_int8 import quantize_graph
from maerec_jax.interop.onnx_parts import OPSET, export_encoding, export_step
from maerec_jax.interop.pytorch_file import tensors_of
from maerec_jax.interop.reading_facts import reading_facts, shapes_of
from maerec_jax.models.lora import merge_lora
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.position import resize_table
from maerec_jax.weights.files import written_whole

_IR_VERSION = 9  # the first that knows OPSET
_LARGEST = 2**31 - 1  # bytes of a protocol buffer

# From uint8 images to patches, in the order of pytorch_twin.patchify.
_PATCHES = """
size = Shape <start = 1, end = 3> (image)
grid = Div (size, patch_size)
rows, columns = Split <axis = 0, num_outputs = 2> (grid)
pixels = Cast <to = 1> (image)
centred = Sub (pixels, pixel_mean)
scaled = Div (centred, pixel_std)
cut_shape = Concat <axis = 0> (same, rows, patch_height, columns, patch_row)
cut = Reshape (scaled, cut_shape)
in_order = Transpose <perm = [0, 1, 3, 2, 4]> (cut)
patch_shape = Concat <axis = 0> (same, rest, patch_values)
patches = Reshape (in_order, patch_shape)
"""
# The position table of the image's size: none of its rows for a size that is not among them, which then fails.
_POSITIONS = """
alike = Equal (size, sizes)
alike_numbers = Cast <to = 7> (alike)
known = ReduceMin <keepdims = 0> (alike_numbers, last_axis)
index = ArgMax <axis = 0, keepdims = 1> (known)
is_known = Gather (known, index)
first = Gather (firsts, index)
count = Gather (counts, index)
kept = Mul (count, is_known)
end = Add (first, kept)
positions = Slice (tables, first, end, one)
"""
_BEFORE = """
batch = Shape <start = 0, end = 1> (image)
none_ended = Expand (no, batch)
start_tokens = Expand (start_token, batch)
keys_shape = Concat <axis = 0> (batch, heads, head, zero)
values_shape = Concat <axis = 0> (batch, heads, zero, head)
hidden_shape = Concat <axis = 0> (batch, one, one, zero)
no_keys = ConstantOfShape (keys_shape)
no_values = ConstantOfShape (values_shape)
none_hidden = ConstantOfShape (hidden_shape)
"""
_AFTER = """
step_count = Shape <start = 0, end = 1> (written)
missing = Sub (places, step_count)
fill = Concat <axis = 0> (zero, zero, zero, missing)
written_by_image = Transpose <perm = [1, 0]> (written)
probability_by_image = Transpose <perm = [1, 0]> (probability)
tokens = Pad (written_by_image, fill, padding)
probabilities = Pad (probability_by_image, fill)
steps = Squeeze (step_count)
"""


def write_onnx(path: Path, config: TrainConfig, params: Any, step: int, int8: bool = False) -> ModelProto:
    """Write a recogniser.

    Inputs and outputs are ``image`` uint8 RGB (B, H, W, 3), for any B; ``tokens`` int64 and ``probabilities`` float32
    (B, max_length), as in ``models.maerec.Reading``; and ``steps`` int64 (), the number of places that were computed.
    H and W are those of the model, or for one trained with buckets those of any of them.

    Args:
      path: the file.
      config: the run that the weights come from.
      params: its parameters.
      step: of the training.
      int8: compute with weights of 8 bits (``onnx_int8``).

    Returns:
      What was written.

    Raises:
      UserError: where the model is too large for one file, or the file cannot be written.
    """
    assert isinstance(config.model, MAERecConfig)
    graph = recognition_graph(config, params)
    if int8:
        quantize_graph(graph)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="maerec_jax",
        doc_string="Reads words: image uint8 RGB (B, H, W, 3) to tokens and probabilities (B, places).",
    )
    facts = reading_facts(config, step, "int8" if int8 else "float32")
    helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    if model.ByteSize() > _LARGEST:
        raise UserError(f"{path}: a model of {model.ByteSize():,} bytes is too large for one ONNX file; --int8 may fit")
    onnx.checker.check_model(model, full_check=True)
    with written_whole(path) as fresh:
        fresh.write_bytes(model.SerializeToString())
    return model


def recognition_graph(config: TrainConfig, params: Any) -> GraphProto:
    """The whole graph, see ``write_onnx``."""
    assert isinstance(config.model, MAERecConfig)
    cfg, params = merge_lora(config.model, params)
    model = twin.MAERec(cfg)
    model.load_state_dict(tensors_of(params, cfg), strict=True)
    model.eval().requires_grad_(False)
    shapes = shapes_of(config)

    encoding = export_encoding(model)
    encoding_inputs = dict(zip(_names(encoding.input), ("patches", "positions"), strict=True))
    _rename(encoding, "encoding/", encoding_inputs)
    memory = _names(encoding.output)

    body = export_step(model)
    state_outputs, output_count = 3 + len(memory), len(body.output)
    carried = ["ended", "token", "hidden", *(f"past_{i}" for i in range(len(memory)))]
    _rename(body, "step/", dict(zip(_names(body.input), ["position", *carried, *memory], strict=True)))
    places, yes = _value("position", TensorProto.INT64, []), _value("go_on", TensorProto.BOOL, [])
    kinds = [TensorProto.BOOL, TensorProto.INT64] + [TensorProto.FLOAT] * (state_outputs - 2)
    inputs = [_value(name, kind, None) for name, kind in zip(carried, kinds, strict=True)]
    del body.input[:]
    body.input.extend([places, yes, *inputs])
    assert output_count == 1 + state_outputs + 2
    body.name = "place"

    no_past = ["no_keys", "no_values"] * (len(memory) // 2)
    loop = helper.make_node(
        "Loop",
        ["places_scalar", "", "none_ended", "start_tokens", "none_hidden", *no_past],
        [f"last_{name}" for name in carried] + ["written", "probability"],
        "places",
        body=body,
    )
    constants = _constants(cfg) | _positions(params, cfg, shapes)
    nodes = _parsed(_PATCHES) + (_parsed(_POSITIONS) if len(shapes) > 1 else [])
    nodes += [*encoding.node, *_parsed(_BEFORE), loop, *_parsed(_AFTER)]
    height, width = shapes[0] if len(shapes) == 1 else ("height", "width")
    return helper.make_graph(
        nodes,
        "maerec",
        [_value("image", TensorProto.UINT8, ["batch", height, width, 3])],
        [
            _value("tokens", TensorProto.INT64, ["batch", cfg.decoder.max_length]),
            _value("probabilities", TensorProto.FLOAT, ["batch", cfg.decoder.max_length]),
            _value("steps", TensorProto.INT64, []),
        ],
        [*encoding.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())],
    )


def _constants(cfg: MAERecConfig) -> dict[str, np.ndarray]:
    """The constants of the graph's own parts."""
    encoder, decoder = cfg.encoder, cfg.decoder
    ph, pw = encoder.patch_size
    vectors = {
        "patch_size": [ph, pw], "patch_height": [ph], "patch_row": [3 * pw], "patch_values": [encoder.patch_values],
        "heads": [decoder.heads], "head": [decoder.dim // decoder.heads], "places": [decoder.max_length],
        "same": [0], "rest": [-1], "zero": [0], "one": [1],
    }  # fmt: skip
    return {name: np.array(value, np.int64) for name, value in vectors.items()} | {
        "pixel_mean": np.array(encoder.pixel_mean, np.float32),
        "pixel_std": np.array(encoder.pixel_std, np.float32),
        "places_scalar": np.array(decoder.max_length, np.int64),
        "start_token": np.array(cfg.charset.start_end, np.int64),
        "padding": np.array(cfg.charset.padding, np.int64),
        "no": np.array(False),
    }


def _positions(params: Any, cfg: MAERecConfig, shapes: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Position tables for images of some sizes: one, or all with what ``_POSITIONS`` needs to choose between them."""
    table, encoder = params["encoder"]["pos_embed"], cfg.encoder
    tables = [np.asarray(resize_table(table, encoder.grid, encoder.grid_of(shape)), np.float32) for shape in shapes]
    if len(shapes) == 1:
        return {"positions": tables[0]}
    counts = [table.shape[1] for table in tables]
    return {
        "tables": np.concatenate(tables, axis=1),
        "sizes": np.array(shapes, np.int64),
        "last_axis": np.array([1], np.int64),
        "counts": np.array(counts, np.int64),
        "firsts": np.cumsum([0, *counts[:-1]]),
    }


def _parsed(text: str) -> list[NodeProto]:
    """Nodes written as ONNX's text form has them, a line each."""
    return [onnx.parser.parse_node(line) for line in text.strip().splitlines()]


def _value(name: str, kind: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _names(values: Any) -> list[str]:
    return [value.name for value in values]


def _rename(graph: GraphProto, prefix: str, known: Mapping[str, str]) -> None:
    """Give all values of a graph a prefix, but new names to those in ``known``; and drop what only tells of PyTorch."""

    def renamed(name: str) -> str:
        return known.get(name, prefix + name) if name else ""

    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        node.name = prefix + node.name
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in [*graph.initializer, *graph.output, *graph.input]:
        value.name = renamed(value.name)
        del value.metadata_props[:]
        value.ClearField("doc_string")
    del graph.value_info[:]
    del graph.metadata_props[:]
