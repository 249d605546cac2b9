"""What scripts/benchmarks/training.py compares: the project's training step, and the same step in plain PyTorch.

On CPUs all of them keep the memory that they free (``maerec_jax.distributed.host_memory``), as training runs do.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SIZES = {"cpu": (1024, 2048, 3072), "other": (4096, 8192, 16384)}  # of the matrices that the peak is measured with


@dataclass(frozen=True)
class Settings:
    """What is measured; all that a contender's process is told."""

    stage: str
    model: str
    batch_size: int
    folder: str

    @property
    def weights(self) -> Path:
        """Where the first contender leaves its parameters, under PyTorch's names."""
        return Path(self.folder) / "weights.npz"


def keep_memory() -> None:
    """What the commands do about memory; before JAX is first used. Nothing in a checkout that knows nothing of it."""
    try:
        from maerec_jax.distributed import host_memory
    except ImportError:
        return
    host_memory.run_steps_in_this_thread()
    host_memory.keep_freed_memory()


def make_config(settings: Settings, dtype: str) -> Any:
    """The recipe of configs/ for a stage, without augmentation."""
    from data_pipelines.images.augmentation import NO_AUGMENTATION
    from maerec_jax.config import load_config_module
    from maerec_jax.models.mae import MAEConfig
    from maerec_jax.models.maerec import MAERecConfig

    size = "s" if settings.model == "tiny" else settings.model
    name = f"mae_vit_{size}.py" if settings.stage == "mae" else f"maerec_{size}.py"
    config = load_config_module(str(Path(__file__).parents[2] / "configs" / name)).get_config()
    if settings.model == "tiny":
        config = replace(config, model=MAEConfig.tiny() if settings.stage == "mae" else MAERecConfig.tiny())
    data = replace(config.data, augmentation=NO_AUGMENTATION)
    return replace(config, batch_size=settings.batch_size, dtype=dtype, data=data)


def make_batch(config: Any) -> dict[str, Any]:
    """A batch as the pipeline makes it, of noise; and masking noise, with which losses are compared."""
    import numpy as np

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


def without_dropout(config: Any) -> Any:
    """The same run, its model computing the same thing each time."""
    if config.model.kind == "mae":
        return config
    return replace(config, model=replace(config.model, decoder=replace(config.model.decoder, dropout=0.0)))


class JaxStep:
    """The project's training step."""

    def __init__(self, settings: Settings, dtype: str) -> None:
        import jax
        import numpy as np

        keep_memory()
        from maerec_jax.distributed.sharding import put_batch, put_whole, replicated, state_shardings
        from maerec_jax.training import loop
        from maerec_jax.training.optimizer import learning_rate_schedule, make_optimizer
        from maerec_jax.training.step import jit_train_step, state_shapes
        from maerec_jax.weights.pytorch_names import params_from_state_dict, state_dict_from_params

        self.config = make_config(settings, dtype)
        self.task = loop.make_task(self.config)
        batch = make_batch(self.config)
        if not settings.weights.exists():
            fresh = jax.device_get(jax.jit(self.task.init)(jax.random.key(0)))
            np.savez(settings.weights, **dict[str, Any](state_dict_from_params(fresh, self.config.model)))
        with np.load(settings.weights) as file:
            self.params = params_from_state_dict(file, self.config.model)
        mesh = loop.make_mesh(self.config.mesh, jax.devices()[:1])
        schedule = learning_rate_schedule(self.config.optimizer, settings.batch_size, 1000.0, 10_000)
        optimizer = make_optimizer(self.config.optimizer, schedule, self.config.model.encoder.depth, self.task.frozen)
        shardings = state_shardings(state_shapes(self.task, optimizer, self.config), mesh)
        self.state = loop.fresh_state(self.config, self.task, optimizer, shardings, lambda _: self.params)
        self.function = jit_train_step(self.task, optimizer, self.config, mesh)
        self.compared = {name: jax.numpy.asarray(x) for name, x in batch.items()}
        self.batch = put_batch({name: x for name, x in batch.items() if name != "noise"}, mesh)
        self.count = 0
        self.place = lambda step: put_whole(np.int32(step), replicated(mesh))

    def device(self) -> str:
        """The device and the library's version."""
        import jax

        return f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}), jax {jax.__version__}"

    def compare(self) -> tuple[float, float]:
        """Loss and gradient norm of the weights that all start from."""
        import jax
        import jax.numpy as jnp
        import optax

        from maerec_jax.training.loop import make_task
        from maerec_jax.training.optimizer import map_by_path

        task = make_task(without_dropout(self.config))

        def mean(params: Any, batch: Any) -> Any:
            loss = task.loss(params, batch, jax.random.key(0))
            return loss.total / loss.weight

        loss, grads = jax.jit(jax.value_and_grad(mean))(self.params, self.compared)
        frozen = map_by_path(task.frozen, grads)
        norm = optax.tree.norm(jax.tree.map(lambda g, f: jnp.zeros(()) if f else g, grads, frozen))
        del self.params, self.compared
        return float(loss), float(norm)

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds that some steps take, and the processor's seconds in them."""
        import jax

        begin, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.state, values = self.function(self.state, self.batch, self.place(self.count))
            self.count += 1
        jax.block_until_ready((self.state, values))
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        if not float(values["good"]):
            raise ArithmeticError(f"the loss is {float(values['loss'])}")
        return seconds, processor

    def multiplier(self, size: int, dtype: str) -> Callable[[int], None]:
        """Something that multiplies square matrices as often as asked."""
        import jax
        import jax.numpy as jnp

        a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        multiply = jax.jit(lambda a, b: a @ b)

        def run(times: int) -> None:
            for _ in range(times):
                out = multiply(a, a)
            out.block_until_ready()

        return run


class TorchStep:
    """The same step in PyTorch."""

    def __init__(self, settings: Settings, dtype: str, compiled: bool = False) -> None:
        import numpy as np
        import torch

        from maerec_jax.interop import pytorch_twin as twin

        keep_memory()
        self.torch, self.twin, self.dtype = torch, twin, dtype
        self.place = "cuda" if torch.cuda.is_available() else "cpu"
        if self.place == "cuda":
            torch.set_float32_matmul_precision("high")  # TensorFloat32, as JAX has it by default
        else:
            torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        self.config = make_config(settings, dtype)
        self.model: Any = (twin.MaskedAutoencoder if settings.stage == "mae" else twin.MAERec)(self.config.model)
        with np.load(settings.weights) as file:
            self.model.load_state_dict({key: torch.tensor(value) for key, value in file.items()})
        self.model.to(self.place)
        self.batch = {name: torch.from_numpy(x).to(self.place) for name, x in make_batch(self.config).items()}
        recipe, groups = self.config.optimizer, ([], [])  # type: tuple[Any, tuple[list, list]]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                groups[parameter.ndim == 1 and not recipe.decay_vectors].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "weight_decay": d} for group, d in zip(groups, (recipe.weight_decay, 0.0), strict=True)],
            lr=1e-6,
            betas=recipe.betas,
            eps=recipe.epsilon,
            fused=True,
        )
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, noise: Any = None) -> Any:
        torch, encoder, image = self.torch, self.config.model.encoder, self.batch["image"]
        with torch.autocast(self.place, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            pixels = self.twin.normalize(image, encoder)
            if self.config.model.kind == "maerec":
                return self.model.loss(pixels, self.batch["tokens"])
            if noise is None:
                noise = torch.rand(len(image), encoder.n_patches, device=self.place)
            return self.model(pixels, noise)[0]

    def device(self) -> str:
        """The device and the library's version."""
        name = self.torch.cuda.get_device_name() if self.place == "cuda" else f"{self.torch.get_num_threads()} threads"
        return f"{self.place} ({name}), torch {self.torch.__version__}"

    def compare(self) -> tuple[float, float]:
        """Loss and gradient norm of the weights that all start from."""
        self.model.eval()
        loss = self._loss(self.batch["noise"])
        loss.backward()
        squares = [p.grad.double().square().sum() for p in self.model.parameters() if p.grad is not None]
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), math.sqrt(float(sum(squares)))

    def _wait(self) -> None:
        if self.place == "cuda":
            self.torch.cuda.synchronize()

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds that some steps take, and the processor's seconds in them."""
        self._wait()
        begin, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss()
            loss.backward()
            self.optimizer.step()
        self._wait()
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        if not math.isfinite(float(loss.detach())):
            raise ArithmeticError(f"the loss is {float(loss.detach())}")
        return seconds, processor

    def multiplier(self, size: int, dtype: str) -> Callable[[int], None]:
        """Something that multiplies square matrices as often as asked."""
        torch = self.torch
        a = torch.randn(size, size, device=self.place, dtype=getattr(torch, dtype))

        def run(times: int) -> None:
            for _ in range(times):
                torch.mm(a, a)
            self._wait()

        return run


def measure_peak(step: Any, dtype: str) -> float:
    """Operations a second of the best matrix multiplication."""
    best = 0.0
    for size in SIZES["cpu" if step.device().startswith("cpu") else "other"]:
        multiply = step.multiplier(size, dtype)
        multiply(2)
        begin = time.perf_counter()
        multiply(1)
        times = max(1, round(0.2 / (time.perf_counter() - begin)))
        for _ in range(4):
            begin = time.perf_counter()
            multiply(times)
            best = max(best, 2.0 * size**3 * times / (time.perf_counter() - begin))
    return best
