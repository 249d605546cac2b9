"""The configs of the baselines, from the names and shapes of their tensors."""

from typing import Any

from data_pipelines.charset import MAEREC_CHARACTERS
from maerec_jax.interop.model_of_shapes import ImportOptions, Shapes, _charset, _count, _heads, _shape
from maerec_jax.models.nrtr import NRTRConfig
from maerec_jax.models.satrn import SATRNConfig
from maerec_jax.models.text_decoder import TextDecoderConfig


def nrtr_of(shapes: Shapes, options: ImportOptions) -> NRTRConfig:
    """The config of NRTR, with the mask of the published weights."""
    convolutions = ("conv1_1", "conv1_2", "conv2", "conv3", "conv4", "conv5")
    channels: Any = tuple(_shape(shapes, f"backbone.{name}.weight", 4)[0] for name in convolutions)
    blocks: Any = tuple(_count(shapes, rf"backbone\.block{stage}\.(\d+)\.") for stage in (2, 3, 4, 5))
    return NRTRConfig(
        channels=channels,
        blocks=blocks,
        encoder_inner_dim=_shape(shapes, "encoder.layer_stack.0.mlp.w_1.weight", 2)[0],
        mask="flattened",
        **_transformers(shapes, options, NRTRConfig()),
    )


def satrn_of(shapes: Shapes, options: ImportOptions) -> SATRNConfig:
    """The config of SATRN."""
    channels: Any = tuple(_shape(shapes, f"backbone.conv{number}.conv.weight", 4)[0] for number in (1, 2))
    return SATRNConfig(
        channels=channels,
        encoder_inner_dim=_shape(shapes, "encoder.layer_stack.0.feed_forward.conv1.conv.weight", 4)[0],
        **_transformers(shapes, options, SATRNConfig()),
    )


def _transformers(shapes: Shapes, options: ImportOptions, published: NRTRConfig | SATRNConfig) -> dict[str, Any]:
    """What NRTR and SATRN have in common; of what no tensor tells, what is published."""
    classes, dim = _shape(shapes, "decoder.classifier.weight", 2)
    width, _ = _shape(shapes, "encoder.layer_stack.0.attn.fc.weight", 2)
    without_space = MAEREC_CHARACTERS.replace(" ", "") if classes == len(MAEREC_CHARACTERS) + 2 else ""
    decoder = TextDecoderConfig(
        dim=dim,
        layers=_count(shapes, r"decoder\.layer_stack\.(\d+)\."),
        heads=_heads(dim, options.decoder_heads or published.decoder.heads, "decoder"),
        inner_dim=_shape(shapes, "decoder.layer_stack.0.mlp.w_1.weight", 2)[0],
        max_length=options.max_length or published.max_length,
    )
    return {
        "encoder_layers": _count(shapes, r"encoder\.layer_stack\.(\d+)\."),
        "encoder_heads": _heads(width, options.encoder_heads or published.encoder_heads, "encoder"),
        "decoder": decoder,
        "charset": _charset(classes, options.characters or without_space),
        "image_size": options.image_size or published.image_size,
    }
