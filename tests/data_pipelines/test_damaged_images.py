"""Every kind of damaged or unusual image file has one decided outcome: these pixels, or a refusal with its reason."""

import base64
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines.images.decoding import DecodeError, decode_image

HEIGHT, WIDTH = 24, 60


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def picture():
    """A smooth uint8 RGB picture without symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([4 * x, 10 * y, 255 - 2 * (x + y)]).astype(np.uint8)


def refusal(data, **options):
    with pytest.raises(DecodeError) as error:
        decode_image(data, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


WHOLE = {
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_an_image_without_its_end_is_refused_wherever_it_is_cut(picture, kind):
    format, options = WHOLE[kind]
    data = encode(Image.fromarray(picture), format, **options)
    assert decode_image(data).shape == picture.shape
    # What ends these is not their pixels: a mark of the end, or a TIFF's directory. OpenCV may do without a JPEG's.
    spare = {"JPEG": 3, "GIF": 3, "TIFF": 600}.get(format, 1)
    for size in {*range(1, 100, 7), *np.linspace(100, len(data) - spare, 20).astype(int).tolist()}:
        assert refusal(data[:size])


def test_of_a_jpeg_without_its_end_no_pixel_is_made_up():
    for picture in np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8) // 8:
        data = encode(Image.fromarray(picture), "JPEG")
        for missing in (1, 2, 3, 10):
            try:
                image = decode_image(data[:-missing])
            except DecodeError:
                continue
            np.testing.assert_array_equal(image, decode_image(data))


def test_a_png_chunk_that_claims_gigabytes_is_refused_at_once(picture, monkeypatch):
    data = bytearray(encode(Image.fromarray(picture), "PNG"))
    place = data.index(b"IDAT") - 4
    data[place] = 0xFF
    monkeypatch.setattr(cv2, "imdecode", None)
    assert refusal(bytes(data)) == "it is a truncated PNG"


def test_a_jpeg_that_ends_early_on_purpose_is_decoded(picture):
    """It has its end mark, so that nothing tells that data are missing: as OpenCV fills it up."""
    data = encode(Image.fromarray(picture), "JPEG")
    assert decode_image(data[: len(data) * 9 // 10] + b"\xff\xd9").shape == picture.shape


FOREIGN = {
    b"": "the file is empty",
    b"<!DOCTYPE html><html><body>404</body></html>": "it is a web page or XML, not an image",
    b"\xef\xbb\xbf\n <?xml version='1.0'?><Error/>": "it is a web page or XML, not an image",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "it is text, not an image",
    b"\x00\x00\x00\x1cftypavif": "it is an AVIF image, which is not read: save it as PNG or JPEG",
    b"\x00\x00\x00\x18ftypheic": "it is a HEIC image, which is not read: save it as PNG or JPEG",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "it is a JPEG 2000 image, which is not read: save it as PNG or JPEG",
    bytes(100): "it is not an image, or its header is damaged",
    b"%PDF-1.7\n\xff\xff": "it is a PDF, not an image: save its pages as PNG or JPEG",
    b"%PDF-1.4\n1 0 obj\n": "it is a PDF, not an image: save its pages as PNG or JPEG",
    b"\xff\xd8\xff\xe0": "it is not an image, or its header is damaged",
}


@pytest.mark.parametrize("data", FOREIGN)
def test_what_is_no_image_is_told_by_what_it_is(data):
    assert refusal(data) == FOREIGN[data]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb():
    """50,000 x 50,000 pixels of one bit: 300 MB, in 300 KB."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(6251 * 500)) for _ in range(100)) + rows.flush()
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# Where the size stands in a file, and how.
SIZES = {"JPEG": (b"\xff\xc0", 5, ">HH"), "BMP": (b"BM", 18, "<ii"), "GIF": (b"GIF", 6, "<HH")}


@pytest.mark.parametrize("format", SIZES)
def test_a_forged_size_is_refused_by_the_header(picture, format):
    data = bytearray(encode(Image.fromarray(picture), format))
    mark, offset, form = SIZES[format]
    struct.pack_into(form, data, data.index(mark) + offset, 50_000, 50_000)
    assert any(text in refusal(bytes(data)) for text in ("50000 x 50000 pixels", "too large"))


def test_a_small_file_with_billions_of_pixels_is_refused_by_its_header(monkeypatch):
    data = png_bomb()
    assert len(data) < 400_000
    monkeypatch.setattr(cv2, "imdecode", None)
    assert refusal(data) == "50000 x 50000 pixels are more than 50000000"
    place = data.index(b"IDAT") - 4
    transparent = data[:place] + chunk(b"tRNS", b"\0\0") + data[place:]  # these are read by Pillow
    assert "too large" in refusal(transparent)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "GIF"])
def test_the_limit_holds_for_every_decoder(picture, format):
    transparent = Image.fromarray(np.dstack([picture, picture[..., 0]]))
    assert refusal(encode(transparent, format), max_pixels=1000) == "60 x 24 pixels are more than 1000"


def assert_close(data, expected, most=0):
    image = decode_image(data)
    difference = np.abs(image.astype(int) - np.asarray(expected))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert difference.max() <= most


def png_chunks(data):
    place = 8
    while place < len(data):
        stop = place + 12 + int.from_bytes(data[place : place + 4], "big")
        yield data[place:stop]
        place = stop


def test_nothing_is_printed_of_pngs_and_their_extras_do_not_count(picture, capfd):
    head, *rest = png_chunks(encode(Image.fromarray(picture), "PNG"))
    gamma, profile = chunk(b"gAMA", struct.pack(">I", 10_000)), chunk(b"iCCP", b"odd\0\0" + zlib.compress(bytes(200)))
    for extras in (
        [gamma],
        [profile],
        [profile[:-1] + b"?"],
        [chunk(b"tIME", b"")],
        [chunk(b"sBIT", b"\0\0\0"), gamma],
    ):
        assert_close(b"\x89PNG\r\n\x1a\n" + b"".join([head, *extras, *rest]), picture)
    for name in (b"IHDR", b"IDAT"):
        data = bytearray(encode(Image.fromarray(picture), "PNG"))
        data[data.index(name) + 5] ^= 1
        assert refusal(bytes(data)) == "it is a damaged PNG (a checksum is wrong)"
    data = encode(Image.fromarray(picture), "PNG")
    assert_close(data[:-1] + b"?", picture)  # of the end, where no pixels are
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_cmyk_jpegs_have_the_colours_that_pillow_gives_them(picture, options):
    cmyk = Image.fromarray(picture).convert("CMYK")
    data = encode(cmyk, "JPEG", quality=100, subsampling=0, **options)
    assert b"Adobe" in data  # whose values are inverted
    assert_close(data, Image.open(io.BytesIO(data)).convert("RGB"), most=2)
    assert_close(data, picture, most=12)


def test_ycck_jpegs_have_the_colours_that_pillow_gives_them(picture):
    """Pillow writes none: what would be CMY is made YCbCr, and the Adobe mark says so."""
    inks = np.dstack([255 - picture, np.full((HEIGHT, WIDTH), 30, np.uint8)])
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    stored = Image.fromarray(np.dstack([255 - ycc, inks[..., 3]]), mode="CMYK")
    data = bytearray(encode(stored, "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    opened = Image.open(io.BytesIO(bytes(data)))
    assert opened.info["adobe_transform"] == 2
    assert_close(bytes(data), opened.convert("RGB"), most=3)
    assert_close(bytes(data), Image.fromarray(inks, mode="CMYK").convert("RGB"), most=14)


# 16 x 8 pixels, made with jpegtran -arithmetic from a baseline JPEG; the mean colour tells that it was decoded.
ARITHMETIC = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4z
NDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/yQARCAAIABADASIAAhEB
AxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwCqYuaNAh7q2xqs89sJSMo9z2sOKCt8YcCp3NcgQP/Z
"""


def test_arithmetic_jpegs_are_decoded():
    data = base64.b64decode(ARITHMETIC)
    image = decode_image(data)
    assert image.shape == (8, 16, 3)
    assert image.std() > 10
    assert_close(data, Image.open(io.BytesIO(data)).convert("RGB"))


def test_deep_samples_keep_their_high_byte(picture):
    deep = picture.astype(np.uint16) * 256 + 77
    assert_close(cv2.imencode(".png", deep[..., ::-1])[1].tobytes(), picture)
    grey = np.dstack([picture[..., 0]] * 3)
    for format in ("PNG", "TIFF"):
        assert_close(encode(Image.fromarray(deep[..., 0]), format), grey)
    assert_close(cv2.imencode(".tiff", deep[..., ::-1])[1].tobytes(), picture)
    for samples in (np.float32, np.int32):
        data = encode(Image.fromarray(picture[..., 0].astype(samples)), "TIFF")
        assert refusal(data) == "its samples have 32 bits; save it with 8 or 16"


def test_few_bits_and_palettes_become_rgb(picture):
    for mode, formats in (("1", ("PNG", "TIFF", "BMP")), ("L", ("JPEG", "WEBP", "GIF")), ("P", ("PNG", "GIF", "BMP"))):
        image = Image.fromarray(picture).convert(mode)
        for format in formats:
            options = {"lossless": True} if format == "WEBP" else {}
            assert_close(encode(image, format, **options), image.convert("RGB"), most=3 if format == "JPEG" else 0)
    fax = Image.fromarray(picture).convert("1")
    assert_close(encode(fax, "TIFF", compression="group4"), fax.convert("RGB"))
    cmyk = Image.fromarray(picture).convert("CMYK")
    assert_close(encode(cmyk, "TIFF"), picture, most=1)


def word(color, hidden=(0, 0, 0), edge=128):
    """RGBA: a bar of ``color`` with soft ends on a transparent background whose colour is ``hidden``."""
    image = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    image[..., :3] = hidden
    image[8:16, 10:50] = (*color, 255)
    image[8:16, [9, 50]] = (*color, edge)
    return image


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (200, 30, 60)])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparent_words_are_laid_on_what_shows_them(format, hidden):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    for color, background in (((0, 0, 0), 255), ((40, 20, 90), 255), ((255, 255, 255), 0), ((250, 240, 120), 0)):
        image = word(color, hidden)
        expected = np.full((HEIGHT, WIDTH, 3), background, np.uint8)
        expected[8:16, 10:50] = color
        expected[8:16, [9, 50]] = np.rint(np.array(color) * 128 / 255 + background * 127 / 255)
        assert_close(encode(Image.fromarray(image), format, **options), expected, most=1)


def test_transparency_of_every_kind_is_seen():
    image = word((20, 20, 20), edge=255)
    expected = np.where(image[..., 3:] > 0, image[..., :3], 255)
    grey = Image.fromarray(np.dstack([image[..., 0], image[..., 3]]))
    palette = Image.fromarray(image[..., 0]).convert("P")
    palette.info["transparency"] = 0
    for data in (encode(grey, "PNG"), encode(palette, "PNG", transparency=0), encode(palette, "GIF", transparency=0)):
        assert_close(data, expected)
    color = Image.fromarray(image[..., :3])
    assert_close(encode(color, "PNG", transparency=(0, 0, 0)), expected)


def test_opaque_and_invisible_images_keep_their_colours(picture):
    for alpha in (255, 0):
        image = np.dstack([picture, np.full((HEIGHT, WIDTH), alpha, np.uint8)])
        assert_close(encode(Image.fromarray(image), "PNG"), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_followed(picture, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(Image.fromarray(picture), format, exif=exif, **options)
    assert_close(data, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert decode_image(data).shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken(picture, format):
    first, second = (Image.fromarray(image).quantize(16).convert("RGB") for image in (picture, 255 - picture))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(first, format, save_all=True, append_images=[second], **options)
    assert_close(data, first)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_the_smallest_images_are_decoded(shape, format):
    image = Image.fromarray(np.full((*shape, 3), 77, np.uint8))
    assert_close(encode(image, format), np.full((*shape, 3), 77), most=2)


def samples(picture):
    """A small file of every kind that a decoder may meet."""
    image, transparent = Image.fromarray(picture), Image.fromarray(np.dstack([picture, picture[..., 0]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield from (encode(image, format) for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"))
    yield from (encode(transparent, format) for format in ("PNG", "WEBP", "TIFF", "GIF"))
    yield encode(image, "JPEG", progressive=True, exif=exif)
    yield encode(image.convert("CMYK"), "JPEG")
    yield encode(image.quantize(16), "PNG", transparency=3)
    yield encode(image, "TIFF", compression="tiff_lzw", exif=exif)
    yield encode(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    yield encode(image, "WEBP", lossless=True, exif=exif)
    yield base64.b64decode(ARITHMETIC)


def mutated(data, rng):
    """``data`` with some bytes changed, removed, repeated or cut off, mostly near its start."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place = rng.integers(min(len(damaged), 200) if rng.random() < 0.7 else len(damaged))
        match rng.integers(5):
            case 0:
                damaged[place] ^= 1 << rng.integers(8)
            case 1:
                damaged[place] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                damaged[place : place + rng.integers(1, 30)] = b""
            case 3:
                damaged[place:place] = damaged[place : place + rng.integers(1, 30)]
            case 4:
                damaged = damaged[: max(place, 1)] if rng.random() < 0.3 else damaged
        damaged = damaged or bytearray(b"\0")
    return bytes(damaged)


def test_mutated_images_are_refused_or_decoded_but_never_another_error(picture):
    rng = np.random.default_rng(0)
    outcomes = set()
    for data in samples(picture):
        decode_image(data)
        for _ in range(300):
            try:
                image = decode_image(mutated(data, rng), max_pixels=10**6)
            except DecodeError:
                outcomes.add("refused")
                continue
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.size
            outcomes.add("decoded")
    assert outcomes == {"refused", "decoded"}
