"""The layers of the baselines compute what PyTorch's do, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maerec_jax.costs.counting import operations
from maerec_jax.models.batch_norm import STATISTICS, BatchNorm
from maerec_jax.models.convolution import Conv, add_bias, convolve
from maerec_jax.models.recurrent import LSTM, Cell, CellWeights, gru_step, run_lstms
from maerec_jax.models.winograd import convolve_by_tiles

RNG = np.random.default_rng(0)
LAYERS = [((3, 3), (2, 1), 1, 8), ((1, 1), (2, 2), 1, 8), ((3, 3), (1, 1), 2, 8), ((3, 3), (1, 1), 4, 4)]
LAYERS += [((3, 3), (1, 1), 1, 8)]


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [(8, 10), (2, 4), (1, 2)])  # the smallest are computed otherwise
@pytest.mark.parametrize(("kernel", "strides", "groups", "outputs"), LAYERS)
def test_convolutions_and_their_gradients(kernel, strides, groups, outputs, size):
    x, k = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, *size, 4), (*kernel, 4 // groups, outputs)))
    layer = torch.nn.functional.conv2d
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch_k = torch.tensor(k.transpose(3, 2, 0, 1), requires_grad=True)
    made = layer(torch_x, torch_k, stride=strides, padding=(kernel[0] // 2, kernel[1] // 2), groups=groups)
    made.square().sum().backward()
    close(convolve(x, k, strides, groups), made.permute(0, 2, 3, 1))
    to_x, to_k = jax.grad(lambda x, k: jnp.square(convolve(x, k, strides, groups)).sum(), (0, 1))(x, k)
    close(to_x, torch_x.grad.permute(0, 2, 3, 1), 1e-4)
    close(to_k, torch_k.grad.permute(2, 3, 1, 0), 1e-4)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(1, 25), (2, 13), (3, 8), (6, 7), (12, 13)])
def test_wide_kernels_take_fewer_products_where_there_is_no_gradient(size, strides):
    x = RNG.normal(size=(2, *size, 64)).astype(np.float32)
    k = RNG.normal(0, 1 / 24, (3, 3, 64, 66)).astype(np.float32)
    exact = torch.nn.functional.conv2d(
        *(torch.tensor(a).double() for a in (x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1))),
        stride=strides,
        padding=1,
    )
    made = jax.jit(lambda x, k: convolve(x, k, strides, 1))(x, k)
    close(made, exact.permute(0, 2, 3, 1))
    assert np.abs(made - jax.jit(lambda x, k: convolve_by_tiles(x, k, strides))(x, k)).max() == 0


def test_gradients_of_kernels_and_biases_are_summed_in_float32():
    x, k = jnp.ones((64, 8, 8, 4), jnp.bfloat16), jnp.ones((3, 3, 4, 8))
    found = jax.grad(lambda k: convolve(x, k, (1, 1), 1).astype(jnp.float32).sum())(k)
    assert found.dtype == jnp.float32
    assert found[1, 1, 0, 0] == 64 * 64
    assert found[0, 0, 0, 0] == 64 * 49  # no multiple of 16, as bfloat16 would have it
    found = jax.grad(lambda b: add_bias(x[:63, 1:, 1:], b).astype(jnp.float32).sum())(jnp.zeros(4))
    assert found.dtype == jnp.float32
    assert (found == 63 * 49).all()


def test_batch_normalisation_of_the_counted_images():
    layer, x = torch.nn.BatchNorm2d(5), RNG.normal(2.0, 3.0, (6, 4, 3, 5)).astype(np.float32)
    params = BatchNorm().init(jax.random.key(0), x)["params"]
    counted = np.array([1, 1, 0, 1, 1, 0], np.float32)
    made = layer(torch.tensor(x[counted > 0].transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    out, found = BatchNorm().apply({"params": params}, x, counted, mutable=[STATISTICS])
    close(out[counted > 0], made, 1e-5)
    close(found[STATISTICS]["mean"], layer.running_mean, 1e-6)
    close(found[STATISTICS]["variance"], layer.running_var, 1e-5)
    assert found[STATISTICS]["count"] == 1
    running = {"mean": layer.running_mean.numpy(), "variance": layer.running_var.numpy()}
    made = layer.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    close(BatchNorm().apply({"params": params | running}, x), made)


def test_batches_without_counted_images_change_no_statistics():
    x = np.ones((2, 3, 3, 4), np.float32)
    params = BatchNorm().init(jax.random.key(0), x)["params"]
    out, found = BatchNorm().apply({"params": params}, x, np.zeros(2, np.float32), mutable=[STATISTICS])
    assert np.isfinite(out).all()
    assert all((found[STATISTICS][name] == params[name]).all() for name in ("mean", "variance", "count"))


def test_lstms():
    """One from the first place to the last, and one that goes back."""
    layer = torch.nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    x = RNG.normal(size=(2, 7, 6)).astype(np.float32)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    cells = [
        CellWeights(*(getattr(layer, name + way).detach().numpy().T for name in names)) for way in ("", "_reverse")
    ]
    made = layer(torch.tensor(x))[0]
    close(jnp.concatenate(run_lstms(cells, x), axis=-1), made)
    close(LSTM(6, 5).apply({"params": {"lstm": cells[0]._asdict()}}, x), made[..., :5])


def test_gru_cell():
    layer = torch.nn.GRUCell(6, 5)
    x, h = (RNG.normal(size=(3, n)).astype(np.float32) for n in (6, 5))
    names = {"input_kernel": layer.weight_ih, "hidden_kernel": layer.weight_hh}
    names |= {"input_bias": layer.bias_ih, "hidden_bias": layer.bias_hh}
    cell = Cell(6, 5, 3).apply({"params": {name: value.detach().numpy().T for name, value in names.items()}})
    close(gru_step(cell, cell.of_input(x), h), layer(torch.tensor(x), torch.tensor(h)))


def test_operations_are_counted_in_convolutions_products_and_loops():
    x, k = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))
    forward = 2 * 4 * 4 * 6 * 9 * 4
    assert operations(lambda x, k: convolve(x, k, (2, 2), 1), x, k) == forward
    both = operations(jax.grad(lambda x, k: convolve(x, k, (2, 2), 1).sum(), (0, 1)), x, k)
    assert both == 3 * forward
    m = jnp.zeros((5, 5))
    assert operations(lambda m: jax.lax.scan(lambda c, _: (c @ m, None), m, None, length=7)[0], m) == 7 * 2 * 125


def test_depthwise_convolutions_have_a_kernel_for_each_channel():
    x = jnp.zeros((1, 4, 4, 6))
    assert Conv(6, groups=6).init(jax.random.key(0), x)["params"]["kernel"].shape == (3, 3, 1, 6)
