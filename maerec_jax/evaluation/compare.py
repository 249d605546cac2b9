"""Two runs over the same images: reads their predictions and compares them image by image."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.evaluation.bootstrap import interval, resampled_means, set_seed
from maerec_jax.evaluation.comparison import MEASURES, Comparison, Difference, Image, Judged, Measure, Pair
from maerec_jax.evaluation.groups import groups, ordered
from maerec_jax.evaluation.predictions import read_predictions
from maerec_jax.evaluation.table import Table
from maerec_jax.reading.scoring import verdicts

_SEED, _RESAMPLES = 0, 10_000


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
    run_a, run_b = _read(a), _read(b)
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
    return Comparison(
        a=str(a),
        b=str(b),
        seed=seed,
        resamples=resamples,
        differences=_differences(pairs, seed, resamples),
        fixed=tuple(pair for pair in every if pair.change > 0),
        broken=tuple(pair for pair in every if pair.change < 0),
        relabelled=tuple(pair for pair in every if pair.a.truth != pair.b.truth),
        only_a=_lone(run_a, run_b),
        only_b=_lone(run_b, run_a),
    )


def _read(path: Path) -> dict[Image, Judged]:
    """The readings of a run, and which of them are right."""
    path, table = _predictions_file(path)
    run: dict[Image, Judged] = {}
    for number, prediction in enumerate(read_predictions(path), 1):
        image = Image(prediction.set, prediction.index, prediction.file)
        if image in run:
            raise UserError(f"{path}:{number}: {image.file} of {image.set} stands there twice")
        found = verdicts(prediction.judged_reading, prediction.truth)
        right = tuple(found[name] == 1 for name in MEASURES)
        run[image] = Judged(prediction.truth, prediction.reading, prediction.confidence, right)
    if not run:
        raise UserError(f"{path} holds no predictions")
    words = Counter(image.set for image in run)
    expected = words if table is None else Counter({result.name: result.words for result in table.sets})
    for name in sorted(words | expected):
        if words[name] != expected[name]:
            raise UserError(
                f"{path} has {words[name]:,} words of {name}, but the table made from it {expected[name]:,}: one of "
                "them is of another run; give the predictions themselves (.jsonl)"
            )
    return run


def _predictions_file(path: Path) -> tuple[Path, Table | None]:
    """The predictions that ``path`` is or leads to, and the table that was made from them, if it is one."""
    if path.suffix.lower() != ".json":
        return path, None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        table = Table.from_dict(data)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give a table (.json) or predictions (.jsonl) of evaluate"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}; give a table (.json) or predictions (.jsonl)") from error
    name = data.get("predictions")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{path} does not say where its predictions are: give them themselves (.jsonl)")
    predictions = path.parent / name
    if not predictions.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(f"{path}: its predictions, {name}, are outside its folder: give them themselves (.jsonl)")
    return predictions, table


def _differences(pairs: Mapping[str, Sequence[Pair]], seed: int, resamples: int) -> tuple[Difference, ...]:
    """Differences of all sets, and of the averages that can be made of them, on the images that both runs have."""
    words = {name: len(some) for name, some in pairs.items()}
    reworded = {
        name: sum(pair.a.reading != pair.b.reading and not pair.change for pair in some) for name, some in pairs.items()
    }
    differences, means = {}, {}
    for name in ordered(words):
        a_NM, b_NM = np.array([(pair.a.right, pair.b.right) for pair in pairs[name]]).swapaxes(0, 1)
        right_a_M, right_b_M, lost_M, gained_M = (
            some_NM.sum(axis=0).tolist() for some_NM in (a_NM, b_NM, a_NM & ~b_NM, b_NM & ~a_NM)
        )
        n, measures = words[name], {}
        for place, metric in enumerate(MEASURES):
            gained, lost = gained_M[place], lost_M[place]
            means[name, metric] = resampled_means(gained, lost, n, resamples, set_seed(seed, name, place))
            rates = right_a_M[place] / n, right_b_M[place] / n
            measures[metric] = Measure(*rates, *interval(means[name, metric]), gained, lost)
        differences[name] = Difference(name, name, "set", "", n, measures, reworded[name])
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
                sum(weight * part.a for part, weight, _ in parts),
                sum(weight * part.b for part, weight, _ in parts),
                *interval(means_R),
                fixed=sum(part.fixed for part, _, _ in parts),
                broken=sum(part.broken for part, _, _ in parts),
            )
        total, other = (sum(counts[name] for name in group.weights) for counts in (words, reworded))
        averages.append(Difference(group.name, group.label, group.kind, group.remark, total, measures, other))
    return (*differences.values(), *averages)


def _lone(run: Mapping[Image, Judged], other: Mapping[Image, Judged]) -> dict[str, list[str]]:
    """Files of the images that only one run has, by set."""
    files: dict[str, list[str]] = {}
    for image in run:
        if image not in other:
            files.setdefault(image.set, []).append(image.file)
    return {name: files[name] for name in ordered(files)}
