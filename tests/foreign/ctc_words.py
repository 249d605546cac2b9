"""A recogniser nothing like MAERec, in a package of its own: convolutions and CTC (Graves et al., ICML 2006)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from data_pipelines.charset import Charset
from maerec_jax.models.interface import Loss, Reading, RecogniserConfig, limited
from maerec_jax.models.names.table import NameTable, Rule, biased, same

STRIDES = ((2, 2), (2, 2), (2, 1), (4, 1))  # 32 x 128 pixels become 32 frames


@dataclass(frozen=True)
class CTCConfig(RecogniserConfig):
    """Four convolutions, and a class for each frame; the class of the start stands for the blank."""

    kind: Literal["ctc"] = field(default="ctc", kw_only=True)
    width: int = 32
    charset: Charset = field(default_factory=Charset)
    max_length: int = 26

    encoder: ClassVar = None
    has_lists: ClassVar = True
    image_size: ClassVar = (32, 128)
    pixel_mean: ClassVar = (127.5,) * 3
    pixel_std: ClassVar = (127.5,) * 3
    sharding: ClassVar = (
        (r"conv_\d/kernel", (None, None, None, "fsdp")),
        (r"head/kernel", ("fsdp", None)),
        (r"(conv_\d|head)/bias", ()),
    )
    character_tables: ClassVar = {"head/kernel": -1, "head/bias": -1}

    def module(self, dtype: Any = jnp.float32) -> "CTC":
        return CTC(self.width, self.charset.n_classes, dtype)

    def init(self, key):
        params = self.module().init(key, jnp.zeros((1, *self.image_size, 3)))["params"]
        # Blanks are unlikely at first, so that something is read however short the training was.
        bias = params["head"]["bias"].at[self.charset.start_end].set(-4.0)
        return params | {"head": params["head"] | {"bias": bias}}

    def loss(self, params, image_BHWC, tokens_BT, valid_B, key, smoothing=0.0, dtype=jnp.float32) -> Loss:
        logits_BFC = self.module(dtype).apply({"params": params}, image_BHWC)
        none_BT = (tokens_BT[:, 1:] >= self.charset.start_end) & (tokens_BT[:, 1:] != self.charset.unknown)
        frames_BF = jnp.zeros(logits_BFC.shape[:2])
        loss_B = optax.ctc_loss(logits_BFC, frames_BF, tokens_BT[:, 1:], 1.0 * none_BT, blank_id=self.charset.start_end)
        return Loss((loss_B * valid_B).sum(), valid_B.sum(), {})

    def read(self, params, image_BHWC, dtype=jnp.float32, allowed_BC=None) -> Reading:
        logits_BFC = self.module(dtype).apply({"params": params}, image_BHWC)
        probability_BFC = jax.nn.softmax(limited(logits_BFC, allowed_BC))
        class_BF = probability_BFC.argmax(-1).astype(jnp.int32)
        repeated_BF = jnp.pad(class_BF[:, 1:] == class_BF[:, :-1], ((0, 0), (1, 0)))
        silent_BF = repeated_BF | (class_BF == self.charset.start_end)
        return Reading(jnp.where(silent_BF, self.charset.padding, class_BF), probability_BFC.max(-1))

    def names(self) -> NameTable:
        to_flax, to_torch = (lambda w: w.transpose(2, 3, 1, 0)), (lambda k: k.transpose(3, 2, 0, 1))
        kernels = Rule(r"convs\.(\d+)\.weight", r"conv_\1/kernel", to_flax, to_torch)
        return NameTable([kernels, same(r"convs\.(\d+)\.bias", r"conv_\1/bias"), *biased("head", "head")])


class CTC(nn.Module):
    """Pixels (B, 32, 128, 3) to logits (B, frames, classes)."""

    width: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        for i, strides in enumerate(STRIDES):
            x = nn.relu(nn.Conv(self.width, (3, 3), strides, dtype=self.dtype, name=f"conv_{i}")(x))
        return nn.Dense(self.classes, dtype=jnp.float32, name="head")(x[:, 0])
