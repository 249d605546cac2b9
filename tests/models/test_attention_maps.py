"""Where the text decoder looked."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.vit import ViTConfig

CONFIG = MAERecConfig.tiny()
START, PADDING = CONFIG.charset.start_end, CONFIG.charset.padding


def make(config, height=32, width=128):
    model = MAERec(config)
    image = jax.random.normal(jax.random.key(1), (3, height, width, 3))
    tokens = jax.random.randint(jax.random.key(2), (3, 12), 0, 91)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *config.encoder.image_size, 3)), tokens[:1])["params"]
    return model, params, image, tokens


@pytest.fixture(scope="module")
def recogniser():
    return make(CONFIG)


def test_equals_what_the_parameters_say(recogniser):
    """Queries from the residual stream before the last layer's cross-attention, keys from the encoded image."""
    model, params, image, tokens = recogniser
    tokens = tokens.at[0, 4].set(PADDING)
    maps = jax.jit(lambda p, i, t: CONFIG.attention(p, i, t))(params, image, tokens)

    seen = np.asarray(jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=START)[:, :-1])

    def run(m, image, seen):
        memory = m.encoder(image)
        m.decoder(seen, memory)
        return memory

    memory, found = jax.jit(lambda p, i, t: model.apply({"params": p}, i, t, method=run, capture_intermediates=True))(
        params, image, seen
    )
    x = found["intermediates"]["decoder"]["layers_0"]["__call__"][0][0]
    cross = jax.device_get(params["decoder"])["layers_1"]

    def norm(x, p):
        x = np.asarray(x, np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p["scale"] + p["bias"]

    def softmax(scores):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    p = cross["self_attention"]
    h = norm(x, cross["norm1"])
    q, k, v = (np.einsum("btd,dhf->bhtf", h, p[name]["kernel"]) for name in ("query", "key", "value"))
    allowed = np.tril(np.ones((12, 12), bool)) & (seen != PADDING)[:, None, None]
    weights = softmax(np.where(allowed, q @ k.swapaxes(-1, -2) / 4, -np.inf))  # 16 values a head
    x = x + np.einsum("bhtf,hfd->btd", weights @ v, p["out"]["kernel"])
    p = cross["cross_attention"]
    q = np.einsum("btd,dhf->bhtf", norm(x, cross["norm2"]), p["query"]["kernel"])
    k = np.einsum("bnd,dhf->bhnf", np.asarray(memory, np.float64), p["key"]["kernel"])
    expected = softmax(q @ k.swapaxes(-1, -2) / 4).mean(axis=1)[..., 1:]
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(maps.reshape(3, 12, -1), expected, rtol=2e-4)


def test_earlier_maps_do_not_depend_on_later_tokens(recogniser):
    _, params, image, tokens = recogniser
    maps = jax.jit(lambda t: CONFIG.attention(params, image, t))
    base = maps(tokens)
    for place in (0, 5, 10):  # the last token is seen by no map
        changed = maps(tokens.at[:, place].add(1))
        np.testing.assert_array_equal(base[:, : place + 1], changed[:, : place + 1])
        assert (np.abs(base[:, place + 1 :] - changed[:, place + 1 :]).max(axis=(0, 2, 3)) > 1e-8).all()


@pytest.mark.parametrize(
    ("patch", "size"), [((4, 4), (32, 128)), ((16, 8), (32, 64)), ((32, 8), (64, 128)), ((8, 8), (32, 32))]
)
def test_maps_of_every_grid_add_up_to_one(patch, size):
    """Also at image sizes other than the model's own; and with fewer tokens than the model may read."""
    config = replace(CONFIG, encoder=ViTConfig.tiny(patch_size=patch, position_table="grid"))
    _, params, image, tokens = make(config, *size)
    maps = jax.jit(lambda i, t: config.attention(params, i, t))(image, tokens[:, :5])
    assert maps.shape == (3, 5, size[0] // patch[0], size[1] // patch[1])
    assert maps.dtype == jnp.float32
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1.0, rtol=1e-5)


def test_rows_and_columns_are_those_of_the_image(recogniser):
    """Where all keys but those of one patch are alike, that patch stands out at its own row and column."""
    _, params, _, tokens = recogniser
    flat = jnp.full((1, 32, 128, 3), -1.0)
    marked = flat.at[:, 8:12, 100:104].set(1.0)  # row 2, column 25
    # An encoder whose blocks add nothing: what a patch holds stays in its place.
    encoder = jax.tree.map(lambda x: x, params["encoder"])
    for name, part in encoder.items():
        if name.startswith("blocks_") and name != "blocks_norm":
            encoder[name] = {**part, **{w: jax.tree.map(jnp.zeros_like, part[w]) for w in ("proj", "fc2")}}
    params = {**params, "encoder": encoder}
    find = jax.jit(lambda image: CONFIG.attention(params, image, tokens[:1, :3]))
    change = [find(image) for image in (flat, marked)]
    change = np.abs(np.log(change[1]) - np.log(change[0])).mean(axis=(0, 1))
    assert np.unravel_index(change.argmax(), change.shape) == (2, 25)


def test_collecting_computes_nothing_more(recogniser):
    model, params, image, tokens = recogniser

    def plain(params):
        return model.apply({"params": params}, image, tokens)

    def collecting(params):
        return model.apply({"params": params}, image, tokens, mutable=["intermediates"])

    def softmaxes(jaxpr):
        inner = (getattr(x, "jaxpr", None) for eqn in jaxpr.eqns for x in eqn.params.values())
        return sum(eqn.primitive.name == "exp" for eqn in jaxpr.eqns) + sum(softmaxes(x) for x in inner if x)

    found = [softmaxes(jax.make_jaxpr(f)(params).jaxpr) for f in (plain, collecting)]
    assert found == [2 * 2, 2 * 2]  # of the decoder: the encoder's are in functions that are not looked into
    np.testing.assert_array_equal(jax.jit(plain)(params), jax.jit(collecting)(params)[0])


def test_initialising_collects_nothing(recogniser):
    model, _, image, tokens = recogniser
    assert set(jax.eval_shape(model.init, jax.random.key(0), image, tokens)) == {"params"}


def test_tokens_that_were_read(recogniser):
    model, params, image, _ = recogniser
    tokens = jax.jit(lambda i: greedy_read(model, params, i))(image).tokens_BT
    maps = jax.jit(lambda i, t: CONFIG.attention(params, i, t))(image, tokens)
    assert maps.shape == (3, 12, 8, 32)


def test_what_cannot_be_given_is_named(recogniser):
    _, params, image, tokens = recogniser
    with pytest.raises(ValueError, match="24 tokens, but the model reads at most 12"):
        CONFIG.attention(params, image, jnp.concatenate([tokens, tokens], axis=1))
