"""The floating-point operations of a training step: what models count theirs with.

Counted are matrix multiplications, 2 m k n operations each, which is all but a few per cent of the arithmetic: no
norms, softmaxes, activations, optimizer or augmentation. For a batch of B images:

    forward                 B (encoder + decoder)
    backward                twice the forward: the gradient of each input, and of each kernel
    less                    the gradient of the pixels, which nobody wants: as much as the first layer, a projection of
                            patches of 2 N P D operations an image, or a stem's first convolution
    recomputed (``remat``)  the forward of each block or layer once more, but for its last kernel, whose output is not
                            needed, and for the text decoder's keys and values of the image; where products are kept,
                            attention only

A block of n places and width d, with an MLP of width r d: 2 n d (3 d + d + 2 r d) for its kernels and 4 n^2 d for its
attention. Attention is counted in full where a causal mask hides half of it, since it is computed in full. A block of n
places that attends to m others of width w instead: 2 n d (2 d + 2 r d) + 2 m w 2 d for its kernels, 4 n m d for its
attention; mixing f features for it costs 2 f m w.

A stem's convolution to n places, from i to o channels: 2 n 9 i o, where patches are hidden, too, and full at borders.

Adapters of rank r (LoRA) on queries and values take 8 n d r a block. Beside them the encoder is not trained: kernels
have no gradients there, keys of the first block neither, and nothing is passed back to what that block's adapters and
kernels for queries, keys and values are applied to.
"""

from dataclasses import dataclass
from typing import NamedTuple


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


class Blocks(NamedTuple):
    """Transformer blocks; those that attend to others than themselves have a ``memory``. All in operations."""

    places: int
    width: int
    depth: int
    mlp_ratio: int
    lora_rank: int = 0
    memory: tuple[int, int] | None = None
    """Places and width of what is attended to."""

    @property
    def forward(self) -> int:
        """The forward pass."""
        return self.kernels + self.attention + self.depth * 8 * self.places * self.width * self.lora_rank

    @property
    def kernels(self) -> int:
        """That of the kernels."""
        projections, (places, width) = (2, self.memory) if self.memory else (4, (0, 0))
        own = 2 * self.places * self.width * (projections + 2 * self.mlp_ratio) * self.width
        return self.depth * (own + 2 * places * width * 2 * self.width)

    @property
    def attention(self) -> int:
        """That of the attention."""
        return self.depth * 4 * self.places * (self.memory[0] if self.memory else self.places) * self.width

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
        """The forward pass of the last kernel of each block."""
        return self.depth * 2 * self.places * self.width * self.mlp_ratio * self.width
