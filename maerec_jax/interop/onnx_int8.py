"""Products of an ONNX graph in 8-bit integers, those inside its loops included.

A product with a constant matrix becomes ``MatMulInteger``: the matrix is rounded beforehand, with a scale for each of
its columns, and the other factor when it is there, with one scale for all of it (``DynamicQuantizeLinear``). These are
ONNX's own operators; onnxruntime makes one of each group.
"""

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

_LARGEST = 127
_FEWEST = 2**10  # a matrix of fewer weights stays as it is


def quantize_graph(graph: GraphProto) -> list[str]:
    """Round the matrices that are multiplied with in a graph and in the bodies of its loops, in place.

    A weight changes by at most half of its scale, which is the largest magnitude in its column over 127.

    Returns:
      The names of the matrices that were rounded.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    rounded_inputs: dict[str, list[str]] = {}
    rounded: dict[str, list[str]] = {}
    inside: list[str] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inside += quantize_graph(attribute.g)
        matrix = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if matrix is None or len(matrix.dims) != 2 or np.prod(matrix.dims) < _FEWEST:
            nodes.append(node)
            continue
        if matrix.name not in rounded:
            rounded[matrix.name] = _round(graph, matrix, node)
        x = node.input[0]
        if x not in rounded_inputs:
            rounded_inputs[x] = [f"{x}/whole", f"{x}/scale", f"{x}/zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [x], rounded_inputs[x], f"{x}/rounded"))
        nodes += _product(node, rounded_inputs[x], rounded[matrix.name])
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in rounded or tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return inside + list(rounded)


def _round(graph: GraphProto, matrix: TensorProto, node: NodeProto) -> list[str]:
    """Add a matrix as int8 (inputs, outputs) and its scales to a graph; returns their names."""
    values = numpy_helper.to_array(matrix)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise ValueError(f"{node.name}: a product with such attributes is not known: {attributes}")
    values = values.T if attributes.get("transB") else values
    scale = np.abs(values).max(axis=0) / np.float32(_LARGEST)
    scale = np.where(scale > 0, scale, np.float32(1))
    whole = np.clip(np.rint(values / scale), -_LARGEST, _LARGEST).astype(np.int8)
    names = [f"{matrix.name}/whole", f"{matrix.name}/scale"]
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(v), n) for v, n in zip((whole, scale), names, strict=True)
    )
    return names


def _product(node: NodeProto, x: list[str], matrix: list[str]) -> list[NodeProto]:
    """The nodes that stand for ``node``, from what its factors were rounded to."""
    whole, x_scale, x_zero = x
    out = node.output[0]
    bias = list(node.input[2:3]) if node.op_type == "Gemm" else []
    product = f"{out}/product" if bias else out
    nodes = [
        helper.make_node("MatMulInteger", [whole, matrix[0], x_zero], [f"{out}/sum"], f"{node.name}/whole"),
        helper.make_node("Cast", [f"{out}/sum"], [f"{out}/float"], f"{node.name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [x_scale, matrix[1]], [f"{out}/scale"], f"{node.name}/scale"),
        helper.make_node("Mul", [f"{out}/float", f"{out}/scale"], [product], f"{node.name}/scaled"),
    ]
    return nodes + [helper.make_node("Add", [product, b], [out], f"{node.name}/bias") for b in bias]
