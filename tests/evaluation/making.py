"""Predictions for tests."""

from maerec_jax.evaluation.predictions import Prediction


def prediction(truth="word", reading=None, confidence=0.9, *, name="curve", index=0, size=(32, 100), outcome="used"):
    """A prediction; its reading is the truth if none is given, and nothing where the image could not be used."""
    reading = truth if reading is None else reading
    if outcome != "used":
        reading, confidence, size = "", 0.0, (0, 0)
    confidences = (confidence,) * len(reading)
    return Prediction(
        name, index, f"{name}/{index}.jpg", truth, reading, confidence, confidences, size[0], size[1], outcome
    )


def words(name, count, right=None):
    """As many predictions of a set, the first ``right`` of them right."""
    right = count if right is None else right
    return [prediction("word", "word" if i < right else "wrod", name=name, index=i) for i in range(count)]


def write(path, predictions):
    """Write a file of predictions."""
    path.write_text("".join(p.to_line() + "\n" for p in predictions), encoding="utf-8")
    return path
