import jax.numpy as jnp
import optax
def token_loss(logits, targets, padding, smoothing=0.0):
    w=(targets!=padding).astype(jnp.float32)
    l=optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return l*w, w
