"""The search, on chips whose memory and speed follow a formula."""

from dataclasses import replace

import pytest

from data_pipelines.errors import UserError
from maerec_jax.ahead.collectives import Collective
from maerec_jax.ahead.report import Report
from maerec_jax.ahead.search import Search
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import parse_topology
from maerec_jax.models.mae import MAEConfig
from tests.ahead.conftest import MIB, make_compiled

TOPOLOGY = parse_topology("v5e:4x4")
CONFIG = TrainConfig(model=MAEConfig.small(), batch_size=16 * 16)


def run(evaluate_memory, max_compiles=8, config=CONFIG, traffic=1.2e9, reduced=180e6, state=450.0, cycles=None):
    lines = []

    def evaluate(candidate):
        held = state / candidate.fsdp
        compiled = make_compiled(candidate.images, evaluate_memory(candidate))
        extra = (held - 450.0) * MIB
        memory = replace(compiled.memory, optimizer=(held - 150 / candidate.fsdp) * MIB)
        memory = replace(memory, parameters=150 / candidate.fsdp * MIB, total=memory.total + extra)
        fits = memory.total < 2**34
        if fits:
            slower = 1.3 if candidate.remat else 1.0
            collectives = (Collective("all-reduce", "f32", 16, 1, reduced),)
            compiled = replace(
                compiled,
                collectives=collectives,
                traffic=traffic * candidate.images * slower,
                cycles=int(cycles(candidate) if cycles else 2e6 * candidate.images * slower),
            )
        else:
            compiled = make_compiled(10_000, 100.0)
            memory = replace(memory, padding=None, temporaries=None, outputs=None, program=None)
        compiled = replace(compiled, memory=memory, fits=fits)
        return Report("x.py", candidate.apply(config, TOPOLOGY), TOPOLOGY, compiled)

    search = Search(config, TOPOLOGY, evaluate, max_compiles, lines.append)
    return search.run(), search, lines


def test_the_memory_is_filled_with_few_compiles():
    best, search, lines = run(lambda c: 30.0 if c.remat else 100.0)
    assert best.images_a_chip == 128  # 128 need 13.3 of 16 GiB
    assert [c.images for c in search.tried] == [16, 64, 128]
    assert "[1 of at most 8] 16 images a chip, remat off" in lines
    assert any("remat" in reason for reason in search.reasons)
    assert any("fsdp" in reason for reason in search.reasons)


def test_fewer_images_are_tried_where_more_are_slower():
    """As where the activations of few images stay in the chip."""
    start = replace(CONFIG, batch_size=16 * 64)
    best, search, _ = run(lambda c: 100.0, config=start, cycles=lambda c: 2e6 * c.images**1.3)
    assert [c.images for c in search.tried] == [64, 128, 32, 16, 8]
    assert best.images_a_chip == 8


def test_a_start_that_does_not_fit_goes_down():
    best, search, _ = run(lambda c: 30.0 if c.remat else 100.0, config=replace(CONFIG, batch_size=16 * 1024))
    assert best.images_a_chip >= 64
    assert len(search.tried) <= 4


def test_remat_is_tried_where_communication_is_dear_and_taken_where_it_pays():
    best, search, _ = run(lambda c: 30.0 if c.remat else 900.0, reduced=5e9)
    assert any(c.remat for c in search.tried)
    assert best.config.model.encoder.remat
    assert best.images_a_chip == 32


def test_where_nothing_fits_without_remat_it_is_used():
    best, _, _ = run(lambda c: 100.0 if c.remat else 4000.0)
    assert best.config.model.encoder.remat
    assert best.images_a_chip >= 64


def test_a_large_state_is_divided_where_it_helps():
    best, _, _ = run(lambda c: 100.0, state=20_000.0)
    assert best.config.mesh.fsdp == 16


def test_nothing_fits():
    best, search, _ = run(lambda c: 40_000.0)
    assert best is None
    assert len(search.tried) <= 8


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_is_compiled_than_allowed(most):
    best, search, _ = run(lambda c: 30.0 if c.remat else 100.0, max_compiles=most)
    assert len(search.tried) == most
    assert best is not None
    if most < 3:
        assert any(f"--max-compiles {most} is reached" in reason for reason in search.reasons)
    with pytest.raises(UserError, match="--max-compiles"):
        run(lambda c: 100.0, max_compiles=0)
