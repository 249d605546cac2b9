"""The options of importing weights; what takes long to import has no part in ``--help``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Numbers = tuple[float, float, float]


@dataclass(frozen=True)
class ImportOptions:
    """What cannot be read from the file of weights."""

    characters: Annotated[str, tyro.conf.arg(metavar="FILE_OR_STRING")] = ""
    """Charset in class order: the characters, or a file with them. Default for 94 classes: the published 91."""
    encoder_only: bool = False
    """Import the image encoder only, to start training from it."""
    encoder_heads: int = 0
    """Attention heads of the encoder; default: as in published models of its width, else width / 64."""
    decoder_heads: int = 0
    """Attention heads of the decoder; default: 8 (text decoder) or 16 (autoencoder)."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Image size in pixels; default: four times as wide as high, by the patches; 32 128 for timm and DeiT."""
    patch_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Patch size in pixels that an encoder is converted to; default: 4 4 for those of timm and DeiT."""
    source_grid: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="ROWS COLUMNS")] = None
    """Rows and columns of an encoder's position table; default: a square."""
    max_length: int = 0
    """Longest text in tokens, start token included; default: as published, 48 for MAERec."""
    color: Literal["auto", "rgb", "bgr"] = "auto"
    """Channel order that the weights expect; auto: bgr for recognisers, as released, else rgb."""
    pixel_mean: Annotated[Numbers | None, tyro.conf.arg(metavar="MEAN MEAN MEAN")] = None
    """Mean subtracted from pixels (0 to 255), in --color order; default: ImageNet's, 127.5 for MAE pre-training."""
    pixel_std: Annotated[Numbers | None, tyro.conf.arg(metavar="STD STD STD")] = None
    """Deviation that pixels are divided by; default: ImageNet's, 127.5 for MAE pre-training."""
    merge_lora: bool = True
    """Merge LoRA adapters into the weights that they adapt."""
    entry: str = ""
    """Entry of the file that holds the weights, such as state_dict_ema; default: state_dict or model."""
    ignore_code: bool = False
    """Also read files whose pickle names unknown functions or classes; these are never run."""
