"""The reference's numbers for SAR, and what is compared with them."""

import numpy as np

from tests.conftest import FIXTURES
from tests.interop.imports import run
from tests.interop.pth_files import save_pth

FIRST = "backbone.conv1_1.weight"
CHARACTERS = "012abcdAB!# "
WIDTHS = np.array([48, 29, 48, 48], np.int32)  # 0.6 of 48 columns ends in the 29th; the last two are not in the fixture


def load_reference():
    with np.load(FIXTURES / "baselines" / "sar_tiny.npz") as npz:
        return dict(npz)


def state_of(reference):
    """The state dict as files have it: counts are whole numbers of 64 bits."""
    found = {key[3:]: value for key, value in reference.items() if key.startswith("sd/")}
    return {key: value.astype(np.int64) if value.dtype.kind == "i" else value for key, value in found.items()}


def import_reference(folder):
    """Write the reference's weights to a folder as mmengine does, and import them there to "run"."""
    save_pth(folder / "file.pth", {"meta": {"epoch": 5}, "state_dict": state_of(load_reference())})
    flags = (f"--characters={CHARACTERS}", "--image-size", "24", "48", "--max-length=8")
    assert run(folder / "file.pth", folder / "run", *flags) == 0
    return folder


def assert_close(actual, expected, what="", tolerance=2.5e-5):
    """Relative error against the largest value of the array."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{what}: relative error {error:.2e}"


def assert_read(charset, reading, reference, kind):
    """Texts, scores, and classes up to the end are the reference's."""
    assert len(reading.tokens_BT) == len(reference[f"{kind}_texts"])
    for i, expected in enumerate(reference[f"{kind}_texts"]):
        text, places = charset.decode(reading.tokens_BT[i])
        assert text == str(expected)
        scores = reference[f"{kind}_scores_nanpadded"][i]
        np.testing.assert_allclose(reading.probability_BT[i, places], scores[~np.isnan(scores)], rtol=1e-4)
        classes = reference[f"{kind}_argmax"][i]
        end = np.flatnonzero(classes == charset.start_end)
        upto = end[0] + 1 if len(end) else len(classes)
        np.testing.assert_array_equal(reading.tokens_BT[i, :upto], classes[:upto])
        best = reference[f"{kind}_probs"][i].max(axis=-1)[:upto]
        np.testing.assert_allclose(reading.probability_BT[i, :upto], best, rtol=1e-4)
        assert (reading.tokens_BT[i, upto:] == charset.padding).all()
