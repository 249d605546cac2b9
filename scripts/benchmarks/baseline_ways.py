"""What scripts/benchmarks/baselines.py compares: the baselines in JAX and in PyTorch, with the same random weights.

All keep the memory that they free on CPUs (``maerec_jax.distributed.host_memory``), as the commands do.
"""

import time
from importlib import import_module
from typing import Any

import jax
import numpy as np
from turns import cores

from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.models.interface import normalize
from maerec_jax.weights.state_dicts import params_from_state_dict

CONFIGS = {
    "aster": ("aster", "ASTERConfig"),
    "abinet": ("abinet", "ABINetConfig"),
    "abinet-language": ("abinet", "ABINetConfig"),
    "nrtr": ("nrtr", "NRTRConfig"),
    "satrn": ("satrn", "SATRNConfig"),
    "sar": ("sar", "SARConfig"),
}
"""Where the config of each model is."""


def config_of(name: str, tiny: bool) -> Any:
    """The config of a model of the published size, or of a tiny one."""
    module, kind = CONFIGS[name]
    models = import_module(f"maerec_jax.models.{module}")
    make, changes = getattr(models, kind), {}
    if name == "abinet-language":
        changes["language"] = models.LanguageConfig()
    return make.tiny(**changes) if tiny else make(**changes)


def images_of(config: Any, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Random uint8 RGB images, and of a model that keeps their ratio random widths, with black beside them."""
    height, width = config.image_size
    image_BHWC = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    if config.keep_ratio is None:
        return (image_BHWC,)
    least, step = config.keep_ratio.smallest, config.keep_ratio.divisor
    width_B = rng.choice(np.arange(least, width + 1, step), count).astype(np.int32)
    image_BHWC[np.arange(width) >= width_B[:, None, None].repeat(height, 1)] = 0
    return image_BHWC, width_B


def random_state(config: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, as a state dict, with the running statistics of a few random images.

    Without these, what comes out of so many layers is so large that rounding decides what is read.
    """
    import torch

    from maerec_jax.interop.pytorch_baselines import KINDS

    torch.manual_seed(seed)
    model = KINDS[config.kind](config)
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
    image, *_ = images_of(config, 8, np.random.default_rng(seed))
    start = torch.full((len(image), 1), model.start_end)
    with torch.no_grad():
        model.train()(model.pixels(torch.from_numpy(image)), start)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


class JaxReading:
    """This project's greedy reading, compiled for a batch: steps until the last word has ended."""

    def __init__(self, config: Any, state: dict[str, np.ndarray], given: tuple[np.ndarray, ...]) -> None:
        def run(params: Any, image_BHWC: jax.Array, *width: jax.Array) -> jax.Array:
            told = dict(zip(("width_B",), width, strict=False))
            return config.read(params, normalize(image_BHWC, config), **told).tokens_BT

        self._given = jax.device_put((params_from_state_dict(state, config), *given))
        begin = time.perf_counter()
        self._run = jax.jit(run).lower(*self._given).compile()
        self._compiling = time.perf_counter() - begin

    def compile_seconds(self) -> float:
        """How long compiling took."""
        return self._compiling

    def run(self, _: None) -> tuple[float, np.ndarray]:
        """Seconds that reading takes, and the tokens."""
        begin = time.perf_counter()
        out = np.asarray(self._run(*self._given))
        return time.perf_counter() - begin, out


class TorchReading:
    """The twin, eager: cached until the last word has ended, or the original's algorithm."""

    def __init__(
        self, original: bool, config: Any, state: dict[str, np.ndarray], given: tuple[np.ndarray, ...]
    ) -> None:
        import torch

        from maerec_jax.interop.pytorch_baselines import KINDS

        self._torch = torch
        place = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.allow_tf32 = False  # as matrix multiplications by default, and as in JAX here
        torch.set_num_threads(cores())
        model = KINDS[config.kind](config)
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
        self._model = model.to(place).eval()
        self._read = self._model.read_as_original if original else self._model.read
        self._given = [torch.from_numpy(x).to(place) for x in given]

    def compile_seconds(self) -> float:
        """Nothing is compiled."""
        return 0.0

    def run(self, _: None) -> tuple[float, np.ndarray]:
        """Seconds that reading takes, and the tokens."""
        begin = time.perf_counter()
        with self._torch.inference_mode():
            image, *width = self._given
            tokens_BT = self._read(self._model.pixels(image), *width).tokens_BT.cpu()
        return time.perf_counter() - begin, tokens_BT.numpy()


def make_reading(
    way: str, config: Any, state: dict[str, np.ndarray], given: tuple[np.ndarray, ...]
) -> JaxReading | TorchReading:
    """One of the ways, in a process of its own."""
    run_steps_in_this_thread()
    keep_freed_memory()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "float32")
    if way == "jax":
        return JaxReading(config, state, given)
    return TorchReading(way == "torch-original", config, state, given)
