"""Configs of Union14M's baselines, from the shapes of their tensors."""

import os
from pathlib import Path

from data_pipelines.charset import MAEREC_CHARACTERS, Charset, characters_of_file
from data_pipelines.errors import UserError
from maerec_jax.interop.model_of_shapes import ImportOptions, Shapes, _count, _shape
from maerec_jax.models.aster import STRIDES, ASTERConfig
from maerec_jax.models.rectifier import SHRINKS, WIDTHS


def aster_of(shapes: Shapes, options: ImportOptions) -> ASTERConfig:
    """The config of ASTER. Straight words are taken to be 32 pixels high, and the images they are looked for in, too.

    ``options.max_length`` and ``image_size``, which no tensor tells, are the published ones by default.
    """
    classes, attention_dim = _shape(shapes, "decoder.embedding.weight", 2)
    pixels, _ = _shape(shapes, "preprocessor.tps.target_coordinate_repr", 2)
    cells, remainder = divmod(_shape(shapes, "preprocessor.stn_fc1.0.weight", 2)[1], WIDTHS[-1])
    if pixels % 32 or remainder:
        raise ValueError("preprocessor.tps.target_coordinate_repr and stn_fc1.0.weight are for images of other heights")
    stages, usual = range(1, len(STRIDES) + 1), ASTERConfig.max_length
    return ASTERConfig(
        stem=_shape(shapes, "backbone.stem_layers.0.conv.weight", 4)[0],
        widths=tuple(_shape(shapes, f"backbone.layer{stage}.0.conv1.weight", 4)[0] for stage in stages),
        blocks=tuple(_count(shapes, rf"backbone\.layer{stage}\.(\d+)\.") for stage in stages),
        encoder_dim=_shape(shapes, "encoder.bilstm.weight_hh_l0", 2)[1],
        attention_dim=attention_dim,
        decoder_dim=_shape(shapes, "decoder.gru.weight_hh_l0", 2)[1],
        charset=_aster_charset(classes, options.characters),
        max_length=usual if options.max_length == ImportOptions.max_length else options.max_length,
        image_size=options.image_size or ASTERConfig.image_size,
        rectified_size=(32, pixels // 32),
        localisation_size=(32, SHRINKS * cells),
    )


def _aster_charset(classes: int, given: str) -> Charset:
    """The given characters, or the published ones: 91, or, as in the published training, the same without the space."""
    try:
        published = {94: MAEREC_CHARACTERS, 93: MAEREC_CHARACTERS.replace(" ", "")}
        characters = characters_of_file(Path(given)) if os.path.isfile(given) else given or published.get(classes, "")
        if characters and classes == len(characters) + 3:
            return Charset(characters)
    except ValueError as error:
        raise UserError(f"--characters: {error}") from error
    found = f"--characters has {len(characters)}" if given else "the published models have 91 or 90"
    raise ValueError(
        f"decoder.embedding has {classes} classes, which are {classes - 3} characters with start/end, padding and "
        f"unknown, but {found}: give {'others' if given else 'its --characters'}"
    )
