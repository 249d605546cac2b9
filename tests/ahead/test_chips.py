"""Chips and the slices that exist."""

from math import prod

import pytest

from data_pipelines.errors import UserError
from maerec_jax.costs.chips import CHIPS, parse_topology


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_numbers_of_a_chip_are_of_the_right_order(chip):
    assert 1e14 < chip.flops < 1e16
    assert 2**34 <= chip.hbm < 2**38
    # A slower network at every step: memory, links, data centre.
    assert chip.hbm_rate > 10 * chip.link_rate > 10 * chip.dcn_rate > 1e10
    assert len(set(chip.shapes)) == len(chip.shapes)
    assert chip.clock is None or 1e9 <= chip.clock < 2e9


def test_slices_that_exist_are_accepted():
    for name, chips in {
        "v5e:1x1": 1, "v5e:2x4": 8, "v5e:16x16": 256, "v6e:8x16": 128, "v4:2x2x1": 4, "v4:8x8x16": 1024,
        "v5p:16x16x24": 6144, "tpu7x:4x4x8": 128,
    }.items():  # fmt: skip
        topology = parse_topology(name)
        assert topology.name == name
        assert topology.chips == chips == prod(topology.shape)
    assert parse_topology("tpu7x:4x4x8").devices == 256  # two a chip
    assert str(parse_topology("v5e:4x4", 2)) == "2 x v5e:4x4"
    assert parse_topology("v5e:4x4", 2).chips == 32


@pytest.mark.parametrize(
    "name", ["v5e:3x5", "v5e:16x32", "v5e:4x2", "v5p:16x20x28", "v4:4x8x6", "v5e:256", "v5e", "v5e:axb", "v5p:8x4x4"]
)
def test_slices_that_do_not_exist_are_refused(name):
    with pytest.raises(UserError, match="there are "):
        parse_topology(name)


def test_a_chip_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="known: v4, v5e, v5p, v6e, tpu7x"):
        parse_topology("v9:2x2")
    with pytest.raises(UserError, match="at least 1"):
        parse_topology("v5e:2x2", 0)
