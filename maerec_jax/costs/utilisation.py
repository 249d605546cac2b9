"""How fast a run is: images a second, and the share of the devices' peak that the model's arithmetic makes up (MFU).

    utilisation = operations of the model for the images of a second / (peak of a device x devices)

Operations are those of the model's ``work``: the multiplications that the model needs, whatever else is computed. So
``remat`` lowers the utilisation, and padding inside the compiler does too.
"""

import re
import time
import timeit
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from statistics import mean, pstdev

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maerec_jax.costs.chips import CHIPS
from maerec_jax.costs.work import Work

# ``device_kind`` of TPUs: the chip of maerec_jax.costs.chips.
_TPUS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}

# What ``device_kind`` of GPUs looks like, and operations a second of dense matrix multiplication in bfloat16 and in
# TensorFloat32, which JAX computes float32 in there. From NVIDIA's data sheets, whose numbers "with sparsity" are twice
# these: https://www.nvidia.com/en-us/data-center/ and then hgx for B200, h200, h100, grace-hopper-superchip, a100, l40s
# and l4.
_GPUS = (
    (r"B200", 2250e12, 1125e12),
    (r"H200( NVL)?|GH200 .*|H100 80GB HBM3|H100 SXM.*", 989.4e12, 494.7e12),
    (r"H100 NVL", 835.5e12, 417.5e12),
    (r"H100 PCIe", 756e12, 378e12),
    (r"A100[- ](SXM4|PCIE|PCIe|\d+GB).*", 312e12, 156e12),
    (r"L40S", 362e12, 183e12),
    (r"L4", 121e12, 60.5e12),
)


def published_peak(device_kind: str, dtype: str) -> float | None:
    """Peak operations a second of a device, as its maker publishes it; None for a device that is not known here.

    TPUs multiply float32 as bfloat16 by default, so their peak is one.
    """
    if name := _TPUS.get(device_kind):
        return CHIPS[name].flops / CHIPS[name].devices
    if "MIG" in device_kind:
        return None  # a slice of a device
    for pattern, bfloat16, tensor_float32 in _GPUS:
        if re.fullmatch(rf"(NVIDIA )?({pattern})", device_kind):
            return tensor_float32 if dtype == "float32" else bfloat16
    return None


@cache
def measured_peak(device: jax.Device, dtype: str) -> float:
    """Operations a second of a square matrix multiplication on a device, the best of a few.

    It takes less than 0.2 seconds on two cores.
    """
    size = 1024 if device.platform == "cpu" else 8192
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    return 2.0 * size**3 / min(timeit.repeat(lambda: multiply(x, x).block_until_ready(), number=1, repeat=5))


def peak(mesh: Mesh, dtype: str) -> float:
    """Peak operations a second of all devices of a mesh, taken to be alike: published, or else measured on one here.

    The CPU devices of a process are one processor, however many they pretend to be.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return measured_peak(device, dtype) * len({device.process_index for device in mesh.devices.flat})
    return (published_peak(device.device_kind, dtype) or measured_peak(device, dtype)) * mesh.size


class Rates:
    """Images a second, utilisation, the share of time spent waiting for data, and how much steps differ in time (their
    standard deviation over their mean), since they were last read.

    ``work`` is what a model needs for one image of a height and width, ``peak`` operations a second of all devices.
    """

    def __init__(
        self,
        batch_size: int,
        work: Callable[[tuple[int, int]], Work],
        peak: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch_size, self._peak, self._clock = batch_size, peak, clock
        self._work = cache(lambda image_size: work(image_size).model)
        self.restart()

    def restart(self) -> None:
        """Leave out what happened since they were last read."""
        self._begin, self._wait, self._operations = self._clock(), 0.0, 0.0
        self._steps: list[float] = []  # when they began

    def count(self, waited: float, image_size: tuple[int, int]) -> None:
        """Count a step, the seconds that it waited for its batch, and the height and width of its images."""
        self._steps.append(self._clock())
        self._wait += waited
        self._operations += self._batch_size * self._work(image_size)

    def read(self) -> dict[str, float]:
        """The rates, or nothing where too little time has passed to tell.

        Without a utilisation where that is above 1: then the peak was measured while others used the processor.
        """
        seconds, wait, operations = self._clock() - self._begin, self._wait, self._operations
        steps, lasted = len(self._steps), [after - before for before, after in pairwise(self._steps)]
        if not steps or seconds < 1e-3:
            return {}
        self.restart()
        utilisation = operations / seconds / self._peak
        return {
            "images_per_second": steps * self._batch_size / seconds,
            **({"mfu": utilisation} if utilisation < 1.05 else {}),
            "data_wait": wait / seconds,
            **({"step_deviation": pstdev(lasted) / mean(lasted)} if len(lasted) > 1 else {}),
        }
