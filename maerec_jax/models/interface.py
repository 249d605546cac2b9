"""What every model brings, so that nothing outside its file asks which one it is.

A model is a frozen dataclass: its sizes, and pure functions of parameters, which are plain trees of float32 arrays.
There are two kinds: autoencoders, which pre-train an encoder (``AutoencoderConfig`` in ``mae``), and recognisers.
docs/design.md shows how to add one, here or in a package of your own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from data_pipelines.images.buckets import check_shapes
from data_pipelines.images.resizing import KeepRatio
from maerec_jax.costs.counting import counted_work
from maerec_jax.costs.work import Work
from maerec_jax.models.names.table import NameTable

Array = jax.Array
Params = Any
"""A tree of float32 arrays."""
Axes = tuple[str | None, ...]
"""The mesh axis, "fsdp" or "tensor", that each dimension of a parameter is divided along; None for none."""


class Loss(NamedTuple):
    """A loss as a sum and the weight to divide it by, so that parts of a batch add up to the mean over the whole."""

    total: Array
    """float32 scalar: the sum of what is averaged."""
    weight: Array
    """float32 scalar: how many were summed (images, or characters)."""
    metrics: dict[str, Array]
    """Other sums over the same things, logged divided by the same weight."""
    statistics: Any = None
    """What parameters that are no gradient's become, by their paths: the running statistics of ``batch_norm``. A batch
    in parts takes the mean over its parts."""


class Reading(NamedTuple):
    """What was read, before it is turned into text (``Charset.decode``)."""

    tokens_BT: Array
    """int32 (B, T): a class for each place, the start token not included; padding after the end."""
    probability_BT: Array
    """float32 (B, T): softmax probability of that class; 0 where nothing was read."""


class ModelConfig(ABC):
    """A model's sizes and what is computed with them. Subclasses are frozen dataclasses."""

    kind: Any
    """``Literal["..."]``: the name of the kind of model in JSON."""
    encoder: Any = None
    """The ``ViTConfig`` of the Vision Transformer in it, which runs hand on to each other; None for a model without,
    which says itself what images it takes."""
    sharding: ClassVar[tuple[tuple[str, Axes], ...]] = ()
    """How parameters lie on a mesh: the first pattern that fits the end of a path decides. Every parameter needs one,
    () for those that every device has whole."""
    keep_ratio: ClassVar[KeepRatio | None] = None
    """How images are resized where their aspect ratio is kept. ``loss`` and ``read`` of such models, and ``start`` of
    their module and ``attention`` where there are any, also take ``width_B``, int32 (B): how many columns of each
    image are picture, before the filling; None for all."""
    needs_batches: ClassVar[bool] = False
    """Whether a batch of one image, or such a part of a batch, cannot be learnt from (``batch_norm``)."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.encoder.image_size

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
        return self.encoder.pixel_mean

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """What R, G and B are divided by after that."""
        return self.encoder.pixel_std

    @property
    def pixel_axes(self) -> dict[str, int]:
        """The parameters with an axis along which pixels lie, R, G and B of each, by path: what changes between models
        for RGB and for BGR."""
        return {} if self.encoder is None else self.encoder.pixel_axes

    @property
    def layers(self) -> int:
        """The number of blocks that layer-wise learning rates tell apart."""
        return 0 if self.encoder is None else self.encoder.depth

    @abstractmethod
    def init(self, key: Array) -> Params:
        """Fresh parameters."""

    @abstractmethod
    def work(self, image_size: tuple[int, int]) -> Work:
        """The floating-point operations of a training step for one image of a height and width."""

    def check_shapes(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Raise ``ValueError`` where images of several heights and widths cannot be told apart or computed with."""
        if self.encoder is None:
            raise ValueError(f"data.buckets: a model of kind {self.kind!r} takes images of one size only")
        check_shapes(shapes, self.encoder.patch_size)
        if self.encoder.position_table != "grid":
            raise ValueError('data.buckets need a position table that can be resized: model.encoder\'s "grid"')

    def frozen(self, path: str) -> bool:
        """Whether the parameter at a path is a constant in training."""
        return False

    def names(self) -> NameTable | None:
        """Where the tensors of PyTorch's state dict lie; None for a model that PyTorch has not."""
        return None

    def merged(self, params: Params) -> tuple["ModelConfig", Params]:
        """The same model as it is read with: without adapters, which are merged into the weights beside them."""
        return self, params


class RecogniserConfig(ModelConfig):
    """A model that reads words."""

    charset: Charset
    """The characters that can be read, and the special classes beside them."""
    has_beams: ClassVar[bool] = False
    """Whether beams and lexicons can be used (``models.beam``), and ``greedy_read``: ``module`` then has ``config``,
    ``start`` and ``step``, and the states of ``start`` have ``following``."""
    has_attention: ClassVar[bool] = False
    """Whether there is an ``attention``."""
    has_int8: ClassVar[bool] = False
    """Whether it reads with 8-bit kernels of ``models.dense`` (``models.int8``), whatever others it has."""

    has_lists: ClassVar[bool] = False
    """Whether ``read`` also takes ``allowed_BC``, bool (B, classes): what may be read in each image (``limited``)."""

    character_tables: ClassVar[dict[str, int]] = {}
    """The parameters with a row for each class, by path, and the axis that classes lie along: what a recogniser of
    other characters starts with."""

    @property
    def has_unknown(self) -> bool:
        """Whether there is a class for the characters outside the charset, so that labels with such can be kept."""
        return True

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Places of a text, its start and end included."""

    @abstractmethod
    def module(self, dtype: Any = jnp.float32) -> Any:
        """The Flax module that computes in a dtype; its parameters are float32."""

    @abstractmethod
    def loss(
        self,
        params: Params,
        image_BHWC: Array,
        tokens_BT: Array,
        valid_B: Array,
        key: Array,
        smoothing: float = 0.0,
        dtype: Any = jnp.float32,
    ) -> Loss:
        """The loss of a batch.

        Args:
          params: the parameters.
          image_BHWC: normalised pixels.
          tokens_BT: int32 (B, max_length): the texts as ``Charset.encode`` writes them.
          valid_B: float32, 0 for images that do not count.
          key: for dropout and the like.
          smoothing: share of each target that is spread over all classes.
          dtype: of the computation.
        """

    @abstractmethod
    def read(self, params: Params, image_BHWC: Array, dtype: Any = jnp.float32) -> Reading:
        """Read normalised pixels, taking the likeliest class at each place."""

    def work(self, image_size: tuple[int, int]) -> Work:
        """Counted in the loss; models whose work is to be explained have a formula instead."""
        return _counted(self, tuple(image_size))

    def attention(self, params: Params, image_BHWC: Array, tokens_BT: Array, dtype: Any = jnp.float32) -> Array:
        """Where the model looks for each of the tokens that it has read, float32 (B, T, rows, columns).

        Raises:
          UserError: for a model that looks at all of the image alike.
        """
        raise UserError(f"a model of kind {self.kind!r} has no attention maps")


@cache
def _counted(model: RecogniserConfig, image_size: tuple[int, int]) -> Work:
    def loss(params: Params, image_BHWC: Array, tokens_BT: Array) -> Array:
        return model.loss(params, image_BHWC, tokens_BT, jnp.ones(1), jax.random.key(0)).total

    params = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    return counted_work(loss, params, image, jax.ShapeDtypeStruct((1, model.max_length), jnp.int32))


def normalize(image_BHWC: Array, scale: Any) -> Array:
    """uint8 RGB (B, H, W, 3) to the float32 pixels that a model expects; ``scale`` has ``pixel_mean`` and ``_std``."""
    mean, std = jnp.array(scale.pixel_mean, jnp.float32), jnp.array(scale.pixel_std, jnp.float32)
    return (image_BHWC.astype(jnp.float32) - mean) / std


def limited(logits: Array, allowed_BC: Array | None) -> Array:
    """Logits (B, ..., classes) without the classes of each image that ``allowed_BC``, bool (B, classes), leaves out:
    theirs are -inf, so that a softmax divides all probability among the others. None allows all."""
    if allowed_BC is None:
        return logits
    return jnp.where(jnp.expand_dims(allowed_BC, range(1, logits.ndim - 1)), logits, -jnp.inf)


def widths(batch: Mapping[str, Array]) -> dict[str, Array]:
    """What models that keep the aspect ratio are told of a batch's images beside their pixels."""
    return {"width_B": batch["width"]} if "width" in batch else {}


@jax.named_scope("loss")
def token_loss(logits_BTV: Array, target_BT: Array, padding: int, smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy of each place, float32 (B, T), 0 at padding; and its weights (B, T), 1 where there is no padding.

    ``smoothing`` is the share of the target that is spread evenly over all classes.
    """
    weight_BT = (target_BT != padding).astype(jnp.float32)
    log_probability = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    loss_BT = -jnp.take_along_axis(log_probability, target_BT[..., None], axis=-1)[..., 0]
    if smoothing:
        loss_BT = (1 - smoothing) * loss_BT - smoothing * log_probability.mean(axis=-1)
    return loss_BT * weight_BT, weight_BT
