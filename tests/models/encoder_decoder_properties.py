"""The properties of NRTR and SATRN: they compute what the reference does, learn, and are imported and exported."""

import json
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from data_pipelines.charset import MAEREC_CHARACTERS, Charset
from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.pytorch_file import write_pytorch
from maerec_jax.interop.stablehlo_file import reading_program
from maerec_jax.models.beam import beam_read
from maerec_jax.models.greedy import greedy_read
from maerec_jax.weights.files import about_weights, run_of_metadata
from maerec_jax.weights.finding import save_weights
from maerec_jax.weights.state_dicts import name_table, state_dict_from_params, state_dict_shapes
from tests.interop.imports import FULL_SIZE
from tests.interop.pth_files import save_pth
from tests.models.encoder_decoder_cases import BGR, CHARSET, close, compare_meshes, nchw
from tests.training.processes import FORKS


def decoder_operations(config):
    """Those of the text decoder in training, and of the attention of the encoder."""
    places, (rows, columns), dim, dec = config.max_length - 1, config.grid, config.channels[-1], config.decoder
    memory = rows * columns
    attention = 2 * 4 * memory * dim**2 + 2 * 2 * memory**2 * dim
    own = 2 * 4 * places * dim**2 + 2 * 2 * places**2 * dim + 2 * 2 * places * dim * dec.inner_dim
    other = 2 * 2 * (places + memory) * dim**2 + 2 * 2 * places * memory * dim
    classes = 2 * places * dim * config.charset.n_classes
    return config.encoder_layers * attention + dec.layers * (own + other) + classes


class Properties:
    """The properties of a model.

    Subclasses bring a fixture ``case``, the model at ``full`` size, its ``published`` name, its ``config_of`` shapes
    and the ``operations`` of a forward pass.
    """

    tied: tuple[str, ...] = ()

    def test_targets(self, case):
        special = [CHARSET.start_end, CHARSET.start_end, CHARSET.padding, CHARSET.unknown]
        assert special == case.arrays["start_end_pad_unk"].tolist()
        for texts, tokens in (("target_texts", "target_padded_indexes"), ("gt_texts", "padded_indexes")):
            made = np.stack([CHARSET.encode(str(text), 8) for text in case.arrays[texts]])
            np.testing.assert_array_equal(made, case.arrays[tokens])
        close(nchw(case.pixels)[:, :, ::4, ::4], case.arrays["images_normalised_slice"])
        shown = np.tril(np.ones((8, 8), bool)) & (case.tokens != CHARSET.padding)[:, None]
        np.testing.assert_array_equal(shown, case.arrays["target_mask"])

    def test_encoder_and_decoder(self, case):
        close(case.layer("encoder"), case.arrays["enc"])
        close(nchw(case.layer("backbone")), case.arrays["feat"])
        for i in range(2):
            close(case.layer(f"encoder/layers_{i}"), case.arrays[f"enc_layer{i}_out"], f"encoder layer {i}")
            close(case.layer(f"decoder/layers_{i}")[0], case.arrays[f"tf_layer{i}_out"], f"decoder layer {i}")
        close(case.evaluated[0], case.arrays["tf_logits"])

    def test_loss_and_gradients(self, case):
        _, loss_BT, _, grads = case.evaluated
        close(loss_BT.ravel(), case.arrays["eval_loss_ce"])
        close(loss_BT.mean(), case.arrays["grad_eval/total_loss"])
        case.check_gradients(grads, "grad_eval", self.tied)

    def test_loss_gradients_and_statistics_in_training(self, case):
        (total, made), grads = case.trained(case.pixels, case.tokens)
        close(total, case.arrays["grad_train/total_loss"])
        close(made.total, case.arrays["train_loss_ce"].sum())
        assert made.weight == case.arrays["train_loss_ce"].size
        case.check_gradients(grads, "grad_train")
        after = {key.split("/")[1]: value for key, value in case.arrays.items() if key.startswith("train_after/")}
        found = state_dict_from_params(made.statistics, case.config)
        assert len(after) >= 6
        for key, value in after.items():
            close(found[key], value, key)
        paths = {path for path in flatten_dict(case.params, sep="/") if case.config.frozen(path)}
        assert flatten_dict(made.statistics, sep="/").keys() == paths

    def test_greedy_reading(self, case):
        case.check_texts(case.read(case.params, case.pixels))

    def test_decoding_of_what_was_encoded(self, case):
        """Ends at all places or none, padding that is written, unknown characters; and the same by beams of 1."""
        model, encoded, params = case.decoding(), case.arrays["dec_only_enc"], {"params": case.params}
        reading = jax.jit(lambda x: greedy_read(model, case.params, x))(encoded)
        case.check_texts(reading, "dec_only")
        classes = case.arrays["dec_only_argmax"]
        written = np.concatenate([np.full((len(classes), 1), CHARSET.start_end), classes[:, :-1]], axis=1)
        close(jax.nn.softmax(jax.jit(model.apply)(params, encoded, written)), case.arrays["dec_only_probs"])
        ones, three = (jax.jit(lambda x, n=n: beam_read(model, case.params, x, n))(encoded) for n in (1, 3))
        np.testing.assert_array_equal(ones.tokens_BKT[:, 0], reading.tokens_BT)
        np.testing.assert_allclose(ones.probability_BKT[:, 0], reading.probability_BT, rtol=1e-5)
        assert np.isfinite(three.score_BK).all()
        assert (np.diff(three.score_BK) <= 0).all()

    def test_probabilities_of_what_was_read(self, case):
        """Those of all places, also after the end, which the reference goes on from."""
        classes = case.arrays["test_argmax"]
        written = np.concatenate([np.full((len(classes), 1), CHARSET.start_end), classes[:, :-1]], axis=1)
        close(jax.nn.softmax(case.evaluate(case.params, written.astype(np.int32))[0]), case.arrays["test_probs"])

    def test_one_batch_is_learnt_by_heart(self, case):
        texts = ("ab 1", "Bd0")
        tokens = np.stack([CHARSET.encode(text, 8) for text in texts])
        adam, params = optax.adam(5e-3), jax.jit(case.config.init)(jax.random.key(0))
        state = adam.init(params)

        @jax.jit
        def moved(params, state, grads, statistics):
            updates, state = adam.update(grads, state)
            flat = flatten_dict(optax.apply_updates(params, updates)) | flatten_dict(statistics)
            return unflatten_dict(flat), state

        for _ in range(120):
            (loss, made), grads = case.train(params, case.pixels, tokens, np.ones(2, np.float32))
            params, state = moved(params, state, grads, made.statistics)
        assert loss < 0.02
        reading = case.read(params, case.pixels)
        assert [CHARSET.decode(tokens)[0] for tokens in reading.tokens_BT] == list(texts)

    def test_images_that_do_not_count(self, case):
        """They change neither the loss nor the gradients and statistics."""
        first = case.trained(case.pixels, case.tokens, (1, 0))
        pixels, tokens = case.pixels * [[[[1]]], [[[-3]]]], case.tokens[:1].repeat(2, axis=0)
        second = case.trained(pixels.astype(np.float32), tokens, (1, 0))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), first, second)
        assert first[0][1].weight == 7

    def test_attention(self, case):
        """Maps of the grid, each a distribution."""
        made = jax.jit(lambda t: case.config.attention(case.params, case.pixels, t, **case.widths))(case.tokens)
        assert made.shape == (2, 8, *case.config.grid)
        np.testing.assert_allclose(made.sum(axis=(2, 3)), 1, rtol=1e-5)
        with pytest.raises(ValueError, match="9 tokens, but the model reads at most 8"):
            case.config.attention(case.params, case.pixels, np.zeros((2, 9), int))

    def test_position_tables(self, case):
        """Those of the reference to the bit."""
        for key, ours in name_table(case.config).constants.items():
            theirs = case.tables[key]
            cut = ours[tuple(slice(n) for n in theirs.shape)]
            np.testing.assert_array_equal(cut, theirs)

    def test_import_and_export(self, case, tmp_path):
        """The reference's file for BGR becomes a model for RGB, and comes back bit by bit."""
        state, path = case.written(tmp_path)
        found = import_weights(path, case.options())
        assert found.config.model == replace(
            case.config, dropout=0.1, decoder=replace(case.config.decoder, dropout=0.1)
        )
        assert (found.color, found.config.data.interpolation) == ("bgr", "bilinear")
        assert found.config.model.pixel_mean == BGR[0][::-1]
        assert found.config.model.pixel_std == BGR[1][::-1]
        case.check_texts(case.read(found.params, case.pixels[..., ::-1]))
        write_pytorch(tmp_path / "out.pth", found.config, found.params, 0, released=True)
        released = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
        save_weights(tmp_path / "out.safetensors", found.config, found.params, 0)
        ours = load_file(tmp_path / "out.safetensors")
        (pixels,) = case.config.pixel_axes
        (first,) = (key for key, (path, _) in state_dict_shapes(case.config).items() if path == pixels)
        assert released.keys() == ours.keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(released[key].numpy(), value, key)
            assert released[key].numpy().dtype == ours[key].dtype == value.dtype
            np.testing.assert_array_equal(ours[key][:, ::-1] if key == first else ours[key], value, key)
        again = import_weights(tmp_path / "out.safetensors", ImportOptions())
        assert again.config.model == found.config.model

    def test_files_that_do_not_fit_are_told_of_in_one_line(self, case, tmp_path):
        state, path = case.written(tmp_path)

        def told(changes, **options):
            save_pth(
                path, {"state_dict": {key: value for key, value in (state | changes).items() if value is not None}}
            )
            with pytest.raises(UserError) as error:
                import_weights(path, case.options(**options))
            assert "\n" not in str(error.value)
            return str(error.value)

        norm, bias = "encoder.layer_norm.weight", "encoder.layer_norm.bias"
        message = told({norm: None, bias: state[bias][:3], "decoder.more": state[bias]})
        for part in (f"missing: {norm}", "left over: decoder.more", f"of another shape: {bias} (3,)"):
            assert part in message
        assert "has 15 classes, which are 12 characters" in told({}, characters="")
        first = next(key for key in state if key.startswith("backbone.conv1") and key.endswith("weight"))
        assert f"{first} is missing" in told({first: None})

    def test_classes_of_published_files(self, case):
        config_of = self.config_of
        shapes = {key: shape for key, (_, shape) in state_dict_shapes(case.config).items()}
        for classes, characters in ((94, MAEREC_CHARACTERS), (93, MAEREC_CHARACTERS.rstrip(" "))):
            cut = {"decoder.classifier.weight": (classes, case.config.decoder.dim)}
            found = config_of({**shapes, **cut}, case.options(characters="", max_length=0))
            assert found.charset.characters == characters
            assert found.max_length == self.full.max_length

    def test_the_model_at_full_size(self):
        """Keys, shapes and numbers are the published ones, and its own file is believed."""
        if not FULL_SIZE.is_file():
            pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
        expected, model = json.loads(FULL_SIZE.read_text())[self.published], self.full
        classes = expected["keys"]["decoder.classifier.weight"][0]
        model = replace(model, charset=Charset(MAEREC_CHARACTERS[: classes - 3]))
        found = {key: list(shape) for key, (_, shape) in state_dict_shapes(model).items()}
        found |= {key: list(value.shape) for key, value in name_table(model).constants.items()}
        assert found == expected["keys"]
        params = flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep="/")
        trained = sum(value.size for path, value in params.items() if not model.frozen(path))
        assert trained == expected["n_trainable"]
        shapes = {key: tuple(shape) for key, shape in found.items()}
        assert run_of_metadata(about_weights(TrainConfig(model=model), 0), shapes)[0].model == model

    def test_losses_do_not_depend_on_the_mesh(self, tmp_path):
        """And eight devices can divide the model at full size."""
        process = FORKS.Process(target=compare_meshes, args=(type(self.full), tmp_path / "found.json"))
        process.start()
        process.join()
        assert process.exitcode == 0
        found = json.loads((tmp_path / "found.json").read_text())
        assert found["loss"][0] == pytest.approx(found["loss"][1], rel=1e-5)
        assert max(found["gradients"].values()) < 1e-3
        assert max(found["statistics"].values()) < 1e-5
        assert found["least parts"] == [1 / 8] * 3

    def test_work_is_counted(self, case):
        """Forwards what is written below; backwards that of each input and of each kernel."""
        work = case.config.work(case.config.image_size)
        assert work.forward == self.operations(case.config)
        assert work.backward == 2 * work.forward

    def test_exported_programs_read_the_same(self, case):
        weights = flatten_dict(case.params, sep="/")
        model = replace(case.config, pixel_mean=BGR[0], pixel_std=BGR[1])
        program = reading_program(model, weights, model.image_size)
        width = [case.widths["width_B"]] if model.keep_ratio else []
        made = program.call(weights, case.images, *width)
        reading = case.read(case.params, case.pixels)
        np.testing.assert_array_equal(made["tokens"], reading.tokens_BT)
        np.testing.assert_allclose(made["probabilities"], reading.probability_BT, rtol=1e-4)
