"""Operations counted from the sizes of a model, against those that XLA counts in the same model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from maerec_jax.config import TrainConfig
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.run import make_task
from maerec_jax.training.step import loss_gradients

# Wide enough that matrix multiplications are nearly all there is, and with sizes that differ from each other.
ENCODER = ViTConfig(dim=256, depth=2, heads=4, position_table="grid")
STEM = replace(ENCODER, patch_size=(8, 8), stem="convolutions")
RECOGNISER = MAERecConfig(
    encoder=ENCODER, decoder=TextDecoderConfig(dim=320, layers=2, inner_dim=512, dropout=0.0, max_length=24)
)
MODELS = {
    "mae": MAEConfig(encoder=ENCODER, decoder_dim=192, decoder_depth=3, decoder_heads=4),
    "cross_mae": CrossMAEConfig(encoder=ENCODER, decoder_dim=192, decoder_depth=3, decoder_heads=4),
    "cross_mae of the encoded image": CrossMAEConfig(
        encoder=ENCODER, decoder_dim=192, decoder_depth=2, decoder_heads=4, weighted_features=False
    ),
    "maerec": RECOGNISER,
    "maerec with adapters": replace(RECOGNISER, encoder=replace(ENCODER, lora_rank=16)),
    "mae with a stem": MAEConfig(encoder=STEM, decoder_dim=192, decoder_depth=3, decoder_heads=4),
    "maerec with a stem and adapters": replace(RECOGNISER, encoder=replace(STEM, lora_rank=16)),
}


def counted(model, image_size, gradient):
    """Operations for an image by XLA's count of the program before it is compiled, in which nothing is fused."""
    images = 2
    task = make_task(TrainConfig(model=model, dtype="float32"))
    params = jax.eval_shape(task.config.init, jax.random.key(0))
    rows, columns = model.encoder.grid_of(image_size)
    batch = {
        "image": jax.ShapeDtypeStruct((images, *image_size, 3), jnp.uint8),
        "valid": jax.ShapeDtypeStruct((images,), jnp.bool_),
    }
    if model.kind != "maerec":
        batch["noise"] = jax.ShapeDtypeStruct((images, rows * columns), jnp.float32)
    else:
        batch["tokens"] = jax.ShapeDtypeStruct((images, model.decoder.max_length), jnp.int32)

    def loss(params, batch):
        return task.loss(params, batch, jax.random.key(0)).total

    def gradients(params, batch):
        return loss_gradients(task, params, batch, jax.random.key(0))[0]

    return jax.jit(gradients if gradient else loss).lower(params, batch).cost_analysis()["flops"] / images


@pytest.mark.parametrize("image_size", [(32, 128), (16, 256)], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_forward_and_backward_are_what_xla_counts(kind, image_size):
    work = MODELS[kind].work(image_size)
    # XLA counts norms, softmaxes and activations too: a few per cent, and never less than the multiplications alone.
    assert 0.93 < work.forward / counted(MODELS[kind], image_size, gradient=False) <= 1
    assert 0.95 < work.executed / counted(MODELS[kind], image_size, gradient=True) <= 1
    assert work.recomputed == 0


def with_remat(model, keeps):
    remat = replace(model, encoder=replace(model.encoder, remat=True, remat_keeps=keeps))
    if model.kind == "maerec":
        remat = replace(remat, decoder=replace(remat.decoder, remat=True, remat_keeps=keeps))
    return remat


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "stem" not in kind])
def test_remat_is_what_xla_counts(kind):
    plain = MODELS[kind]
    everything, attention = (with_remat(plain, keeps) for keeps in ("nothing", "products"))
    images = (32, 128)
    most = counted(everything, images, gradient=True)
    work = everything.work(images)
    assert 0.93 < work.recomputed / (most - counted(plain, images, gradient=True)) <= 1
    assert work.model == plain.work(images).model
    # Norms and activations, which XLA counts too, are computed again in both cases.
    saved = work.recomputed - attention.work(images).recomputed
    assert saved / (most - counted(attention, images, gradient=True)) == pytest.approx(1, abs=0.02)
