"""Two runs over the same images: reads their predictions and compares them image by image."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.evaluation.bootstrap import interval, resampled_means, set_seed
from maerec_jax.evaluation.comparison import MEASURES, Change, Comparison, Difference, Lone, Measure, Relabelled
from maerec_jax.evaluation.groups import groups, ordered
from maerec_jax.evaluation.predictions import Prediction, read_predictions
from maerec_jax.evaluation.table import Table, judged_reading
from maerec_jax.reading.scoring import HEADLINE, verdicts

_SEED, _RESAMPLES = 0, 10_000
_BITS = len(MEASURES)
_HEADLINE = 1 << MEASURES.index(HEADLINE)
_Key = tuple[str, int, str]


class _Seen(NamedTuple):
    """What is kept of a prediction of the first run until the second's comes: General has 400,000."""

    truth: str
    reading: str
    confidence: float
    right: int


def compare(a: Path, b: Path, *, seed: int = _SEED, resamples: int = _RESAMPLES) -> Comparison:
    """Compare two runs image by image: those with the same set, place in it and file.

    Each run is judged by the labels in its own file. What is in one of them only takes no part in the differences, and
    is counted.

    Args:
      a: the first run: predictions (.jsonl), or a table (.json) that evaluate wrote and that says where its predictions
        are.
      b: the second run; it is better where differences are above 0.
      seed: of the bootstrap.
      resamples: how many times the images are drawn anew.

    Raises:
      UserError: for a file that is missing, broken or has an image twice, and where no image is in both.
    """
    waiting: dict[_Key, _Seen] = {}
    sets_a: Counter[str] = Counter()
    for key, prediction, right in _judged(a):
        sets_a[prediction.set] += 1
        waiting[key] = _Seen(prediction.truth, prediction.reading, prediction.confidence, right)
    verdict_pairs: dict[str, Counter[int]] = {}  # of each set, how many images have which verdicts in both runs
    reworded: Counter[str] = Counter()
    changes: list[Change] = []
    relabelled: list[Relabelled] = []
    sets_b: Counter[str] = Counter()
    files_b: dict[str, list[str]] = {}
    for key, prediction, right in _judged(b):
        name, index, file = key
        sets_b[name] += 1
        seen = waiting.pop(key, None)
        if seen is None:
            files_b.setdefault(name, []).append(file)
            continue
        verdict_pairs.setdefault(name, Counter())[seen.right | right << _BITS] += 1
        if seen.truth != prediction.truth:
            relabelled.append(Relabelled(name, index, file, seen.truth, prediction.truth))
        if (seen.right ^ right) & _HEADLINE:
            read = (seen.reading, prediction.reading, seen.confidence, prediction.confidence)
            changes.append(Change(name, index, file, seen.truth, prediction.truth, *read, bool(right & _HEADLINE)))
        elif seen.reading != prediction.reading:
            reworded[name] += 1
    files_a: dict[str, list[str]] = {}
    for name, _, file in waiting:
        files_a.setdefault(name, []).append(file)
    if not verdict_pairs:
        raise UserError(
            f"{a} and {b} have no image in common (set, place and file have to be the same): "
            f"the first begins with {_first(files_a)}, the second with {_first(files_b)}"
        )
    return Comparison(
        a=str(a),
        b=str(b),
        seed=seed,
        resamples=resamples,
        differences=_differences(verdict_pairs, reworded, seed, resamples),
        changes=tuple(changes),
        relabelled=tuple(relabelled),
        only_a=_lone(files_a, sets_b),
        only_b=_lone(files_b, sets_a),
    )


def _judged(path: Path) -> Iterator[tuple[_Key, Prediction, int]]:
    """Predictions of a run, each with what it is matched by and a bit for each of ``MEASURES``."""
    path, table = _predictions_file(path)
    met: set[_Key] = set()
    words: Counter[str] = Counter()
    for number, prediction in enumerate(read_predictions(path), 1):
        key = prediction.set, prediction.index, prediction.file
        if key in met:
            raise UserError(f"{path}:{number}: {prediction.file} of {prediction.set} stands there twice")
        met.add(key)
        words[prediction.set] += 1
        found = verdicts(judged_reading(prediction), prediction.truth)
        yield key, prediction, sum(int(found[name]) << place for place, name in enumerate(MEASURES))
    if not met:
        raise UserError(f"{path} holds no predictions")
    expected = words if table is None else Counter({result.name: result.words for result in table.sets})
    for name in sorted(words | expected):
        if words[name] != expected[name]:
            raise UserError(
                f"{path} has {words[name]:,} words of {name}, but the table made from it {expected[name]:,}: one of "
                "them is of another run; give the predictions themselves (.jsonl)"
            )


def _predictions_file(path: Path) -> tuple[Path, Table | None]:
    """The predictions that ``path`` is or leads to, and the table that was made from them, if it is one."""
    if path.suffix.lower() != ".json":
        return path, None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give a table (.json) or predictions (.jsonl) of evaluate"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}; give a table (.json) or predictions (.jsonl)") from error
    try:
        table = Table.from_dict(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    name = data.get("predictions")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{path} does not say where its predictions are: give them themselves (.jsonl)")
    predictions = path.parent / name
    if not predictions.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"{path}: its predictions, {name}, are outside its folder: give them themselves (.jsonl)")
    return predictions, table


def _differences(
    verdict_pairs: Mapping[str, Counter[int]], reworded: Mapping[str, int], seed: int, resamples: int
) -> tuple[Difference, ...]:
    """Differences of all sets, and of the averages that can be made of them, on the images that both runs have."""
    words = {name: sum(pairs.values()) for name, pairs in verdict_pairs.items()}
    differences, means = {}, {}
    for name in ordered(words):
        measures = {}
        for place, metric in enumerate(MEASURES):
            counts = [0, 0, 0, 0]  # wrong in both, right in a only, right in b only, right in both
            for pair, images in verdict_pairs[name].items():
                counts[pair >> place & 1 | (pair >> place + _BITS & 1) << 1] += images
            _, lost, gained, kept = counts
            n = words[name]
            means[name, metric] = resampled_means(gained, lost, n, resamples, set_seed(seed, name, place))
            found = interval((gained - lost) / n, means[name, metric])
            measures[metric] = Measure((lost + kept) / n, (gained + kept) / n, found, gained, lost)
        differences[name] = Difference(name, name, "set", "", n, measures, reworded.get(name, 0))
    averages = []
    for group in groups(words):
        if not group.defined:
            continue
        measures = {}
        for metric in MEASURES:
            parts = [(differences[name].measures[metric], weight, name) for name, weight in group.weights.items()]
            # Every set is drawn on its own, with as many images as it has.
            means_R = np.sum([weight * means[name, metric] for _, weight, name in parts], axis=0)
            measures[metric] = Measure(
                a=sum(weight * part.a for part, weight, _ in parts),
                b=sum(weight * part.b for part, weight, _ in parts),
                interval=interval(sum(weight * part.interval.difference for part, weight, _ in parts), means_R),
                fixed=sum(part.fixed for part, _, _ in parts),
                broken=sum(part.broken for part, _, _ in parts),
            )
        total = sum(words[name] for name in group.weights)
        other = sum(reworded.get(name, 0) for name in group.weights)
        averages.append(Difference(group.name, group.label, group.kind, group.remark, total, measures, other))
    return (*differences.values(), *averages)


def _lone(files: Mapping[str, list[str]], other: Mapping[str, int]) -> dict[str, Lone]:
    """Images of one run that the other, with the sets ``other``, does not have."""
    return {name: Lone(tuple(files[name]), name not in other) for name in ordered(files)}


def _first(files: Mapping[str, list[str]]) -> str:
    name, found = next(iter(files.items()))
    return f"{found[0]} of {name}"
