"""scripts/benchmarks/reading.py: it runs, and what it compares computes the same."""

import numpy as np
import pytest

from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.maerec import MAERecConfig
from tests.scripts.conftest import cells_of


@pytest.fixture(scope="module")
def scripts(script_module):
    """The scripts as modules."""
    return script_module("benchmarks/reading"), script_module("benchmarks/reading_ways")


@pytest.fixture(scope="module")
def tiny(script_module):
    """Config, parameters and images of a tiny recogniser."""
    config, params = script_module("benchmarks/models").recognizer("", "tiny")
    return config.model, params, np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3), np.uint8)


LENGTHS = np.array([3, 0, 7, 11])


def test_all_ways_write_the_same_words_of_the_lengths_asked_for(scripts, tiny):
    _, contenders = scripts
    charset = MAERecConfig.tiny().charset
    found = {}
    for way in ("cached", "all-places", "recomputed"):
        contender = contenders.JaxReading(way, *tiny, "float32")
        seconds, found[way] = contender.run(LENGTHS)
        assert seconds > 0
        assert contender.compile_seconds() > 0
        np.testing.assert_array_equal(found[way], found["cached"])
    for row, length in zip(found["cached"], LENGTHS, strict=True):
        assert (row[:length] != charset.start_end).all()
        assert row[length] == charset.start_end
        assert (row[length + 1 :] == charset.padding).all()
    assert len(np.unique(found["cached"])) > 3


def test_pytorch_writes_the_same_words(scripts, tiny):
    _, contenders = scripts
    expected = contenders.JaxReading("cached", *tiny, "float32").run(LENGTHS)[1]
    np.testing.assert_array_equal(contenders.TorchReading(*tiny, "float32").run(LENGTHS)[1], expected)


def test_what_a_step_computes_is_what_the_model_computes(scripts, tiny):
    """Where the model ends its words by itself it writes what the benchmark's model writes when told these ends."""
    import jax

    from maerec_jax.models.interface import normalize
    from maerec_jax.models.maerec import MAERec

    _, contenders = scripts
    config, params, image = tiny
    end = config.charset.start_end
    classifier = params["decoder"]["classifier"]
    likely = {**classifier, "bias": classifier["bias"] + np.where(np.arange(config.charset.n_classes) == end, 2.5, 0)}
    params = {**params, "decoder": {**params["decoder"], "classifier": likely}}
    read = jax.jit(lambda p, x: greedy_read(MAERec(config), p, normalize(x, config.encoder)).tokens_BT)
    own = np.asarray(read(params, image))
    ended = (own == end).any(axis=1)
    assert ended.any()
    lengths = np.where(ended, (own == end).argmax(axis=1), 12)
    _, told = contenders.JaxReading("cached", config, params, image, "float32").run(lengths)
    np.testing.assert_array_equal(told, own)


def test_lengths_are_those_of_labels(scripts, tmp_path):
    benchmark, _ = scripts
    built_in = benchmark.known_lengths("")
    assert len(built_in) == 7104
    assert built_in.mean() == pytest.approx(5.228, abs=1e-3)
    (tmp_path / "labels.txt").write_text("a.jpg ab\nb.jpg abcd\n")
    np.testing.assert_array_equal(benchmark.known_lengths(str(tmp_path / "labels.txt")), [2, 4])


def test_words_read_otherwise_are_noticed(scripts):
    from data_pipelines.errors import UserError

    benchmark, _ = scripts
    tokens = np.zeros((100, 12), int)
    close, other = tokens.copy(), tokens.copy()
    close[0, 3] = other[0, 3] = other[5, 2] = 1
    benchmark.check({"cached": tokens, "torch": close}, "float32")
    with pytest.raises(UserError, match="torch reads 2 of 100 words otherwise than cached"):
        benchmark.check({"cached": tokens, "torch": other}, "float32")


@pytest.fixture
def run(call, scripts):
    return lambda *arguments: call(scripts[0].benchmark, "--size", "tiny", "--seconds", "0", *arguments)


def test_command(run):
    """Contenders in processes of their own."""
    status, told = run("--batch-sizes", "1", "3", "--contenders", "recomputed", "cached", "encoder", "--int8")
    assert status == 0, told
    assert [size for size in (1, 3) if f"{size} images, float32, int8 weights" in told] == [1, 3]
    rows = cells_of(told)
    assert [row[0] for row in rows] == ["recomputed", "cached", "encoder"] * 2
    for name, *cells in rows:
        p50, p90, p99, rate, runs = map(float, cells[:5])
        assert 0 < p50 <= p90 <= p99
        assert rate > 0
        assert runs == 3
        assert bool(cells[6]) == (name == "recomputed"), "cached is compared with it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-sizes", "0"), "batch_sizes must be 1 or more"),
        (("--contenders", "cached", "cached"), "name each contender once"),
        (("--seconds", "-1"), "seconds and fewest must not be negative"),
        (("--checkpoint", "no/such/run"), "no such checkpoint: no/such/run"),
        (("--labels", "none.txt"), "none.txt"),
    ],
)
def test_mistakes_are_named(run, arguments, message):
    status, told = run(*arguments)
    assert status != 0
    assert message in " ".join(told.split())
