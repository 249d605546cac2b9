"""Choose fonts for rendered words: python scripts/weights/choose_fonts.py fonts/all fonts/chosen

Large font collections hold symbols under the names of letters, alphabets of other scripts, and letters that nobody
could read. A font is kept if its letters and digits look like those of most fonts: each is brought to one size and
blurred, and the most similar of all letters' averages has to be its own. Plain print comes to 0.9 and more, scripts and
display fonts to 0.4 to 0.8, symbols to 0. Of the fonts that are kept, copies are written to one folder, which
``RenderedWords(fonts=...)`` reads, and a list of them with their figures.
"""

import argparse
import hashlib
import json
import shutil
import string
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.rendering.fonts import Face, open_face

LETTERS = string.ascii_uppercase + string.digits + string.ascii_lowercase
CAPITALS = 36  # the first of LETTERS, which every font must have
SIDE = 24
SERIF_PER_SANS = 0.6  # Print has more families with serifs than without, and streets the other way round.
# Letters that many fonts draw alike; the cases of a letter count as alike, too.
ALIKE = ("0o", "1li")
# Known scripts, which are as far from print as some illegible fonts are.
SCRIPTS = ("Kaushan Script", "Dancing Script", "Pacifico", "Lobster", "Lobster Two", "Leckerli One", "Miama", "Tusj")


def find_candidates(folder: Path) -> tuple[list[Face], np.ndarray]:
    """Fonts under ``folder`` with all capitals and digits, without those that look exactly like one before.

    And what their letters look like: float32 (fonts, letters, pixels), zero for letters that a font lacks.
    """
    found: dict[bytes, tuple[Face, np.ndarray]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
        with suppress(OSError, ValueError):  # broken files
            face = open_face(path)
            if face.can_draw(LETTERS[:CAPITALS]):
                shapes_LP = np.stack([letter_shape(face, letter) for letter in LETTERS])
                found.setdefault((shapes_LP * 64).astype(np.int8).tobytes(), (face, shapes_LP))
    return [face for face, _ in found.values()], np.array([shapes_LP for _, shapes_LP in found.values()])


def letter_shape(face: Face, letter: str) -> np.ndarray:
    """A letter as a vector of mean 0 and length 1, float32; zeros where the font does not have it."""
    if not face.can_draw(letter):
        return np.zeros(SIDE * SIDE, np.float32)
    mask = face.glyph(letter).mask.astype(np.float32)
    shape = cv2.GaussianBlur(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA), (0, 0), 1.5).ravel()
    shape -= shape.mean()
    return shape / max(float(np.linalg.norm(shape)), 1e-6)


def legibility(shapes_FLP: np.ndarray) -> np.ndarray:
    """The share of letters of each font, float (fonts,), that look most like the same letter in most fonts."""
    has_FL = np.abs(shapes_FLP).max(axis=2) > 0
    names = LETTERS.lower()
    same = np.array([[a == b or any({a, b} <= set(group) for group in ALIKE) for b in names] for a in names])
    typical = np.ones(len(shapes_FLP), bool)
    share = np.zeros(len(shapes_FLP))
    for _ in range(4):  # The average gets sharper as odd fonts leave it.
        average_LP = shapes_FLP[typical].sum(axis=0)
        average_LP /= np.maximum(np.linalg.norm(average_LP, axis=1, keepdims=True), 1e-6)
        nearest_FL = np.stack([(shapes_LP @ average_LP.T).argmax(axis=1) for shapes_LP in shapes_FLP])
        right_FL = same[np.arange(len(LETTERS)), nearest_FL] & has_FL
        share = right_FL.sum(axis=1) / np.maximum(has_FL.sum(axis=1), 1)
        typical = (share > 0.6) & has_FL.all(axis=1)
        if not typical.any():
            raise SystemExit("error: no font here looks like another, so there is nothing to measure by")
    return share


def is_sans(face: Face) -> bool:
    """Whether a capital I is a plain upright bar."""
    ink = face.glyph("I").mask > 96
    rows, columns = ink.nonzero()
    return len(rows) > 0 and bool(ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.8)


def choose(faces: list[Face], share_F: np.ndarray, least: float = 0.42, odd: float = 0.2, styles: int = 4) -> list[int]:
    """Indices of the fonts to keep: of all families without serifs, and of as many others as streets show beside them.

    Args:
        faces: all fonts.
        share_F: their legibility.
        least: lowest legibility of a font, but for known scripts.
        odd: the share of families whose legibility is below 0.75; of these the most legible are taken.
        styles: fonts of a family at most, evenly spread over its styles.
    """
    families: dict[str, list[int]] = defaultdict(list)
    for i, face in enumerate(faces):
        if share_F[i] >= least or face.family in SCRIPTS:
            families[face.family].append(i)
    plain = {name for name in families if share_F[families[name]].max() >= 0.75 or name in SCRIPTS}
    sans = sorted(name for name in plain if any(is_sans(faces[i]) for i in families[name]))
    serif = sorted(plain - set(sans) - set(SCRIPTS))
    chosen = sans + evenly(serif, round(SERIF_PER_SANS * len(sans))) + sorted(plain & set(SCRIPTS))
    others = sorted(set(families) - plain, key=lambda name: -share_F[families[name]].max())
    chosen += others[: round(len(chosen) * odd / (1 - odd))]
    kept = []
    for name in chosen:
        kept += evenly(sorted(families[name], key=lambda i: faces[i].style), styles)
    return kept


def evenly(items: list, count: int) -> list:
    """``count`` of ``items`` at even distances, or all of them."""
    return [items[round(at)] for at in np.linspace(0, len(items) - 1, min(count, len(items)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with fonts (with subfolders)")
    parser.add_argument("out", type=Path, help="new folder for copies of the chosen fonts")
    options = parser.parse_args()
    if options.out.exists():
        raise SystemExit(f"error: {options.out} exists; remove it, or name another folder")
    faces, shapes_FLP = find_candidates(options.folder)
    if not faces:
        raise SystemExit(f"error: {options.folder}: no font here has all capitals and digits")
    share_F = legibility(shapes_FLP)
    options.out.mkdir(parents=True)
    rows = []
    for i in choose(faces, share_F):
        face = faces[i]
        digest = hashlib.blake2b(face.path.read_bytes(), digest_size=4).hexdigest()
        name = f"{face.path.stem}-{digest}{face.path.suffix.lower()}"
        shutil.copyfile(face.path, options.out / name)
        rows.append({"file": name, "family": face.family, "style": face.style, "legibility": round(share_F[i], 3)})
    (options.out / "fonts.json").write_text(json.dumps(rows, indent=1) + "\n")
    families = len({row["family"] for row in rows})
    print(f"{len(faces)} different fonts; kept {len(rows)} of {families} families in {options.out}")


if __name__ == "__main__":
    main()
