"""ONNX files of the baselines read what their models in PyTorch read, whatever the batch."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from maerec_jax.interop.onnx_graphs import baseline_graph
from maerec_jax.interop.pytorch_baselines import KINDS
from tests.interop.baseline_models import images_of, model_of, outputs_of
from tests.interop.test_onnx import session_of

# Probabilities: where a word is made straight, small errors move what is seen of its sharp edges.
TOLERANCE = {"aster": 2e-3}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request, tmp_path_factory):
    """Kind, model, its file, and inputs: the reference's images, and one between them that is narrower."""
    arrays = outputs_of(request.param)
    once = {"language": SimpleNamespace(layers=2, iterations=1)} if request.param == "abinet" else {}
    model = model_of(request.param, arrays, **once)  # with fewer iterations it is exported sooner
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(baseline_graph(model), path)
    image = images_of(arrays)
    image = torch.cat([image, image.float().mean(0, keepdim=True).byte()])
    whole = image.shape[2]
    width = torch.tensor([whole, 39 * whole // 64, whole // 2], dtype=torch.int32) if model.keeps_ratio else None
    return request.param, model, path, (image, width)


def test_batches_of_any_size_read_as_in_pytorch(case):
    kind, model, path, (image, width) = case
    session = session_of(path)
    for rows in (slice(1), slice(1, 2), slice(3)):
        told = None if width is None else width[rows]
        given = {"image": image[rows].numpy()} | ({} if told is None else {"width": told.numpy()})
        expected = model.read(model.pixels(image[rows]), told)
        tokens, probabilities, steps = session.run(None, given)
        np.testing.assert_array_equal(tokens, expected.tokens_BT)
        np.testing.assert_allclose(probabilities, expected.probability_BT, atol=TOLERANCE.get(kind, 2e-5))
        assert steps == expected.steps
        assert tokens.dtype == np.int64
        assert probabilities.dtype == np.float32


def test_all_operators_are_onnxs_own(case):
    _, model, path, _ = case
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert {imported.domain for imported in graph.opset_import} == {""}
    assert not graph.functions
    inputs = [(given.name, given.type.tensor_type.elem_type) for given in graph.graph.input]
    width = [("width", onnx.TensorProto.INT32)] if model.keeps_ratio else []
    assert inputs == [("image", onnx.TensorProto.UINT8), *width]


def test_an_image_of_another_size_is_refused(case):
    _, _, path, (image, width) = case
    given = {"image": image[:, :-1].numpy()} | ({} if width is None else {"width": width.numpy()})
    with pytest.raises(Exception, match="invalid dimensions for input: image"):
        session_of(path).run(None, given)
