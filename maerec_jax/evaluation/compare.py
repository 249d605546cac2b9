"""Two runs over the same images: reads their predictions and compares them image by image, with a paired bootstrap."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ValidationError

from data_pipelines.errors import UserError
from maerec_jax.evaluation.comparison import LEVEL, MEASURES, Comparison, Difference, Image, Judged, Measure, Pair
from maerec_jax.evaluation.groups import Kind, groups, judged_by, ordered
from maerec_jax.evaluation.predictions import first_fault, read_predictions
from maerec_jax.reading.scoring import HEADLINE, dropped_by, verdicts


class _Set(BaseModel):
    words: int


class _Table(BaseModel):
    """What is looked at in a table that evaluate wrote."""

    sets: dict[str, _Set]
    predictions: Any = None


def compare(a: Path, b: Path, *, seed: int = 0, resamples: int = 10_000) -> Comparison:
    """Compare two runs image by image: those with the same set, place in it and file.

    A run is its predictions (.jsonl), or a table (.json) that evaluate wrote and that says where they are. Each is
    judged by the labels in its own file. What is in one of them only takes no part in the differences, and is counted.
    So does a set of whose images one of them could use none: it has no score there. The bootstrap draws the images
    ``resamples`` times anew.

    Raises:
      UserError: for a file that is missing, broken or has an image twice, and where no image is in both.
    """
    (run_a, without_a), (run_b, without_b) = _read(a), _read(b)
    unscored = tuple(ordered(without_a | without_b))
    run_a, run_b = ({image: each for image, each in run.items() if image.set not in unscored} for run in (run_a, run_b))
    if not run_a or not run_b:
        raise UserError(f"{a} and {b}: no image of {', '.join(unscored)} could be used in one of them, so none compare")
    pairs: dict[str, list[Pair]] = {}
    for image, judged in run_b.items():
        if image in run_a:
            pairs.setdefault(image.set, []).append(Pair(image, run_a[image], judged))
    if not pairs:
        first, second = (f"{image.file} of {image.set}" for image in (next(iter(run_a)), next(iter(run_b))))
        raise UserError(
            f"{a} and {b} have no image in common (set, place and file have to be the same): "
            f"the first begins with {first}, the second with {second}"
        )
    every = [pair for some in pairs.values() for pair in some]
    dropped = {name: sum(_drops(pair) for pair in pairs[name]) for name in ordered(pairs)}
    dropped = {name: count for name, count in dropped.items() if count}
    metric = judged_by(dropped)
    differences = _differences(pairs, metric, seed, resamples)
    fixed, broken = (tuple(pair for pair in every if pair.change(metric) == way) for way in (1, -1))
    relabelled = tuple(pair for pair in every if pair.a.truth != pair.b.truth)
    only = _lone(run_a, run_b), _lone(run_b, run_a)
    made = seed, resamples, metric, dropped, unscored
    return Comparison(str(a), str(b), *made, differences, fixed, broken, relabelled, *only)


def _drops(pair: Pair) -> bool:
    """Whether ``HEADLINE`` drops letters of a label."""
    return any(HEADLINE in dropped_by(run.truth) for run in (pair.a, pair.b))


def _read(path: Path) -> tuple[dict[Image, Judged], set[str]]:
    """The readings of a run, which of them are right, and the sets of which no image could be used."""
    path, expected = _predictions_file(path)
    run: dict[Image, Judged] = {}
    usable = set()
    for number, prediction in enumerate(read_predictions(path), 1):
        image = Image(prediction.set, prediction.index, prediction.file)
        if image in run:
            raise UserError(f"{path}:{number}: {image.file} of {image.set} appears twice")
        found = verdicts(prediction.judged_reading, prediction.truth)
        right = tuple(found[name] == 1 for name in MEASURES)
        run[image] = Judged(prediction.truth, prediction.reading, prediction.confidence, right)
        if prediction.judged_reading is not None:
            usable.add(prediction.set)
    if not run:
        raise UserError(f"{path} holds no predictions")
    words = Counter(image.set for image in run)
    expected = words if expected is None else expected
    for name in sorted(words | expected):
        if words[name] != expected[name]:
            raise UserError(
                f"{path} has {words[name]:,} words of {name}, but the table made from it {expected[name]:,}: one of "
                "them is of another run; give the predictions themselves (.jsonl)"
            )
    return run, words.keys() - usable


def _predictions_file(path: Path) -> tuple[Path, Counter[str] | None]:
    """The predictions that ``path`` is or leads to, and how many there are of each set, if it is a table of them."""
    if path.suffix.lower() != ".json":
        return path, None
    instead = "give a table (.json) or predictions (.jsonl) of evaluate"
    try:
        table = _Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {instead}") from error
    except ValidationError as error:
        raise UserError(f"{path}: not a table made by evaluate: {first_fault(error)}; {instead}") from error
    name = table.predictions
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{path} does not name its predictions: give their file (.jsonl)")
    predictions = path.parent / name
    if not predictions.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"{path}: its predictions, {name}, are outside its folder: give their file (.jsonl)")
    return predictions, Counter({name: found.words for name, found in table.sets.items()})


def _differences(pairs: Mapping[str, Sequence[Pair]], metric: str, seed: int, resamples: int) -> tuple[Difference, ...]:
    """Differences of all sets, and of the averages that can be made of them, on the images that both runs have."""
    words = {name: len(pairs[name]) for name in ordered(pairs)}
    reworded, rates, changed, means = {}, {}, {}, {}
    for name, n in words.items():
        reworded[name] = sum(pair.a.reading != pair.b.reading and not pair.change(metric) for pair in pairs[name])
        a_NM, b_NM = np.array([(pair.a.right, pair.b.right) for pair in pairs[name]]).swapaxes(0, 1)
        rates[name] = np.stack([a_NM.mean(axis=0), b_NM.mean(axis=0)])
        changed[name] = np.stack([(b_NM & ~a_NM).sum(axis=0), (a_NM & ~b_NM).sum(axis=0)])
        # Every set is drawn on its own, with as many images as it has.
        seeds = [set_seed(seed, name, place) for place in range(len(MEASURES))]
        drawn = zip(*changed[name].tolist(), seeds, strict=True)
        means[name] = np.stack([resampled_means(fixed, broken, n, resamples, own) for fixed, broken, own in drawn])
    # A set is what a group of it alone would be.
    rows: list[tuple[str, str, Literal["set"] | Kind, str, Mapping[str, float]]]
    rows = [(name, name, "set", "", {name: 1.0}) for name in words]
    rows += [(g.name, g.label, g.kind, g.remark, g.weights) for g in groups(words) if g.defined]
    differences = []
    for name, label, kind, remark, weights in rows:
        (a_M, b_M), means_MR = (np.sum([w * of[part] for part, w in weights.items()], axis=0) for of in (rates, means))
        fixed_M, broken_M = np.sum([changed[part] for part in weights], axis=0).tolist()
        columns = zip(MEASURES, a_M.tolist(), b_M.tolist(), map(interval, means_MR), fixed_M, broken_M, strict=True)
        measures = {metric: Measure(a, b, *ends, *changes) for metric, a, b, ends, *changes in columns}
        total, other = (sum(counts[part] for part in weights) for counts in (words, reworded))
        differences.append(Difference(name, label, kind, remark, total, measures, other))
    return tuple(differences)


def resampled_means(gained: int, lost: int, words: int, resamples: int, seed: int | Sequence[int]) -> np.ndarray:
    """Means of ``words`` differences drawn with replacement from those that were measured, float64 ``(resamples,)``.

    The difference of an image is 1 where only the second run is right (``gained`` images), -1 where only the first is
    (``lost``) and 0 elsewhere, so how many are drawn of each is multinomial: drawn at once, exactly, at a cost that
    does not grow with the words.
    """
    shares = np.array([gained, lost, words - gained - lost]) / words
    drawn_R3 = np.random.default_rng(seed).multinomial(words, shares, size=resamples)
    return (drawn_R3[:, 0] - drawn_R3[:, 1]) / words


def set_seed(seed: int, name: str, metric: int) -> tuple[int, ...]:
    """A seed for a metric of a set: its interval is then the same whatever else is compared."""
    return seed, crc32(name.encode("utf-8", "backslashreplace")), metric


def interval(means_R: np.ndarray) -> tuple[float, float]:
    """Lower and upper end of the interval that holds ``LEVEL`` of resampled differences."""
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _lone(run: Mapping[Image, Judged], other: Mapping[Image, Judged]) -> dict[str, list[str]]:
    """Files of the images that only one run has, by set."""
    files: dict[str, list[str]] = {}
    for image in run:
        if image not in other:
            files.setdefault(image.set, []).append(image.file)
    return {name: files[name] for name in ordered(files)}
