"""What scripts/benchmarks/training.py compares: the project's training step, and the same step in plain PyTorch.

Both have ``device``, ``compare``, ``run`` and, the project's, ``limit``. On CPUs both keep the memory that they free
(``maerec_jax.distributed.host_memory``), as training runs do.
"""

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from turns import cores

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """What is measured; all that a contender's process is told."""

    stage: str
    model: str
    batch_size: int
    weights: str
    """The file where the first contender leaves its parameters, under PyTorch's names."""


def make_step(kind: str, settings: Settings, dtype: str) -> "JaxStep | TorchStep":
    """A contender, in a process of its own that has imported nothing of the project yet."""
    kind, _, checkout = kind.partition("@")
    sys.path.insert(0, checkout or str(REPOSITORY))
    from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread

    run_steps_in_this_thread()
    keep_freed_memory()
    if kind == "jax":
        return JaxStep(settings, dtype)
    return TorchStep(settings, dtype, kind == "torch-compile")


def make_config(settings: Settings, dtype: str) -> Any:
    """The recipe of configs/ for a stage, without augmentation."""
    from data_pipelines.images.augmentation import NO_AUGMENTATION
    from maerec_jax.config import load_config_module
    from maerec_jax.models.mae import MAEConfig
    from maerec_jax.models.maerec import MAERecConfig

    size = "s" if settings.model == "tiny" else settings.model
    name = f"mae_vit_{size}.py" if settings.stage == "mae" else f"maerec_{size}.py"
    config = load_config_module(str(REPOSITORY / "configs" / name)).get_config()
    if settings.model == "tiny":
        config = replace(config, model=MAEConfig.tiny() if settings.stage == "mae" else MAERecConfig.tiny())
    data = replace(config.data, augmentation=NO_AUGMENTATION)
    return replace(config, batch_size=settings.batch_size, dtype=dtype, data=data)


def make_batch(config: Any) -> dict[str, Any]:
    """A batch as the pipeline makes it, of noise; and masking noise, with which losses are compared."""
    rng, rows = np.random.default_rng(0), config.batch_size
    batch = {
        "image": rng.integers(0, 256, (rows, *config.model.encoder.image_size, 3), np.uint8),
        "valid": np.ones(rows, bool),
        "outcome": np.zeros(rows, np.uint8),
        "source": np.zeros(rows, np.int32),
        "noise": rng.random((rows, config.model.encoder.n_patches), np.float32),
    }
    if config.model.kind == "maerec":
        charset, length = config.model.charset, config.model.decoder.max_length
        letters = np.array(list(charset.characters))
        words = ["".join(rng.choice(letters, rng.integers(1, min(16, length - 1)))) for _ in range(rows)]
        batch["tokens"] = np.stack([charset.encode(word, length) for word in words])
    return batch


class JaxStep:
    """The project's training step."""

    def __init__(self, settings: Settings, dtype: str) -> None:
        from maerec_jax.distributed.sharding import make_mesh, state_shardings
        from maerec_jax.training.optimizer import learning_rate_schedule, make_optimizer
        from maerec_jax.training.run import make_task
        from maerec_jax.training.step import initial_state, jit_train_step
        from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params

        self._config, self._mesh = make_config(settings, dtype), make_mesh(devices=jax.devices()[:1])
        model, recipe, task = self._config.model, self._config.optimizer, make_task(self._config)
        if not Path(settings.weights).exists():
            fresh = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
            np.savez(settings.weights, **dict[str, Any](state_dict_from_params(fresh, model)))
        with np.load(settings.weights) as file:
            params = jax.device_put(params_from_state_dict(file, model))
        schedule = learning_rate_schedule(recipe, settings.batch_size, 1000.0, 10_000)
        optimizer = make_optimizer(recipe, schedule, model.encoder.depth, model.frozen)
        self._state = initial_state(params, optimizer, bool(self._config.ema_decay))
        shardings = state_shardings(self._state, self._mesh, model.sharding)
        self._step = jit_train_step(task, optimizer, self._config, shardings)
        self._batch, self._count = jax.device_put(make_batch(self._config)), 0

    def device(self) -> str:
        """The device and the library's version."""
        return f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}), jax {jax.__version__}"

    def limit(self, dtype: str) -> float:
        """Images a second at the device's peak in a dtype."""
        from maerec_jax.costs.utilisation import peak

        model = self._config.model
        return peak(self._mesh, dtype) / model.work(model.encoder.image_size).model

    def compare(self) -> tuple[float, float]:
        """Loss and gradient norm of the weights that all start from, without dropout. Comes before ``run``."""
        from maerec_jax.training.run import make_task
        from maerec_jax.training.step import loss_gradients

        model = self._config.model
        if model.kind == "maerec":
            model = replace(model, decoder=replace(model.decoder, dropout=0.0))
        task = make_task(replace(self._config, model=model))
        compute = jax.jit(lambda params, batch: loss_gradients(task, params, batch, jax.random.key(0)))
        grads, weight, sums, _ = compute(self._state.params, self._batch)
        del self._batch["noise"]  # from now on each step draws its own
        return float(sums["loss"] / weight), float(optax.tree.norm(grads) / weight)

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds that some steps take, and the processor's seconds in them."""
        begin, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._state, values = self._step(self._state, self._batch, jnp.int32(self._count))
            self._count += 1
        jax.block_until_ready((self._state, values))
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        if not float(values["good"]):
            raise ArithmeticError(f"the loss is {float(values['loss'])}")
        return seconds, processor


class TorchStep:
    """The same step in PyTorch."""

    def __init__(self, settings: Settings, dtype: str, compiled: bool) -> None:
        import torch

        from maerec_jax.interop import pytorch_twin as twin

        self._torch, self._normalize, self._dtype = torch, twin.normalize, dtype
        self._place = "cuda" if torch.cuda.is_available() else "cpu"
        if self._place == "cuda":
            torch.set_float32_matmul_precision("high")  # TensorFloat32, as JAX has it by default
        torch.set_num_threads(cores())
        self._config = make_config(settings, dtype)
        self._model: Any = (twin.MaskedAutoencoder if settings.stage == "mae" else twin.MAERec)(self._config.model)
        with np.load(settings.weights) as file:
            self._model.load_state_dict({key: torch.tensor(value) for key, value in file.items()})
        self._model.to(self._place)
        self._batch = {name: torch.from_numpy(x).to(self._place) for name, x in make_batch(self._config).items()}
        recipe = self._config.optimizer
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if (p.ndim == 1) == vectors], "weight_decay": decay}
            for vectors, decay in ((False, recipe.weight_decay), (True, recipe.weight_decay * recipe.decay_vectors))
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-6, betas=recipe.betas, eps=recipe.epsilon, fused=True)
        self._compiled_loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, noise: Any = None) -> Any:
        torch, encoder, image = self._torch, self._config.model.encoder, self._batch["image"]
        with torch.autocast(self._place, torch.bfloat16, enabled=self._dtype == "bfloat16"):
            pixels = self._normalize(image, encoder)
            if self._config.model.kind == "maerec":
                return self._model.loss(pixels, self._batch["tokens"])
            if noise is None:
                noise = torch.rand(len(image), encoder.n_patches, device=self._place)
            return self._model(pixels, noise)[0]

    def device(self) -> str:
        """The device and the library's version."""
        torch = self._torch
        name = torch.cuda.get_device_name() if self._place == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{self._place} ({name}), torch {torch.__version__}"

    def compare(self) -> tuple[float, float]:
        """Loss and gradient norm of the weights that all start from, without dropout; before it is compiled."""
        self._model.eval()
        loss = self._loss(self._batch["noise"])
        loss.backward()
        squares = [p.grad.double().square().sum() for p in self._model.parameters() if p.grad is not None]
        self._model.train()
        return float(loss.detach()), math.sqrt(float(sum(squares)))

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds that some steps take, and the processor's seconds in them."""
        begin, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._compiled_loss()
            loss.backward()
            self._optimizer.step()
        if not math.isfinite(float(loss.detach())):  # on GPUs this also waits for the steps
            raise ArithmeticError(f"the loss is {float(loss.detach())}")
        return time.perf_counter() - begin, time.process_time() - processor
