"""What scripts/benchmarks/reading.py compares: reading with and without a cache, and PyTorch's way.

All end their words where they are told, so that words are as long as real ones whatever the weights say: the forced end
costs as much as none. All keep the memory that they free on CPUs (``maerec_jax.distributed.host_memory``),
as the commands do.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import cores

from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import normalize
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.text_decoder import DecodingState, KeysValues
from maerec_jax.weights.state_dicts import state_dict_from_params

Array = jax.Array
_SURE = 1e9


class ForcedMAERec(MAERec):
    """A recogniser whose words end where ``lengths``, int (B) among its parameters, says."""

    def _forced(self, logits_BKC: Array, position: Array) -> Array:
        end_C = jnp.arange(logits_BKC.shape[-1]) == self.config.charset.start_end
        ends_B = position >= self.get_variable("params", "lengths")
        return jnp.where(end_C, jnp.where(ends_B, _SURE, -_SURE)[:, None, None], logits_BKC)

    def step(
        self, token_BK: Array, position: Array, state: DecodingState, memory: tuple[KeysValues, ...]
    ) -> tuple[Array, DecodingState]:
        """The model's step, with the end where it has to be."""
        logits_BKC, state = super().step(token_BK, position, state, memory)
        return self._forced(logits_BKC, position), state

    def encode(self, image_BHWC: Array) -> Array:
        """Normalised pixels to the encoded image (B, 1 + N, D)."""
        return self.encoder(image_BHWC)

    def decode_again(self, tokens_BT: Array, position: Array, memory_BND: Array) -> Array:
        """What ``step`` gives, from all tokens and the encoded image: all places are computed, and none is kept."""
        logits_BTC = self.decoder(tokens_BT, memory_BND)
        return self._forced(jax.lax.dynamic_index_in_dim(logits_BTC, position, 1), position)


def read_all_places(model: ForcedMAERec, params: Any, image_BHWC: Array, cached: bool) -> Array:
    """Tokens, int32 (B, T), of as many steps as there are places, however short the words are.

    Without a cache each step decodes all places anew, and computes the image's keys and values again: the reference's
    way.
    """
    charset, length = model.config.charset, model.config.decoder.max_length

    def apply(method: str, *arguments: Any) -> Any:
        return model.apply({"params": params}, *arguments, method=method)

    tokens_BT = jnp.full((len(image_BHWC), length + 1), charset.padding, jnp.int32)
    tokens_BT = tokens_BT.at[:, 0].set(charset.start_end)
    memory, state = apply("start", image_BHWC) if cached else (apply("encode", image_BHWC), None)

    def body(position: Array, carry: tuple) -> tuple:
        tokens_BT, state = carry
        if cached:
            logits_BKC, state = apply("step", tokens_BT[:, position, None], position, state, memory)
        else:
            # As if of this step alone: the compiler would keep what does not change between them.
            seen_BT, once = jax.lax.optimization_barrier((tokens_BT[:, :length], memory))
            logits_BKC = apply("decode_again", seen_BT, position, once)
        return tokens_BT.at[:, position + 1].set(jnp.argmax(logits_BKC[:, 0], axis=-1).astype(jnp.int32)), state

    tokens_BT = jax.lax.fori_loop(0, length, body, (tokens_BT, state))[0][:, 1:]
    ended_BT = jnp.cumsum(tokens_BT == charset.start_end, axis=1) - (tokens_BT == charset.start_end)
    return jnp.where(ended_BT > 0, charset.padding, tokens_BT)


JAX_WAYS: dict[str, Callable[[ForcedMAERec, Any, Array], Any]] = {
    "cached": lambda model, params, image: greedy_read(model, params, image).tokens_BT,
    "all-places": lambda model, params, image: read_all_places(model, params, image, cached=True),
    "recomputed": lambda model, params, image: read_all_places(model, params, image, cached=False),
    "encoder": lambda model, params, image: model.apply({"params": params}, image, method="encode"),
}


class JaxReading:
    """One of ``JAX_WAYS``, compiled for a batch size."""

    def __init__(self, way: str, config: MAERecConfig, params: Any, image_BHWC: np.ndarray, dtype: str) -> None:
        model, read = ForcedMAERec(config, jnp.dtype(dtype)), JAX_WAYS[way]

        def run(params: Any, lengths_B: Array, image_BHWC: Array) -> Array:
            return read(model, {**params, "lengths": lengths_B}, normalize(image_BHWC, config.encoder))

        self._params, self._image = jax.device_put(params), jax.device_put(image_BHWC)
        lengths = jnp.zeros(len(image_BHWC), jnp.int32)
        begin = time.perf_counter()
        self._run = jax.jit(run).lower(self._params, lengths, self._image).compile()
        self._compiling = time.perf_counter() - begin

    def compile_seconds(self) -> float:
        """How long compiling took."""
        return self._compiling

    def run(self, lengths_B: np.ndarray) -> tuple[float, np.ndarray]:
        """Seconds that reading takes, and what comes of it."""
        begin = time.perf_counter()
        out = np.asarray(self._run(self._params, jnp.asarray(lengths_B, jnp.int32), self._image))
        return time.perf_counter() - begin, out


class TorchReading:
    """The same in PyTorch: cached until the last word has ended."""

    def __init__(self, config: MAERecConfig, params: Any, image_BHWC: np.ndarray, dtype: str) -> None:
        import torch

        from maerec_jax.interop import pytorch_twin as twin

        class ForcedDecoder(twin.TextDecoder):
            lengths_B: torch.Tensor

            def step(self, place: torch.Tensor, *state: Any) -> tuple[torch.Tensor, Any]:
                logits_BC, past = super().step(place, *state)
                end_C = torch.arange(logits_BC.shape[-1], device=logits_BC.device) == config.charset.start_end
                value_B = torch.where(place >= self.lengths_B, _SURE, -_SURE)
                return torch.where(end_C, value_B[:, None].to(logits_BC.dtype), logits_BC), past

        self._torch, self._twin, self._config = torch, twin, config
        self._place = "cuda" if torch.cuda.is_available() else "cpu"
        if self._place == "cuda":
            torch.set_float32_matmul_precision("high")  # TensorFloat32, as JAX has it by default
        torch.set_num_threads(cores())
        self._model = twin.MAERec(config)
        charset = config.charset
        self._decoder = ForcedDecoder(config.decoder, config.encoder.dim, charset.n_classes, charset.padding)
        self._model.decoder = self._decoder
        state = state_dict_from_params(params, config)
        self._model.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in state.items()})
        self._model.to(self._place, getattr(torch, dtype)).eval()
        self._image = torch.from_numpy(image_BHWC).to(self._place)

    def compile_seconds(self) -> float:
        """Nothing is compiled."""
        return 0.0

    def run(self, lengths_B: np.ndarray) -> tuple[float, np.ndarray]:
        """Seconds that reading takes, and the tokens."""
        torch = self._torch
        begin = time.perf_counter()
        with torch.inference_mode():
            self._decoder.lengths_B = torch.as_tensor(lengths_B, device=self._place)
            image = self._twin.normalize(self._image, self._config.encoder).to(self._decoder.classifier.weight.dtype)
            tokens_BT = self._model.read(image).tokens_BT.cpu()
        return time.perf_counter() - begin, tokens_BT.numpy()


def make_reading(
    way: str, config: MAERecConfig, params: Any, image_BHWC: np.ndarray, dtype: str
) -> JaxReading | TorchReading:
    """One of the ways, in a process of its own."""
    run_steps_in_this_thread()
    keep_freed_memory()
    jax.config.update("jax_enable_compilation_cache", False)
    if way == "torch":
        return TorchReading(config, params, image_BHWC, dtype)
    return JaxReading(way, config, params, image_BHWC, dtype)
