#!/usr/bin/env bash
# rapidocr stretches crops of words under 30 pixels' height before its recogniser sees them, also without a detector.
#
# Expected: with use_det=False a crop goes to the recogniser as it is, which resizes it and keeps its aspect ratio.
# Seen:     its sides are first enlarged to at least 30 and rounded to multiples of 32: 47 x 29 pixels become 64 x 32,
#           a quarter wider in proportion. With Global.use_preprocess_img off they stay as they are.
# So:       turn that off where its recogniser alone is measured or used on small words.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check rapidocr==3.10.0 onnxruntime==1.32.0
environment/bin/python -c '
from importlib.metadata import version

import numpy as np
from rapidocr import RapidOCR
from rapidocr.ch_ppocr_rec import TextRecognizer

recognise = TextRecognizer.__call__
crop = np.full((29, 47, 3), 255, np.uint8)
for on, expected in ((True, (32, 64)), (False, (29, 47))):
    engine, seen = RapidOCR(params={"Global.use_preprocess_img": on, "Global.log_level": "error"}), []

    def watched(self, given):
        images = given.img if isinstance(given.img, list) else [given.img]
        seen.extend(image.shape[:2] for image in images)
        return recognise(self, given)

    TextRecognizer.__call__ = watched
    engine(crop, use_det=False, use_cls=False, use_rec=True)
    name = version("rapidocr")
    print(f"rapidocr {name}, use_preprocess_img {on}: the recogniser gets {seen[0][1]} x {seen[0][0]} of 47 x 29 pixels")
    assert seen == [expected], "the behaviour has changed"
'
