"""The floating-point operations of a training step, from the sizes of the model.

Counted are matrix multiplications, 2 m k n operations each, which is all but a few per cent of the arithmetic: no
norms, softmaxes, activations, optimizer or augmentation. For a batch of B images:

    forward                 B (encoder + decoder)
    backward                twice the forward: the gradient of each input, and of each kernel
    less                    the gradient of the pixels, which nobody wants, of 2 N P D operations an image
    recomputed (``remat``)  the forward of each block or layer once more, but for its last kernel, whose output is not
                            needed, and for the text decoder's keys and values of the image; where products are kept,
                            attention only

A block of n places and width d, with an MLP of width r d: 2 n d (3 d + d + 2 r d) for its kernels and 4 n^2 d for its
attention. Attention is counted in full where a causal mask hides half of it, since it is computed in full. A block of n
places that attends to m others of width w instead: 2 n d (2 d + 2 r d) + 2 m w 2 d for its kernels, 4 n m d for its
attention; mixing f features for it costs 2 f m w.

Adapters of rank r (LoRA) on queries and values take 8 n d r a block. Beside them the encoder is not trained: kernels
have no gradients there, keys of the first block neither, and nothing is passed back to what that block's adapters and
kernels for queries, keys and values are applied to.
"""

from dataclasses import dataclass
from typing import NamedTuple

from maerec_jax.config import ModelConfig
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig


@dataclass(frozen=True)
class Work:
    """Floating-point operations for one image."""

    forward: float
    """Of the loss."""
    backward: float
    """Of its gradient, the forward pass not counted."""
    recomputed: float
    """What is computed a second time for the gradient, to save memory."""

    @property
    def model(self) -> float:
        """What the model needs however it is computed: the usual measure of utilisation."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        """What the device does."""
        return self.model + self.recomputed


def step_work(model: ModelConfig, image_size: tuple[int, int]) -> Work:
    """The work for one image of ``image_size`` pixels, height and width."""
    encoder = model.encoder
    rows, columns = encoder.grid_of(image_size)
    patches, recomputed = rows * columns, 0
    blocks: list[_Blocks | _CrossBlocks]
    if isinstance(model, MAEConfig):
        embedded = model.n_keep(patches)
        blocks = [
            _Blocks(1 + embedded, encoder.dim, encoder.depth, encoder.mlp_ratio),
            _Blocks(1 + patches, model.decoder_dim, model.decoder_depth, 4),
        ]
        rest = 2 * (1 + embedded) * encoder.dim * model.decoder_dim
        rest += 2 * patches * model.decoder_dim * encoder.patch_values
    elif isinstance(model, CrossMAEConfig):
        embedded, predicted = model.n_keep(patches), model.n_predicted(patches)
        blocks = [
            _Blocks(1 + embedded, encoder.dim, encoder.depth, encoder.mlp_ratio),
            _CrossBlocks(predicted, model.decoder_dim, model.decoder_depth, 4, 1 + embedded, encoder.dim),
        ]
        rest = 2 * predicted * model.decoder_dim * encoder.patch_values
        if model.weighted_features:
            rest += 2 * (encoder.depth + 1) * model.decoder_depth * (1 + embedded) * encoder.dim
    else:
        assert isinstance(model, MAERecConfig)
        embedded = patches
        blocks = [_Blocks(1 + patches, encoder.dim, encoder.depth, encoder.mlp_ratio, encoder.lora_rank)]
        rest = _text_decoder(model.decoder, 1 + patches, encoder, model.charset.n_classes)
        if model.decoder.remat:
            again = _text_layer(model.decoder, 1 + patches) - _last_kernel(model.decoder)
            if model.decoder.remat_keeps == "products":
                again = _text_attention(model.decoder, 1 + patches)
            recomputed += model.decoder.layers * again
    embedding = 2 * embedded * encoder.patch_values * encoder.dim
    forward = embedding + sum(block.forward for block in blocks) + rest
    if encoder.remat:
        kept = encoder.remat_keeps == "products"
        recomputed += sum(block.between_products if kept else block.forward - block.last_kernel for block in blocks)
    backward = 2 * forward - embedding
    if encoder.lora_rank:
        backward -= embedding + sum(block.frozen for block in blocks)
    return Work(forward, backward, recomputed)


class _Blocks(NamedTuple):
    """The Transformer blocks of an encoder or decoder."""

    places: int
    width: int
    depth: int
    mlp_ratio: int
    lora_rank: int = 0

    @property
    def forward(self) -> int:
        return self.kernels + self.attention + self.depth * 8 * self.places * self.width * self.lora_rank

    @property
    def kernels(self) -> int:
        return self.depth * 2 * self.places * self.width * (4 + 2 * self.mlp_ratio) * self.width

    @property
    def attention(self) -> int:
        return self.depth * 4 * self.places**2 * self.width

    @property
    def between_products(self) -> int:
        """What attention computes again where products are kept: its result only for a kernel that is trained."""
        return self.attention // 2 if self.lora_rank else self.attention

    @property
    def frozen(self) -> int:
        """What the backward pass of blocks with adapters has less than that of others."""
        first = 2 * self.places * self.width * (3 * self.width + self.places + 2 * self.lora_rank)
        return self.kernels + first if self.lora_rank else 0

    @property
    def last_kernel(self) -> int:
        return self.depth * 2 * self.places * self.width * self.mlp_ratio * self.width


class _CrossBlocks(NamedTuple):
    """The blocks of a decoder that attends to an encoder only."""

    places: int
    width: int
    depth: int
    mlp_ratio: int
    memory_places: int
    memory_width: int

    @property
    def forward(self) -> int:
        kernels = 2 * self.places * self.width * (2 + 2 * self.mlp_ratio) * self.width
        kernels += 2 * self.memory_places * self.memory_width * 2 * self.width
        return self.depth * kernels + self.attention

    @property
    def attention(self) -> int:
        return self.depth * 4 * self.places * self.memory_places * self.width

    @property
    def between_products(self) -> int:
        return self.attention

    @property
    def frozen(self) -> int:
        return 0

    @property
    def last_kernel(self) -> int:
        return self.depth * 2 * self.places * self.width * self.mlp_ratio * self.width


def _text_decoder(decoder: TextDecoderConfig, memory: int, encoder: ViTConfig, classes: int) -> int:
    """Forward pass of the text decoder over all its places at once, for an encoded image of ``memory`` places."""
    keys_values = 2 * memory * encoder.dim * 2 * decoder.dim
    classifier = 2 * (decoder.max_length - 1) * decoder.dim * classes
    return decoder.layers * (keys_values + _text_layer(decoder, memory)) + classifier


def _text_layer(decoder: TextDecoderConfig, memory: int) -> int:
    """Forward pass of a layer of the text decoder, keys and values of the image not counted."""
    places, width = decoder.max_length - 1, decoder.dim
    projections = 2 * places * width * (4 + 2) * width  # self-attention, and query and output of cross-attention
    return projections + _text_attention(decoder, memory) + 2 * _last_kernel(decoder)


def _text_attention(decoder: TextDecoderConfig, memory: int) -> int:
    places = decoder.max_length - 1
    return 4 * places * (places + memory) * decoder.dim


def _last_kernel(decoder: TextDecoderConfig) -> int:
    return 2 * (decoder.max_length - 1) * decoder.inner_dim * decoder.dim
