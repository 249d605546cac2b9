#!/usr/bin/env bash
# Pillow and OpenCV do not agree on how a photograph whose orientation is in XMP alone is to be turned.
#
# Expected: a decoder that turns images by their metadata does so wherever the same tag stands, or tells.
# Seen:     Pillow's exif_transpose turns a PNG and a JPEG by tiff:Orientation in XMP, where there is no EXIF;
#           OpenCV's imdecode, which turns by EXIF, does not. Nothing is said by either.
# So:       read sizes and pixels by one rule (here EXIF alone), whichever library decodes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m pip install --quiet --disable-pip-version-check --target packages \
  pillow==12.3.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
PYTHONPATH=packages python3 -c '
import io

import cv2
import numpy as np
import PIL
from PIL import Image, ImageOps, PngImagePlugin

xmp = (
    "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">"
    "<rdf:Description rdf:about=\"\" xmlns:tiff=\"http://ns.adobe.com/tiff/1.0/\" tiff:Orientation=\"6\"/>"
    "</rdf:RDF></x:xmpmeta>"
)
image, exif = Image.new("RGB", (40, 10), "white"), Image.Exif()
exif[0x0112] = 6
text = PngImagePlugin.PngInfo()
text.add_itxt("XML:com.adobe.xmp", xmp)
ways = {
    ("PNG", "EXIF"): {"exif": exif}, ("PNG", "XMP"): {"pnginfo": text},
    ("JPEG", "EXIF"): {"exif": exif}, ("JPEG", "XMP"): {"xmp": xmp.encode()},
}
print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}: 40 x 10 pixels, to be turned by 90 degrees")
for (form, place), options in ways.items():
    file = io.BytesIO()
    image.save(file, form, **options)
    pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).size
    opencv = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR).shape[1::-1]
    print(f"{form} with orientation 6 in {place}: Pillow {pillow}, OpenCV {opencv}")
    assert pillow == (10, 40), "the behaviour has changed"
    assert opencv == ((10, 40) if place == "EXIF" else (40, 10)), "the behaviour has changed"
'
