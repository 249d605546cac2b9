"""Bodies of any kind never make the service fail, and never let it forget what it holds."""

import asyncio
import errno
import json
import random
import socket
import struct
import zlib

import numpy as np

from maerec_jax.serving.limits import Limits
from tests.serving.conftest import client_of, form, png, served

BOUNDARY = b"x1y2z3"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}


def part(data, head=b'Content-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png'):
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def whole(*parts):
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def forged_png(width, height, data=None, depth=8, color=2, extra=b""):
    """A PNG of any claimed size; its pixels are ``data``."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs():
    zeros = zlib.compress(bytes(20_000_000), 9)
    return [
        forged_png(2**31 - 1, 2**31 - 1),
        forged_png(100_000, 100_000, zeros),
        forged_png(3_000, 2_000, zeros),  # allowed by its size, and complete
        forged_png(8, 8, zeros),  # far more pixels than it says
        forged_png(0, 0),
        forged_png(1, 2_000_000, zeros),
        forged_png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zeros)),
        forged_png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zeros)),
        forged_png(8, 8, depth=16, color=6, extra=chunk(b"tRNS", b"")),
        forged_png(8, 8, color=77),
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"IHDR",
        b"\xff\xd8" + b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x03" + bytes(50),
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(30),
        b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, -1, -1, 1, 24) + bytes(40),
        b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24) + bytes(40),
        b"RIFF\xff\xff\xff\x7fWEBPVP8X" + bytes(30),
        b"II*\0\x08\0\0\0\xff\xff" + bytes(200),
    ]


def malformed(image):
    """Headers and bodies, with the statuses that they may get."""
    good = whole(part(image))
    yield MULTIPART, good[: len(good) // 2], {400}
    yield MULTIPART, good[:-8], {400}
    yield MULTIPART, b"", {400}
    yield MULTIPART, b"--" + BOUNDARY + b"--\r\n", {400}
    yield MULTIPART, good.replace(BOUNDARY, b"other"), {400}
    yield {"Content-Type": "multipart/form-data"}, good, {400}
    yield {"Content-Type": "multipart/form-data; boundary="}, good, {400}
    yield {"Content-Type": f"multipart/form-data; boundary={'b' * 5000}"}, good, {400}
    yield {"Content-Type": 'multipart/form-data; boundary="a;b=c\\""'}, good, {400}
    yield {"Content-Type": "multipart/mixed; boundary=x1y2z3"}, good, {415}
    yield {"Content-Type": "application/json"}, b"{}", {415}
    yield {"Content-Type": "application/x-www-form-urlencoded"}, b"images=1", {415}
    yield {"Content-Type": b"\xff\xfe"}, good, {415}
    yield {}, good, {415}
    yield {"Content-Type": "image/png"}, b"", {400}
    yield {"Content-Type": "image/png", "Content-Length": "-1"}, image, {200, 400}
    yield {"Content-Type": "image/png", "Content-Length": "9" * 400}, image, {413}
    yield {"Content-Type": "image/png", "X-Long": "a" * 100_000}, image, {200, 400, 431}
    yield {"Content-Type": "image/png", "Content-Encoding": "br"}, image, {415}
    yield MULTIPART, whole(part(image, b"X" * 100_000)), {400}
    yield MULTIPART, whole(part(image, b"\r\n".join(b"A%d: b" % i for i in range(5000)))), {400}
    yield MULTIPART, whole(part(image, b"Content-Disposition: attachment")), {400}
    yield MULTIPART, whole(part(image, b"")), {400}
    yield MULTIPART, whole(part(b"text", b'Content-Disposition: form-data; name="images"')), {400}
    odd = b'Content-Disposition: form-data; name="images"; filename="%s"'
    yield MULTIPART, whole(part(image, odd % b"\xff\xfe\0")), {200, 400}
    yield MULTIPART, whole(part(image, odd % b"../../etc/passwd")), {200}
    yield MULTIPART, whole(part(image, odd % (b"n" * 3000))), {200}
    yield MULTIPART, whole(*[part(b"")] * 5000), {413}
    yield MULTIPART, whole(part(b"")), {422}
    yield MULTIPART, (b"\r\n--" + BOUNDARY[:-1]) * 20_000, {400}
    for bomb in bombs():
        yield {"Content-Type": "image/png"}, bomb, {200, 422}


def test_nothing_that_is_sent_makes_it_fail(recognizer, files):
    draw = random.Random(7)
    good = whole(part(files[0]), part(files[1]), part(b"no image"))

    def mutated():
        data = bytearray(good)
        for _ in range(draw.choice((1, 1, 3, 30))):
            place = draw.randrange(len(data) + 1)
            match draw.randrange(5):
                case 0:
                    del data[place : place + draw.choice((1, 2, 50))]
                case 1:
                    data[place:place] = draw.randbytes(draw.choice((1, 4, 300)))
                case 2:
                    data[place : place + 1] = b"\r\n--" + BOUNDARY + draw.choice((b"", b"--", b"\r\n"))
                case 3:
                    data[place:] = data[place : place + len(data) // 2] * 2
                case 4:
                    data[place : place + 1] = draw.choice((b"\0", b"\r", b"\n", b'"', b";", b":", b"-"))
        return bytes(data)

    async def run():
        async with client_of(recognizer, Limits(max_megapixels=8, max_body_mb=4)) as (client, service):

            async def post(headers, body):
                response = await client.post("/words", headers=headers, content=body)
                found = json.loads(response.content)
                assert set(found) in ({"results"}, {"code", "reason"})
                assert service.images.taken == service.buffer.taken == service.batcher.waiting() == 0
                return response.status_code

            for headers, body, statuses in malformed(files[0]):
                assert await post(headers, body) in statuses, (headers, body[:100])
            seen = [await post(MULTIPART, mutated()) for _ in range(400)]
            seen += [await post(MULTIPART, draw.randbytes(draw.randrange(2000))) for _ in range(50)]
            seen += [await post({"Content-Type": "image/jpeg"}, draw.randbytes(500)) for _ in range(50)]
            assert set(seen) <= {200, 400, 413, 422}
            assert {200, 400} <= set(seen)
            assert (await client.post("/words", files=form(*files[:2]))).status_code == 200
            assert "maerec_errors_total{" not in (await client.get("/metrics")).text

    asyncio.run(run())


def test_a_body_that_comes_byte_by_byte_is_read_the_same(recognizer, files, expected):
    body = whole(part(files[0]), part(files[1]))

    async def slowly():
        for i in range(len(body)):
            yield body[i : i + 1]

    async def run():
        async with client_of(recognizer) as (client, _):
            results = (await client.post("/words", headers=MULTIPART, content=slowly())).json()["results"]
            assert [result["text"] for result in results] == [word.text for word in expected[:2]]

    asyncio.run(run())


def test_what_is_no_http_is_refused(recognizer, files):
    """On a real connection: each gets an answer other than 500, or is closed, and the next is served."""
    image = png(np.zeros((8, 8, 3), np.uint8))
    head = b"POST /words HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    sent = [
        b"\0" * 1000,
        b"GET / nothing\r\n\r\n",
        b"POST /words HTTP/1.1\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n",
        head + b"Content-Length: nine\r\n\r\n" + image,
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + image,
        head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffff\r\nabc",
        head + b"Content-Length: %d\r\n\r\n" % (len(image) + 10) + image,  # and hangs up
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",  # TLS
    ]
    with served(recognizer) as (address, _, service):
        for data in sent:
            with socket.create_connection(address, 60) as connection:
                answer = b""
                try:
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    while more := connection.recv(4096):
                        answer += more
                except OSError as error:  # the other side was faster: ENOTCONN is none of the ConnectionErrors
                    if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                        raise
                assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), (data[:80], answer[:80])
        with socket.create_connection(address, 60) as connection:
            connection.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(files[0]) + files[0])
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        assert service.images.taken == service.buffer.taken == 0
