#!/usr/bin/env bash
# The image feature of tensorflow-datasets, read without TensorFlow, gives other pixels than photographs show.
#
# Expected: `Image(shape=(None, None, 3))`, dtype uint8, is RGB as a viewer shows it.
# Seen:     the orientation in EXIF is ignored, and 16-bit grey keeps its low byte: 0x1234 becomes 0x34.
# So:       read word images with SkipDecoding, and decode the bytes with one's own decoder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m pip install --quiet --disable-pip-version-check --target packages \
  tensorflow-datasets==4.9.10 pillow==12.3.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
PYTHONPATH=packages python3 -c '
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

feature = tfds.features.Image(shape=(None, None, 3))
turned, exif = io.BytesIO(), Image.Exif()
exif[0x0112] = 6
Image.new("RGB", (40, 10), "white").save(turned, "JPEG", exif=exif)
found = feature.decode_example_np(turned.getvalue())
print(f"tensorflow-datasets {tfds.__version__}: 40 x 10 pixels to be turned by 90 degrees come as {found.shape}")
assert found.shape == (10, 40, 3), "the behaviour has changed"
deep = io.BytesIO()
Image.fromarray(np.full((4, 4), 0x1234, np.uint16)).save(deep, "PNG")
found = feature.decode_example_np(deep.getvalue())
print(f"16-bit grey 0x1234 comes as {found.dtype} {hex(int(found[0, 0, 0]))}")
assert found.dtype == np.uint8 and found[0, 0, 0] == 0x34, "the behaviour has changed"
'
