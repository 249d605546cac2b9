"""The network of DBNet++, for ``DBNetPPDetector``: its parameters run by JAX, or an ONNX file."""

from collections import defaultdict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.distributed.batch_sizes import batch_ladder
from maerec_jax.distributed.sharding import batch_sharding, make_mesh, put_whole, replicated, row_shards
from maerec_jax.models.dbnetpp import STRIDE, maps_of
from maerec_jax.scenes.regions import DetectionConfig, DetectionSettings

if TYPE_CHECKING:
    from maerec_jax.scenes.onnx_network import OnnxNetwork

Size = tuple[int, int]

_ASPECTS = (1, 4 / 3, 3 / 2, 16 / 9, 2.5)  # of the frames that pictures are put into: those that most of them have


def frames(settings: DetectionSettings) -> list[Size]:
    """The few heights and widths that programs are compiled for, the smallest first; any resized picture fits one."""
    short, most = settings.short_side, settings.long_side
    sides = {min(most, int(short * aspect + 0.5)) for aspect in _ASPECTS} | {most}
    found = {whole((short, side)) for side in sides}
    return sorted(found | {(width, height) for height, width in found}, key=lambda size: size[0] * size[1])


def whole(size: Sequence[int]) -> Size:
    """Height and width rounded up to multiples of 32."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


@jax.jit
def _probabilities(params: Any, image_BHWC: jax.Array, size_B2: jax.Array) -> jax.Array:
    return maps_of(params, image_BHWC, size_B2).probability_BHW


class JaxNetwork:
    """DBNet++ on this process's devices, which divide the pictures of a batch.

    Pictures are put into one of a few frames, in batches of one of a few sizes, so that few programs are compiled. Each
    picture's map is the same in any frame and batch, up to rounding.

    Args:
      params: the parameters.
      config: says how large pictures are.
      batch_size: the most pictures at a time. One of 1024 x 1376 takes 0.6 GB.
    """

    def __init__(self, params: Any, config: DetectionConfig | None = None, batch_size: int = 4) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self._frames = frames((config or DetectionConfig()).settings("dbnetpp"))
        self._mesh = make_mesh(devices=jax.local_devices())
        self._params = put_whole(params, replicated(self._mesh))
        self._batch_sizes = batch_ladder(batch_size, row_shards(self._mesh))
        self._programs: dict[tuple[int, Size], Any] = {}
        self._compiling = Lock()
        self.at_once = 4 * self._batch_sizes[-1]  # those of one frame share a batch

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As ``Network`` says."""
        groups: dict[Size, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            height, width = whole(image.shape[:2])
            groups[next(each for each in self._frames if height <= each[0] and width <= each[1])].append(number)
        found: dict[int, np.ndarray] = {}
        for frame, places in groups.items():
            while places:
                rows = max((n for n in self._batch_sizes if n <= len(places)), default=self._batch_sizes[0])
                batch, places = places[:rows], places[rows:]
                found |= zip(batch, self._maps([images[number] for number in batch], rows, frame), strict=True)
        return [found[number] for number in range(len(images))]

    def _maps(self, images: Sequence[np.ndarray], rows: int, frame: Size) -> list[np.ndarray]:
        pixels, sizes = np.zeros((rows, *frame, 3), np.uint8), np.zeros((rows, 2), np.int32)
        for row, image in enumerate(images):
            sizes[row] = height, width = image.shape[:2]
            pixels[row, :height, :width] = image
        batch = put_whole((pixels, sizes), batch_sharding(self._mesh))
        maps = jax.device_get(self._program(rows, frame)(self._params, *batch))
        areas = map(whole, sizes[: len(images)])
        return [map_HW[:height, :width] for map_HW, (height, width) in zip(maps, areas, strict=False)]

    def compile(self) -> None:
        """Compile for one picture, or one on each device, in every frame, so that none has to wait for that."""
        for frame in self._frames:
            self._program(self._batch_sizes[0], frame)

    def _program(self, rows: int, frame: Size) -> Any:
        """The network for a batch; threads that want one that is being compiled wait for it."""
        with self._compiling:
            if (rows, frame) not in self._programs:
                sharding = batch_sharding(self._mesh)
                image = jax.ShapeDtypeStruct((rows, *frame, 3), np.uint8, sharding=sharding)
                size = jax.ShapeDtypeStruct((rows, 2), np.int32, sharding=sharding)
                self._programs[rows, frame] = _probabilities.lower(self._params, image, size).compile()
            return self._programs[rows, frame]


class FileNetwork:
    """DBNet++ in an ONNX file that takes pictures of any size, one at a time.

    Raises:
      UserError: where the file takes pictures of one size only.
    """

    at_once = 1

    def __init__(self, network: "OnnxNetwork", config: DetectionConfig | None = None) -> None:
        self._network, self._settings = network, (config or DetectionConfig()).settings("dbnetpp")
        if network.fixed_size:
            height, width = network.fixed_size
            raise UserError(
                f"{network.path}: takes images of {height} x {width} only: export it for images of any size"
            )

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As ``Network`` says; raises ``UserError`` for maps of another size."""
        return [self._map(image) for image in images]

    def compile(self) -> None:
        """There is nothing to compile."""

    def _map(self, image: np.ndarray) -> np.ndarray:
        from maerec_jax.scenes.onnx_network import normalised

        height, width = image.shape[:2]
        padded = np.zeros((*whole((height, width)), 3), np.float32)
        padded[:height, :width] = normalised(image, self._settings)
        map_HW = self._network(padded)
        if map_HW.shape != padded.shape[:2]:
            raise UserError(
                f"{self._network.path}: makes maps of {map_HW.shape} of images of {padded.shape[:2]}, which DBNet++ "
                "does not: give --detection.method db"
            )
        return map_HW
