"""The configs of the baselines of Union14M, from the names and shapes of their tensors."""

import os
from pathlib import Path

from data_pipelines.charset import MAEREC_CHARACTERS, Charset, characters_of_file
from data_pipelines.errors import UserError
from maerec_jax.interop.model_of_shapes import ImportOptions, Numbers, Shapes, _count, _shape
from maerec_jax.models.sar import SARConfig

# SAR.

SAR_PIXELS: tuple[Numbers, Numbers] = ((127.0,) * 3, (127.0,) * 3)
"""Mean and standard deviation of pixels with which SAR was trained."""


def sar_of(shapes: Shapes, options: ImportOptions) -> SARConfig:
    """The config of SAR, with the cells that published weights need."""
    layers = ("1_1", "1_2", "2", "3", "4", "5")
    c1, c2, c3, c4, c5, c6 = (_shape(shapes, f"backbone.conv{layer}.weight", 4)[0] for layer in layers)
    b1, b2, b3, b4 = (_count(shapes, rf"backbone\.block{stage}\.(\d+)\.") for stage in range(2, 6))
    classes = _shape(shapes, "decoder.prediction.weight", 2)[0]
    return SARConfig(
        channels=(c1, c2, c3, c4, c5, c6),
        blocks=(b1, b2, b3, b4),
        encoder_dim=_shape(shapes, "encoder.rnn_encoder.weight_hh_l0", 2)[1],
        decoder_dim=_shape(shapes, "decoder.rnn_decoder_layer1.weight_hh", 2)[1],
        attention_dim=_shape(shapes, "decoder.conv3x3_1.weight", 4)[0],
        max_length=options.max_length or SARConfig.max_length,
        cell_state="hidden",
        image_size=options.image_size or SARConfig.image_size,
        charset=sar_characters(classes, options.characters),
    )


def sar_characters(classes: int, given: str) -> Charset:
    """The characters of so many classes: those given, or the published 91, or 90 of these without the space."""
    usual = MAEREC_CHARACTERS[: classes - 3] if classes in (93, 94) else ""
    try:
        characters = (characters_of_file(Path(given)) if os.path.isfile(given) else given) or usual
        charset = Charset(characters) if characters else None
    except ValueError as error:
        raise UserError(f"--characters: {error}") from error
    if charset is None or charset.n_classes != classes:
        found = f"--characters has {len(characters)}" if given else "published models have 91 or 90"
        raise ValueError(
            f"decoder.prediction has {classes} classes, which are {classes - 3} characters with start/end, padding "
            f"and unknown, but {found}: give {'others' if given else 'its --characters'}"
        )
    return charset
