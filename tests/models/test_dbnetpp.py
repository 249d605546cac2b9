"""DBNet++ computes what the original code does, whatever the batch and the frame that a picture lies in."""

import jax
import numpy as np
import pytest

from maerec_jax.models.dbnetpp import DBNetPPConfig, maps_of
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params
from tests.scenes.dbnetpp_weights import formula_weights, reference


@pytest.fixture(scope="module")
def expected():
    return reference()


@pytest.fixture(scope="module")
def state():
    return formula_weights()


@pytest.fixture(scope="module")
def params(state):
    return params_from_state_dict({key: value.astype(np.float32) for key, value in state.items()}, DBNetPPConfig())


@pytest.fixture(scope="module")
def image(expected):
    return np.ascontiguousarray(expected["image_uint8_rgb_nchw"].transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def maps(params, image):
    return jax.device_get(jax.jit(maps_of)(params, image, np.array([image.shape[1:3]])))


def assert_close(found, wanted):
    """Within 1e-5 of the largest value; float64 is within 2e-6 of what the original code computes in float32."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_weights_are_those_of_the_reference(state, expected):
    total = sum(np.abs(value.astype(np.float64)).sum() for value in state.values())
    assert total == pytest.approx(float(expected["weights_abs_sum"]), rel=1e-12)


@pytest.mark.parametrize("stage", [2, 3, 4, 5])
def test_the_backbone_computes_what_the_original_does(maps, expected, stage):
    features = maps.features[stage - 2]
    assert features.shape[-1] == 64 * 2**stage
    assert_close(features[..., ::16].transpose(0, 3, 1, 2), expected[f"c{stage}_slice"])


def test_neck_and_heads_compute_what_the_original_does(maps, expected):
    assert_close(maps.neck_BHWC[..., ::16].transpose(0, 3, 1, 2), expected["neck_slice"])
    assert_close(maps.logits_BHW, expected["prob_logits"])
    assert_close(maps.probability_BHW, expected["prob_map"])
    assert_close(maps.threshold_BHW, expected["threshold_map"])


def test_tensors_come_back_as_they_were(params, state):
    back = state_dict_from_params(params, DBNetPPConfig())
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in back)


def test_maps_do_not_depend_on_the_frame_and_on_the_pictures_beside(params, image, maps):
    noise = np.random.default_rng(0).integers(0, 256, (3, 96, 160, 3), np.uint8)
    noise[1, :64, :96] = image[0]
    # The first fills the frame, the third has a side that is no multiple of 32, and a fourth row is empty.
    batch = np.concatenate([noise, np.zeros_like(noise[:1])])
    sizes = np.array([(96, 160), (64, 96), (64, 70), (0, 0)])
    run = jax.jit(lambda *arguments: maps_of(*arguments).probability_BHW)
    found = np.array(run(params, batch, sizes))
    assert_close(found[1, :64, :96], maps.probability_BHW[0])
    cut = np.full((1, 64, 96, 3), 99, np.uint8)
    cut[0, :, :70] = noise[2, :64, :70]
    assert_close(found[2, :64, :96], np.array(run(params, cut, sizes[2:3]))[0])
    assert np.isfinite(found).all()
    assert np.abs(found[2, :64, :96] - found[1, :64, :96]).max() > 0.1
