"""ONNX files that stand for detectors: what they find is what is bright in the picture."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_detector(
    path, channels=3, dtype=TensorProto.FLOAT, size=("H", "W"), rank=4, shrink=1, scale=1.0, half=False, as_int=False
):
    """Write a network whose output is the mean of its channels, times ``scale``.

    Args:
      path: of the file.
      channels: that it takes.
      dtype: of its input.
      size: height and width of its input; numbers for the only one that it takes.
      rank: of its output, 4 or 3.
      shrink: the output is so many times smaller.
      scale: another than 1 makes no probabilities.
      half: give out float16.
      as_int: give out whole numbers.
    """
    nodes, last = [], "image"

    def add(kind, *more, **attributes):
        nonlocal last
        nodes.append(helper.make_node(kind, [last, *more], [f"{kind}{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    add("Cast", to=TensorProto.FLOAT)
    add("ReduceMean", axes=[1], keepdims=int(rank == 4))
    if shrink > 1:
        add("AveragePool", kernel_shape=[shrink, shrink], strides=[shrink, shrink])
    add("Mul", "scale")
    if half or as_int:
        add("Cast", to=TensorProto.FLOAT16 if half else TensorProto.INT64)
    nodes[-1].output[0] = "map"
    out = TensorProto.FLOAT16 if half else TensorProto.INT64 if as_int else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", dtype, ["N", channels, *size])],
        [helper.make_tensor_value_info("map", out, [None] * rank)],
        [numpy_helper.from_array(np.array(scale, np.float32), "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return str(path)
