"""From records to a batch: decoding, turning, moving, resizing and tokenizing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.errors import DataError, MissingError, RecordError
from data_pipelines.images.augmentation import Draws, Policy, resizing_matrices
from data_pipelines.images.buckets import is_vertical
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.images.resizing import Interpolation, KeepRatio, resize_image, turn_image, warp_image
from data_pipelines.images.views import view_image
from data_pipelines.sources.records import MISSING, UNREADABLE, USED, Batch, Record


@dataclass(frozen=True)
class BatchDecoder:
    """Makes a batch of records: decodes, moves, resizes and tokenizes. Picklable if its functions are."""

    height: int = 32  # of the images in a batch
    width: int = 128
    interpolation: Interpolation = "bilinear"  # of the published recogniser; "bicubic" for pre-training
    tokenize: Callable[[str], np.ndarray] | None = None  # to int32 ``(length,)``; None where labels are not read
    augmentation: Policy | None = None  # in training; only its geometry happens here, the rest on the device
    turn_vertical: bool = False  # whether vertical words are turned by 90 degrees against the clock, in training
    turns: int = 0  # by how many times 90 degrees every image is turned against the clock, in reading
    keep_ratio: KeepRatio | None = None  # how images keep their aspect ratio, for models that want that
    views: int = 1  # how many of ``VIEWS`` of every image are taken, in reading: (B, views, H, W, 3) with several

    def __call__(
        self,
        records: Sequence[tuple[int, Record | RecordError]],
        batch_size: int,
        random_key: tuple[int, int] | None = None,
    ) -> Batch:
        """Decode records, given with their indices, to a batch of ``batch_size``.

        A record that could not be read, given as its error, or whose image cannot be decoded becomes a row of zeros
        that is not valid but keeps its index; the former has no label. Rows after the last record are zeros too, with
        index -1. ``random_key`` is a seed and the place of the first record in the training stream: together with its
        own place they decide how a record is augmented. Without it nothing is.

        Raises ``DataError`` for a record without a label where labels are read.
        """
        several = (self.views,) if self.views > 1 and random_key is None else ()
        images = np.zeros((batch_size, *several, self.height, self.width, 3), np.uint8)
        index, outcome = np.full(batch_size, -1, np.int64), np.full(batch_size, USED, np.uint8)
        index[: len(records)] = [record_index for record_index, _ in records]
        batch: Batch = {"image": images, "outcome": outcome, "index": index}
        if random_key is None:
            batch["size"] = np.zeros((batch_size, 2), np.int32)
        widths = np.full(batch_size, self.width, np.int32)
        if self.keep_ratio is not None:
            batch["width"] = widths
        draws = None
        if self.augmentation is not None and random_key is not None:
            draws = self.augmentation.draw(*random_key, len(records))
            if draws.operations_BL is not None:
                unused = ((0, batch_size - len(records)), (0, 0))
                batch["operations"] = np.pad(draws.operations_BL, unused, constant_values=-1)
        moving: dict[int, np.ndarray] = {}
        texts = [""] * batch_size
        for row, (record_index, record) in enumerate(records):
            if isinstance(record, RecordError):
                outcome[row] = MISSING if isinstance(record, MissingError) else UNREADABLE
                continue
            if self.tokenize is not None:
                if record.text is None:
                    raise DataError(
                        f"record {record_index} has no label, and this task reads labels; choose labelled sources"
                    )
                texts[row] = record.text
            try:
                image = pixels_of(record)
            except DecodeError:
                outcome[row] = UNREADABLE
                continue
            if random_key is None:
                batch["size"][row] = image.shape[:2]
                image = turn_image(image, self.turns)
            elif self.turn_vertical and is_vertical(image.shape[:2], record.text):
                image = turn_image(image, 1)
            if self.keep_ratio is not None:
                training = random_key is not None
                widths[row] = self.keep_ratio.width(image.shape[:2], self.height, self.width, training)
            shape, out = (self.height, int(widths[row])), images[row][..., : widths[row], :]
            if several:
                view_image(image, self.views, *shape, self.interpolation, out)
            elif draws is not None and draws.moved_B[row]:
                moving[row] = image
            else:  # at once, while the pixels are in the processor's cache
                resize_image(image, *shape, self.interpolation, out)
        if draws is not None:
            self._move(draws, moving, images, widths, outcome)
        batch["valid"] = (outcome == USED) & (index >= 0)
        if self.tokenize is not None:
            batch["tokens"] = np.stack([self.tokenize(text) for text in texts]).astype(np.int32, copy=False)
        return batch

    def _move(
        self, draws: Draws, moving: dict[int, np.ndarray], images: np.ndarray, widths: np.ndarray, outcome: np.ndarray
    ) -> None:
        """Warp the images ``moving``, given by row, into ``images``."""
        if self.augmentation is None or not moving:
            return
        rows = list(moving)
        sizes_B2 = np.array([image.shape[:2] for image in moving.values()])
        frames_B2 = np.stack([np.full(len(rows), self.height), widths[rows]], axis=-1)
        matrix_B33 = resizing_matrices(sizes_B2, frames_B2)
        if self.augmentation.frame == "source":
            matrix_B33 = matrix_B33 @ self.augmentation.matrices(draws.numbers_BK[rows], sizes_B2)
        else:
            matrix_B33 = self.augmentation.matrices(draws.numbers_BK[rows], frames_B2) @ matrix_B33
        for (row, image), matrix in zip(moving.items(), matrix_B33, strict=True):
            try:
                warp_image(image, matrix, images[row][:, : widths[row]], self.interpolation)
            except cv2.error:  # OpenCV refuses to warp images with a side of over 32,767 pixels, for example
                outcome[row] = UNREADABLE
