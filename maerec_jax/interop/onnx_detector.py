"""DBNet++ as an ONNX file: its graph, written down node by node, with every norm as a part of its convolution.

This module needs the extra ``onnx``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx.checker
from onnx import TensorProto, helper, numpy_helper

from maerec_jax.weights.detector_files import ABOUT_DBNETPP
from maerec_jax.weights.files import ABOUT, written_whole

_EPSILON = 1e-5  # of all norms
_OPSET, _IR_VERSION = 17, 8  # old enough for any onnxruntime of the last years


def write_onnx_detector(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write the probability head of a DBNet++.

    The input is ``image`` float32 (N, 3, H, W): RGB, normalised with ImageNet's mean and deviation; H and W are
    multiples of 32. The output is ``probability`` float32 (N, 1, H, W). The metadata say that it is a DBNet++.

    Args:
      path: of the file.
      state: the state dict (``weights.detector_files.read_detector``).

    Raises:
      UserError: where the file cannot be written.
    """
    graph = _Graph(state)
    output = _head(graph, _neck(graph, _backbone(graph, "image")))
    model = helper.make_model(
        helper.make_graph(
            [*graph.nodes, helper.make_node("Identity", [output], ["probability"])],
            "dbnetpp",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
            [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1, "H", "W"])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="maerec_jax",
    )
    helper.set_model_props(model, {ABOUT: ABOUT_DBNETPP})
    onnx.checker.check_model(model, full_check=True)
    with written_whole(path) as fresh:
        fresh.write_bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants in the making; values are told apart by names."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.state = state
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns the name of its output, or the names of several."""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def conv(self, x: str, key: str, norm: str = "", stride: int = 1, kind: str = "Conv") -> str:
        """A convolution, or a transposed one, with its bias if it has one, and the norm after it."""
        weight = self.state[f"{key}.weight"].astype(np.float64)
        out_axis = 0 if kind == "Conv" else 1
        bias = np.zeros(weight.shape[out_axis])
        bias += self.state.get(f"{key}.bias", 0)
        if norm:
            scale, shift, mean, var = (
                self.state[f"{norm}.{name}"].astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale /= np.sqrt(var + _EPSILON)
            weight *= np.expand_dims(scale, [axis for axis in range(4) if axis != out_axis])
            bias = (bias - mean) * scale + shift
        pads = [weight.shape[2] // 2 if kind == "Conv" else 0] * 4
        arguments = [self.constant(weight), *([self.constant(bias)] if bias.any() else [])]
        return self.add(kind, x, *arguments, strides=[stride, stride], pads=pads)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def sigmoid(self, x: str) -> str:
        return self.add("Sigmoid", x)

    def halved(self, x: str) -> str:
        return self.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])

    def enlarged(self, x: str, times: int) -> str:
        if times == 1:
            return x
        scales = self.constant(np.array([1, 1, times, times]))
        nearest: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self.add("Resize", x, "", scales, **nearest)


def _backbone(graph: _Graph, x: str) -> list[str]:
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        x = graph.relu(graph.conv(x, f"backbone.stem.{i}", f"backbone.stem.{i + 1}", stride))
    x, stages = graph.halved(x), []
    for stage in (1, 2, 3, 4):
        i = 0
        while f"backbone.layer{stage}.{i}.conv1.weight" in graph.state:
            x = _bottleneck(graph, x, f"backbone.layer{stage}.{i}", halves=stage > 1 and i == 0)
            i += 1
        stages.append(x)
    return stages


def _bottleneck(graph: _Graph, x: str, key: str, halves: bool) -> str:
    made = graph.relu(graph.conv(x, f"{key}.conv1", f"{key}.bn1"))
    made = graph.relu(graph.conv(made, f"{key}.conv2", f"{key}.bn2"))
    made = graph.conv(graph.halved(made) if halves else made, f"{key}.conv3", f"{key}.bn3")
    if f"{key}.downsample.1.weight" in graph.state:
        x = graph.conv(graph.halved(x) if halves else x, f"{key}.downsample.1", f"{key}.downsample.2")
    return graph.relu(graph.add("Add", made, x))


def _neck(graph: _Graph, features: list[str]) -> str:
    maps = [graph.conv(x, f"neck.lateral_convs.{i}.conv") for i, x in enumerate(features)]
    for i in (2, 1, 0):
        maps[i] = graph.add("Add", maps[i], graph.enlarged(maps[i + 1], 2))
    smooth = [graph.enlarged(graph.conv(x, f"neck.smooth_convs.{i}.conv"), 2**i) for i, x in enumerate(maps)]
    x = graph.conv(graph.add("Concat", *smooth, axis=1), "neck.asf_conv.conv")
    fusion = "neck.asf_attn"
    channels = graph.relu(graph.conv(graph.add("GlobalAveragePool", x), f"{fusion}.channel_wise.0.conv"))
    x = graph.add("Add", x, graph.sigmoid(graph.conv(channels, f"{fusion}.channel_wise.1.conv")))
    places = graph.conv(graph.add("ReduceMean", x, axes=[1], keepdims=1), f"{fusion}.spatial_wise.0.conv")
    places = graph.sigmoid(graph.conv(graph.relu(places), f"{fusion}.spatial_wise.1.conv"))
    weights = graph.sigmoid(graph.conv(graph.add("Add", x, places), f"{fusion}.attention_wise.conv"))
    shares = graph.add("Split", weights, outputs=len(smooth), axis=1)
    weighted = [graph.add("Mul", share, one) for share, one in zip(shares, smooth, strict=True)]
    return graph.add("Concat", *weighted, axis=1)


def _head(graph: _Graph, x: str) -> str:
    key = "det_head.binarize"
    x = graph.relu(graph.conv(x, f"{key}.0", f"{key}.1"))
    x = graph.relu(graph.conv(x, f"{key}.3", f"{key}.4", stride=2, kind="ConvTranspose"))
    return graph.sigmoid(graph.conv(x, f"{key}.6", stride=2, kind="ConvTranspose"))
