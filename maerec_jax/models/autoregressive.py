"""What recognisers share that write one character after the other: losses, reading, and where they looked."""

from abc import abstractmethod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from maerec_jax.models.batch_norm import STATISTICS, is_statistic
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import Loss, Reading, RecogniserConfig, token_loss

Array = jax.Array


class AutoregressiveConfig(RecogniserConfig):
    """A recogniser whose next character depends on those before.

    Called with normalised pixels and tokens (B, T), the first of them the start, its ``module`` gives the logits of the
    next tokens, float32 (B, T, classes). With ``counted_B``, float32 (B), it computes as in training: with dropout, and
    with the batch's statistics of the images for which it is 1.
    """

    has_beams: ClassVar = True
    has_attention: ClassVar = True
    has_lists: ClassVar = True
    character_tables: ClassVar[dict[str, int]] = {
        "decoder/embedding": 0,
        "decoder/classifier/kernel": -1,
        "decoder/classifier/bias": -1,
    }
    averages_places: ClassVar[bool] = False
    """Whether the loss is a mean over all places, with 0 for those of padding, instead of the characters and ends."""

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image, tokens = jnp.zeros((1, *self.image_size, 3)), jnp.zeros((1, self.max_length), jnp.int32)
        return self.module().init(key, image, tokens)["params"]

    def frozen(self, path: str) -> bool:
        """Running statistics are constants."""
        return is_statistic(path)

    def loss(
        self,
        params: Any,
        image_BHWC: Array,
        tokens_BT: Array,
        valid_B: Array,
        key: Array,
        smoothing: float = 0.0,
        dtype: Any = jnp.float32,
        **widths: Array,
    ) -> Loss:
        """Cross-entropy summed over the characters and ends of the valid images; the weight is their number.

        Where padding counts (``averages_places``), it is the number of all places. The accuracy is that of the
        characters and ends.
        """
        logits_BTV, found = self.module(dtype).apply(
            {"params": params}, image_BHWC, tokens_BT[:, :-1], counted_B=valid_B,
            rngs={"dropout": key}, mutable=[STATISTICS], **widths,
        )  # fmt: skip
        target_BT = tokens_BT[:, 1:]
        loss_BT, weight_BT = token_loss(logits_BTV, target_BT, self.charset.padding, smoothing)
        weight_BT *= valid_B[:, None]
        correct, weight = ((logits_BTV.argmax(axis=-1) == target_BT) * weight_BT).sum(), weight_BT.sum()
        if self.averages_places:
            places = valid_B.sum() * target_BT.shape[1]
            correct, weight = correct * places / jnp.maximum(weight, 1.0), places
        total = (loss_BT * valid_B[:, None]).sum()
        return Loss(total, weight, {"character_accuracy": correct}, found.get(STATISTICS))

    def read(
        self,
        params: Any,
        image_BHWC: Array,
        dtype: Any = jnp.float32,
        allowed_BC: Array | None = None,
        **widths: Array,
    ) -> Reading:
        """Read normalised pixels greedily (``greedy_read``)."""
        return greedy_read(self.module(dtype), params, image_BHWC, allowed_BC, **widths)

    def attention(
        self, params: Any, image_BHWC: Array, tokens_BT: Array, dtype: Any = jnp.float32, **widths: Array
    ) -> Array:
        """Where the decoder looked when it wrote each token.

        One teacher-forced pass over tokens that were read before, in whatever way.

        Args:
          params: the parameters.
          image_BHWC: normalised pixels, of any size that the model can read.
          tokens_BT: int (B, T), the tokens that were read (``Reading.tokens_BT``): without the start token.
          dtype: of the computation.
          widths: ``interface.widths``.

        Returns:
          float32 (B, T, rows, columns), each map adding up to 1. Maps of padding mean nothing.

        Raises:
          ValueError: where there are more tokens than the model reads.
        """
        if tokens_BT.shape[1] > self.max_length:
            raise ValueError(f"{tokens_BT.shape[1]} tokens, but the model reads at most {self.max_length}")
        start_B1 = jnp.full((len(tokens_BT), 1), self.charset.start_end, tokens_BT.dtype)
        before_BT = jnp.concatenate([start_B1, tokens_BT[:, :-1]], axis=1)
        _, found = self.module(dtype).apply(
            {"params": params}, image_BHWC, before_BT, mutable=["intermediates"], **widths
        )
        _, height, width, _ = image_BHWC.shape
        return self.maps(found["intermediates"]["decoder"], (height, width))

    @abstractmethod
    def maps(self, sown: Any, image_size: tuple[int, int]) -> Array:
        """The maps of ``attention``, among what the decoder has sown as "intermediates"."""
