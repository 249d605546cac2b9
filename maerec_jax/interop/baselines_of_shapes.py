"""The configs of Union14M's baselines, from the names and shapes of their tensors."""

import math
import os
import string
from pathlib import Path
from typing import Any

from data_pipelines.charset import MAEREC_CHARACTERS, Charset, characters_of_file
from data_pipelines.errors import UserError
from maerec_jax.interop.import_options import ImportOptions, Numbers
from maerec_jax.interop.model_of_shapes import WORD, Shapes, _count, _heads, _shape
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig
from maerec_jax.models.aster import STRIDES, ASTERConfig
from maerec_jax.models.nrtr import NRTRConfig
from maerec_jax.models.rectifier import SHRINKS, WIDTHS
from maerec_jax.models.sar import SARConfig
from maerec_jax.models.satrn import SATRNConfig
from maerec_jax.models.text_decoder import TextDecoderConfig

SAR_PIXELS: tuple[Numbers, Numbers] = ((127.0,) * 3, (127.0,) * 3)
"""Mean and standard deviation of pixels with which SAR was trained."""

_PUBLISHED = {94: Charset(), 93: Charset(MAEREC_CHARACTERS.removesuffix(" "))}
"""The characters of the published models by their classes: the 91, or these without the space."""
_LOWER_CASE = {37: Charset(string.digits + string.ascii_lowercase, lower_case=True)}
"""Those of ABINet with its language model: beside its 36 characters it has the end alone."""
_ABINET = "decoder.vision_decoder"


def characters_of(layer: str, classes: int, given: str, end_only: bool = False) -> Charset:
    """The charset of a recogniser with so many classes.

    Beside the characters there are start/end, padding and unknown, or with ``end_only`` perhaps the end alone.
    ``layer`` tells where the classes were found, and ``given`` is --characters. Raises ``ValueError`` where the number
    is none of the published models' and not that of the characters given.
    """
    known = _PUBLISHED | (_LOWER_CASE if end_only else {})
    if not given and classes in known:
        return known[classes]
    try:
        charset = Charset(characters_of_file(Path(given)) if os.path.isfile(given) else given) if given else None
    except ValueError as error:
        raise UserError(f"--characters: {error}") from error
    if charset is None or classes - len(charset.characters) not in ((1, 3) if end_only else (3,)):
        alone = f", or {classes - 1} with the end alone" if end_only else ""
        *others, last = map(str, known)
        usual = f"published models have {', '.join(others)} or {last}"
        found = usual if charset is None else f"--characters has {len(charset.characters)}"
        raise ValueError(
            f"{layer} has {classes} classes, which are {classes - 3} characters with start/end, padding and unknown"
            f"{alone}, but {found}: give {'others' if given else 'its --characters'}"
        )
    return charset


def abinet_of(shapes: Shapes, options: ImportOptions) -> ABINetConfig:
    """The config of ABINet, and of its language model if there is one."""
    classes, dim = _shape(shapes, f"{_ABINET}.cls.weight", 2)
    charset = characters_of(f"{_ABINET}.cls", classes, options.characters, end_only=True)
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
        charset=characters_of("decoder.prediction", classes, options.characters),
    )


def aster_of(shapes: Shapes, options: ImportOptions) -> ASTERConfig:
    """The config of ASTER. Straight words are taken to be 32 pixels high, and the images they are looked for in, too.

    ``options.max_length`` and ``image_size``, which no tensor tells, are the published ones by default.
    """
    classes, attention_dim = _shape(shapes, "decoder.embedding.weight", 2)
    pixels, _ = _shape(shapes, "preprocessor.tps.target_coordinate_repr", 2)
    cells, remainder = divmod(_shape(shapes, "preprocessor.stn_fc1.0.weight", 2)[1], WIDTHS[-1])
    if pixels % 32 or remainder:
        raise ValueError("preprocessor.tps.target_coordinate_repr and stn_fc1.0.weight are for images of other heights")
    stages = range(1, len(STRIDES) + 1)
    return ASTERConfig(
        stem=_shape(shapes, "backbone.stem_layers.0.conv.weight", 4)[0],
        widths=tuple(_shape(shapes, f"backbone.layer{stage}.0.conv1.weight", 4)[0] for stage in stages),
        blocks=tuple(_count(shapes, rf"backbone\.layer{stage}\.(\d+)\.") for stage in stages),
        encoder_dim=_shape(shapes, "encoder.bilstm.weight_hh_l0", 2)[1],
        attention_dim=attention_dim,
        decoder_dim=_shape(shapes, "decoder.gru.weight_hh_l0", 2)[1],
        charset=characters_of("decoder.embedding", classes, options.characters),
        max_length=options.max_length or ASTERConfig.max_length,
        image_size=options.image_size or ASTERConfig.image_size,
        rectified_size=(32, pixels // 32),
        localisation_size=(32, SHRINKS * cells),
    )


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
        "charset": characters_of("decoder.classifier", classes, options.characters),
        "image_size": options.image_size or published.image_size,
    }
