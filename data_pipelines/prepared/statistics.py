"""What is worth knowing about a prepared set, for ``statistics.json`` and the screen."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared.encoding import Cost
from data_pipelines.prepared.layout import Manifest
from data_pipelines.prepared.shards import ShardReport

_SHARES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def summarize(
    manifest: Manifest, reports: Sequence[ShardReport], labels: PackedStrings | None, sizes: np.ndarray
) -> dict[str, Any]:
    """Counts, bytes, sizes, labels, what was left out and what resizing cost, as JSON holds them.

    ``sizes`` is integer ``(n, 2)``: height and width.
    """
    formats, cost = Counter[str](), Cost()
    for report in reports:
        formats += report.formats
        cost += report.cost
    vertical = int((sizes[:, 0] >= 2 * sizes[:, 1]).sum())
    summary: dict[str, Any] = {
        "set": manifest.plan.name,
        "records": manifest.records,
        "source_records": manifest.plan.source_records,
        "left_out": manifest.left_out,
        "left_out_because": [{"name": name, "detail": why} for report in reports for name, why in report.problems],
        "bytes": {
            "images": sum(report.image_bytes for report in reports),
            "shards": sum(shard.bytes for shard in manifest.shards),
            "index": sum(file.bytes for file in manifest.index.values()),
        },
        "formats": dict(formats.most_common()),
        "height": _quantiles(sizes[:, 0]),
        "width": _quantiles(sizes[:, 1]),
        "vertical": {"images": vertical, "share": vertical / len(sizes), "meaning": "at least twice as high as wide"},
        "resized": cost_as_json(cost, manifest.plan.max_height),
    }
    if labels is not None:
        lengths, numbers = np.unique(_lengths(labels), return_counts=True)
        characters = Counter(bytes(labels.blob).decode())
        summary["labels"] = {
            "lengths": dict(zip(map(str, lengths.tolist()), numbers.tolist(), strict=True)),
            "characters": dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        }
    return summary


def cost_as_json(cost: Cost, max_height: int) -> dict[str, Any]:
    """What resizing cost: bytes, and for both interpolations the difference of the pictures that training sees.

    ``mean_absolute`` is in grey levels of 255; ``psnr`` in decibels, of the mean squared difference.
    """
    return {
        "max_height": max_height,
        "images": cost.images,
        "kept_as_they_are_smaller": cost.kept,
        "bytes_before": cost.bytes_before,
        "bytes_after": cost.bytes_after,
        "difference": {
            name: {
                "mean_absolute": round(cost.absolute[name] / cost.images, 3),
                "psnr": round(10 * math.log10(255**2 * cost.images / max(cost.squared[name], 1e-9)), 2),
            }
            for name in cost.absolute
            if cost.images
        },
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, list(_SHARES.values()), method="nearest").tolist()
    return dict(zip(_SHARES, found, strict=True))


def _lengths(labels: PackedStrings) -> np.ndarray:
    """int64 ``(n,)``: how many characters each label has."""
    blob = np.frombuffer(labels.blob, np.uint8)
    # Every byte but the second to fourth of a character.
    starts = np.concatenate([[0], np.cumsum((blob & 0xC0) != 0x80)])
    return np.diff(starts[labels.offsets])
