"""The tiny models of the reference that NRTR and SATRN are compared with, and small ones on meshes."""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from data_pipelines.charset import Charset
from maerec_jax.config import MeshConfig, TrainConfig
from maerec_jax.distributed.sharding import make_mesh, put_batch, put_whole, replicated, state_shardings
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.models.interface import token_loss
from maerec_jax.models.names.table import COUNTS
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.training.run import make_task
from maerec_jax.training.step import loss_gradients
from maerec_jax.weights.state_dicts import name_table, params_from_state_dict, state_dict_from_params
from tests.conftest import FIXTURES
from tests.interop.pth_files import save_pth

CHARSET = Charset("012abcdAB!# ")
BGR = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Of the largest value: what the reference's own float32 and float64 differ by. Through the residual network gradients
# lose digits in both; computed in float64, ours differ from the reference's by 2.6e-5 at most.
TOLERANCE, OF_GRADIENTS = 2.5e-5, 6e-5


def close(found, expected, what="", tolerance=TOLERANCE):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{what}: relative error {error:.2e}"


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


class Case:
    """A tiny model with the reference's weights, for BGR pixels as these, and what is compiled of it once.

    Its dropout is off, and what its layers give comes with its logits.
    """

    def __init__(self, config, **widths):
        tiny = config.tiny(charset=CHARSET, dropout=0.0)
        self.config = replace(tiny, decoder=replace(tiny.decoder, dropout=0.0))
        with np.load(FIXTURES / "baselines" / f"{self.config.kind}_tiny.npz") as arrays:
            self.arrays = dict(arrays)
        if "mask" in widths:
            self.config = replace(self.config, mask=widths.pop("mask"))
        self.state = {key[3:]: value for key, value in self.arrays.items() if key.startswith("sd/")}
        self.state = {key: value.astype(np.float32) for key, value in self.state.items()}  # counts of batches are whole
        self.tables = {key: self.state.pop(key) for key in name_table(self.config).constants}
        self.params = params_from_state_dict(self.state, self.config)
        self.images = self.arrays["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)
        self.pixels = ((self.images - np.array(BGR[0])) / np.array(BGR[1])).astype(np.float32)
        self.tokens, self.widths = self.arrays["padded_indexes"], {name: np.int32(w) for name, w in widths.items()}

    @cached_property
    def evaluate(self):
        """From parameters and tokens to logits, losses, what layers gave, and gradients of the mean loss."""

        def loss(params, tokens):
            logits, found = self.config.module().apply(
                {"params": params}, self.pixels, tokens, **self.widths, capture_intermediates=True
            )
            loss_BT, _ = token_loss(logits[:, :-1], tokens[:, 1:], CHARSET.padding)
            return loss_BT.mean(), (logits, loss_BT, found["intermediates"])

        def evaluate(params, tokens):
            (_, found), grads = jax.value_and_grad(loss, has_aux=True)(params, tokens)
            return *found, grads

        return jax.jit(evaluate)

    @cached_property
    def evaluated(self):
        """That of the reference's tokens."""
        return self.evaluate(self.params, self.tokens)

    def layer(self, path):
        """What a layer gave."""
        found = self.evaluated[2]
        for name in path.split("/"):
            found = found[name]
        return found["__call__"][0]

    @cached_property
    def train(self):
        """From parameters, pixels, tokens and what counts to the mean loss and all of it, and gradients, as trained."""

        def loss(params, pixels, tokens, valid):
            made = self.config.loss(params, pixels, tokens, valid, jax.random.key(0), **self.widths)
            return made.total / made.weight, made

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def trained(self, pixels, tokens, valid=(1.0, 1.0)):
        """That of the reference's weights."""
        return self.train(self.params, pixels, tokens, np.float32(valid))

    @cached_property
    def read(self):
        return jax.jit(lambda params, pixels: self.config.read(params, pixels, **self.widths))

    def decoding(self):
        """The module with the decoder alone: what it is given as an image is encoded already."""
        module = type(self.config.module())

        class OfEncoded(module):
            def encode(self, image_BHWC, counted_B, width_B):
                return image_BHWC, None

        return OfEncoded(self.config)

    def check_gradients(self, grads, name, tied=()):
        """The named ones, and the sum of the squares of all; those of tied keys hang on what a pooling chooses."""
        found = state_dict_from_params(grads, self.config)
        keys = [key for key in self.arrays if key.startswith(f"{name}/") and "total" not in key and "sqsum" not in key]
        assert len(keys) >= 10
        for key in keys:
            close(found[key.split("/")[1]], self.arrays[key], key, 1e-2 if key.endswith(tied) else OF_GRADIENTS)
        assert not found["decoder.trg_word_emb.weight"][CHARSET.padding].any()
        trained = [g for path, g in flatten_dict(grads, sep="/").items() if not self.config.frozen(path)]
        total = sum(float(np.square(g, dtype=np.float64).sum()) for g in map(np.asarray, trained))
        close(total, self.arrays[f"{name}/sqsum_all"], "all gradients", OF_GRADIENTS)

    def check_texts(self, reading, name="test"):
        """What was read, up to the end, is what the reference read, with its scores."""
        for row, expected in enumerate(self.arrays[f"{name}_texts"]):
            text, places = CHARSET.decode(reading.tokens_BT[row])
            assert text == str(expected)
            scores = self.arrays[f"{name}_scores_nanpadded"][row]
            np.testing.assert_allclose(reading.probability_BT[row, places], scores[~np.isnan(scores)], rtol=1e-4)
            classes = self.arrays[f"{name}_argmax"][row]
            upto = (*np.flatnonzero(classes == CHARSET.start_end), len(classes) - 1)[0] + 1
            np.testing.assert_array_equal(reading.tokens_BT[row, :upto], classes[:upto])

    def written(self, folder):
        """The weights as training with the reference leaves them: in the entry of a checkpoint, with full tables."""
        state = self.state | name_table(self.config).constants
        state = {key: value.astype(np.int64) if key.endswith(COUNTS) else value for key, value in state.items()}
        return state, save_pth(folder / "file.pth", {"meta": {"epoch": 6}, "state_dict": state, "optimizer": {}})

    def options(self, **changes):
        """What no tensor tells of it."""
        sizes = {"encoder_heads": 4, "decoder_heads": 4, "max_length": 8, "image_size": self.config.image_size}
        return ImportOptions(**{"characters": CHARSET.characters, **sizes, **changes})


def compare_meshes(kind, out: Path) -> None:
    """The loss of a small model, its gradients and statistics on one device and on eight, to a file.

    And the least part of a parameter of the model at full size that one of eight devices holds, on several meshes.
    """
    jax.config.update("jax_num_cpu_devices", 8)
    decoder = TextDecoderConfig(dim=16, layers=1, heads=2, inner_dim=16, max_length=8)
    channels = (8,) * (len(kind().channels) - 1) + (16,)
    sizes = {"channels": channels, "encoder_layers": 1, "encoder_heads": 2, "encoder_inner_dim": 16}
    sizes |= {"blocks": (1, 1, 1, 1)} if kind.kind == "nrtr" else {}
    model = kind.tiny(**sizes, decoder=decoder, charset=CHARSET)
    task = make_task(TrainConfig(model=model, dtype="float32"))
    whole = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    height, width = model.image_size
    images = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
    tokens = np.stack([CHARSET.encode("a1b2cd"[: 1 + i % 6], 8) for i in range(8)])
    batch = {"image": images, "tokens": tokens, "valid": np.arange(8) != 3}
    if model.keep_ratio is not None:
        batch["width"] = np.arange(8, dtype=np.int32) * 4 + 32
    found = []
    for sizes, count in ((MeshConfig(), 1), (MeshConfig(data=1, fsdp=4, tensor=2), 8)):
        mesh = make_mesh(sizes, jax.devices()[:count])
        params = put_whole(whole, state_shardings(whole, mesh, model.sharding))
        gradients = jax.jit(lambda p, b: loss_gradients(task, p, b, jax.random.key(1)), out_shardings=replicated(mesh))
        found.append(jax.device_get(gradients(params, put_batch(batch, mesh))))
    (one, weight, sums, first), (many, _, other, second) = found

    def differences(one, many):
        one, many = flatten_dict(one, sep="/"), flatten_dict(many, sep="/")
        largest = max(np.abs(value).max() for value in one.values() if value is not None)
        return {path: float(np.abs(many[path] - x).max() / largest) for path, x in one.items() if x is not None}

    losses = [float(sums["loss"] / weight), float(other["loss"] / weight)]
    shapes, parts = jax.eval_shape(kind().init, jax.random.key(0)), []
    for sizes in (MeshConfig(fsdp=8), MeshConfig(tensor=8), MeshConfig(fsdp=2, tensor=4)):
        shardings = state_shardings(shapes, make_mesh(sizes), model.sharding)
        part = jax.tree.map(lambda x, s: float(np.prod(s.shard_shape(x.shape)) / x.size), shapes, shardings)
        parts.append(min(jax.tree.leaves(part)))
    told = {
        "least parts": parts,
        "loss": losses,
        "gradients": differences(one, many),
        "statistics": differences(first, second),
    }
    out.write_text(json.dumps(told))
