"""The configs of Union14M's baselines, from the names and shapes of their tensors."""

import math
import os
import string
from pathlib import Path
from typing import Any

from data_pipelines.charset import MAEREC_CHARACTERS, Charset, characters_of_file
from data_pipelines.errors import UserError
from maerec_jax.interop.model_of_shapes import WORD, ImportOptions, Shapes, _count, _heads, _shape
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig

_ABINET = "decoder.vision_decoder"
_ABINET_CHARSETS = {
    94: Charset(),
    93: Charset(MAEREC_CHARACTERS.removesuffix(" ")),
    37: Charset(string.digits + string.ascii_lowercase, lower_case=True),
}
"""Those of the published models, by their classes; 37 are 36 characters and the end alone."""


def abinet_of(shapes: Shapes, options: ImportOptions) -> ABINetConfig:
    """The config of ABINet, and of its language model if there is one."""
    classes, dim = _shape(shapes, f"{_ABINET}.cls.weight", 2)
    charset = _abinet_charset(classes, options.characters)
    stem, channels, *_ = _shape(shapes, "backbone.conv1.weight", 4)
    if channels != 3:
        raise ValueError(f"backbone.conv1.weight is for images of {channels} channels, not 3")
    stages = [f"backbone.layer{number}" for number in range(1, 6)]
    widths: Any = tuple(_shape(shapes, f"{stage}.0.conv2.weight", 4)[0] for stage in stages)
    blocks: Any = tuple(_count(shapes, rf"{stage}\.(\d+)\.") for stage in stages)
    language = None
    if any(name.startswith("decoder.language_decoder.") for name in shapes):
        language = LanguageConfig(layers=_count(shapes, r"decoder\.language_decoder\.decoder_layers\.(\d+)\."))
    positions = f"{_ABINET}.pos_encoder.position_table"
    return ABINetConfig(
        stem=stem,
        widths=widths,
        blocks=blocks,
        dim=dim,
        heads=_heads(dim, options.encoder_heads or options.decoder_heads or 8, "encoder"),
        inner_dim=_shape(shapes, "encoder.transformer.0.ffns.0.layers.0.0.weight", 2)[0],
        encoder_layers=_count(shapes, r"encoder\.transformer\.(\d+)\."),
        key_channels=_shape(shapes, f"{_ABINET}.k_encoder.0.conv.weight", 4)[0],
        max_length=_shape(shapes, positions, 3)[1] if positions in shapes else 26,
        language=language,
        end_only=classes == len(charset.characters) + 1,
        image_size=options.image_size or _abinet_image_size(shapes),
        charset=charset,
    )


def _abinet_image_size(shapes: Shapes) -> tuple[int, int]:
    """Height and width of images, by the places of a map of a fourth of both; four times as wide as high."""
    table = "encoder.pos_encoder.position_table"
    if table not in shapes:
        return WORD
    places = _shape(shapes, table, 3)[1]
    rows = math.isqrt(max(places, 0) // 4)
    if 4 * rows * rows != places or not rows:
        raise ValueError(f"{table} is for {places} places: give --image-size")
    return 4 * rows, 16 * rows


def _abinet_charset(classes: int, given: str) -> Charset:
    """The characters of a number of classes: beside them there are the end, padding and unknown, or the end alone."""
    found = f"{_ABINET}.cls has {classes} classes"
    if not given:
        if classes not in _ABINET_CHARSETS:
            raise ValueError(
                f"{found}, which are {classes - 3} characters with start/end, padding and unknown, or {classes - 1} "
                "with the end alone; the published models have 94, 93 or 37: give its --characters"
            )
        return _ABINET_CHARSETS[classes]
    try:
        charset = Charset(characters_of_file(Path(given)) if os.path.isfile(given) else given)
    except ValueError as error:
        raise UserError(f"--characters: {error}") from error
    if classes - len(charset.characters) not in (1, 3):
        count = len(charset.characters)
        raise ValueError(
            f"{found}, but the {count} of --characters make {count + 3} with start/end, padding and unknown, or "
            f"{count + 1} with the end alone: give others"
        )
    return charset
