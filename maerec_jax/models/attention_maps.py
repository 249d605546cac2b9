"""Where a recogniser looks: the text decoder's attention over the image, for each character."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def attention_maps(model: Any, params: Any, image_BHWC: Array, tokens_BT: Array, layer: int = -1) -> Array:
    """Where the decoder looked in the image when it wrote each token.

    One teacher-forced pass over tokens that were read before, in whatever way. The maps are the cross-attention of one
    layer, a mean over its heads. The class token, which has no place in the image, is left out: what the patches get is
    divided by its sum, so that each map adds up to 1 however much went to the class token.

    The last layer is the one that shows the characters' places. Of a recogniser with two layers, on 86 real words that
    it had read right, the centre of a character's map lay 0.05 of the width from where characters of equal width would
    lie with the last layer, 0.19 with the first and 0.11 with the mean of both.

    Args:
      model: the module of a MAERec.
      params: its parameters.
      image_BHWC: normalised pixels (B, H, W, 3), of any size that the model can read.
      tokens_BT: int (B, T), the tokens that were read (``Reading.tokens_BT``): without the start token.
      layer: the decoder layer, counted from 0, or from the end if negative.

    Returns:
      float32 (B, T, rows, columns) over the grid of patches. Maps of padding mean nothing.

    Raises:
      ValueError: where there is no such layer, or there are more tokens than the model reads.
    """
    cfg = model.config
    layers, length = cfg.decoder.layers, cfg.decoder.max_length
    if not -layers <= layer < layers:
        raise ValueError(f"there is no layer {layer}: the text decoder has {layers}")
    if tokens_BT.shape[1] > length:
        raise ValueError(f"{tokens_BT.shape[1]} tokens, but the model reads at most {length}")
    start_B1 = jnp.full((len(tokens_BT), 1), cfg.charset.start_end, tokens_BT.dtype)
    seen_BT = jnp.concatenate([start_B1, tokens_BT[:, :-1]], axis=1)
    _, collected = model.apply({"params": params}, image_BHWC, seen_BT, mutable=["intermediates"])
    name = f"layers_{layer % layers}"
    (weights_BHTK,) = collected["intermediates"]["decoder"][name]["cross_attention"]["weights"]
    patches_BTN = weights_BHTK.mean(axis=1)[..., 1:]
    patches_BTN /= patches_BTN.sum(axis=-1, keepdims=True)
    return patches_BTN.reshape(*tokens_BT.shape, *cfg.encoder.grid_of(image_BHWC.shape[1:3]))
