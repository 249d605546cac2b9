"""The settings of reading, for Python and for commands; what takes long to import has no part in ``--help``."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from data_pipelines.errors import UserError
from data_pipelines.images.views import VIEWS

DOUBTFUL_BELOW = 0.85
"""The confidence below which most readings of ``maerec_tiny`` are wrong, by the report on real words."""


@dataclass(frozen=True)
class ReadingConfig:
    """How words are read."""

    beam: int = 1
    """Beam width: candidates kept while decoding. 1 is greedy decoding; more takes longer and gives alternatives."""
    length_normalisation: float = 0.5
    """Beam search divides log probabilities by length to this power; 1 favours longer texts than 0."""
    lexicon: str = ""
    """Read only words in this file: .txt, a word per line; .jsonl, "file" and "words". Best with --beam 5."""
    match_case: bool = False
    """Match the case of lexicon words; without it, "Exit" in the lexicon also allows "EXIT"."""
    characters: str = ""
    """Read only these characters, such as 0123456789; all of the model's by default."""
    blocklist: str = ""
    """Never read these characters."""
    turn: bool | None = None
    """Also read tall images turned left and right, and keep the likeliest reading; default: as in training."""
    views: int = 1
    """Views of each image, 1 to 10 (whole, tilted ...): the likeliest text wins. N times the work."""
    boxes: bool = False
    """Also tell where each character is, by where the model looked: up to twice the work."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Dtype of the computation: auto is bfloat16 on GPU and TPU, float32 on CPU. Default: as in the run."""
    int8: bool = False
    """Store the weights of linear layers as 8-bit integers: a quarter of the memory (see docs/reading.md)."""
    doubtful_below: float = DOUBTFUL_BELOW
    """Mark readings with a lower confidence as doubtful; evaluate --report measures where most are wrong."""

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"beam must be at least 1, not {self.beam}")
        if not 1 <= self.views <= len(VIEWS):
            raise UserError(f"views must be from 1 to {len(VIEWS)}, not {self.views}")
        if not 0 <= self.doubtful_below <= 1:
            raise UserError(f"doubtful_below must be from 0 to 1, not {self.doubtful_below}")
        if self.length_normalisation < 0:
            raise UserError(f"length_normalisation must not be negative, but is {self.length_normalisation}")


@dataclass(frozen=True, kw_only=True)
class ReadingArguments:
    """What the commands that read have in common."""

    checkpoint: str = ""
    """Workdir, checkpoint, .safetensors file, or built-in model (docs/weights.md); default: maerec_tiny."""
    adapters: str = ""
    """LoRA adapters (.safetensors); --checkpoint is then the model that they were trained from."""
    reading: Annotated[ReadingConfig, tyro.conf.arg(name="")] = field(default_factory=ReadingConfig)
    batch_size: int = 32
    """Images read at once. Smaller batches are padded to one of a few sizes."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")
