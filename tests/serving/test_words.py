"""POST /words: what Recognizer reads, in order, whoever else asks; limits; damaged images; faults."""

import asyncio
import gc
import io
import random
import re
from dataclasses import replace

import httpx
import numpy as np
import PIL.Image
import pytest

from maerec_jax import Recognizer
from maerec_jax.config import UserError
from maerec_jax.serving.app import make_app
from maerec_jax.serving.limits import Limits
from maerec_jax.serving.service import Service
from tests.serving.conftest import client_of, form, png, random_recognizer, until
from tests.training.conftest import recogniser_config


def check(result, word):
    assert result["error"] is None
    assert result["text"] == word.text
    assert result["confidence"] == pytest.approx(word.confidence, abs=1e-5)
    assert result["probability"] == pytest.approx(word.probability, abs=1e-5)
    assert result["character_confidences"] == pytest.approx(list(word.character_confidences), abs=1e-5)
    assert [other["text"] for other in result["alternatives"]] == [other.text for other in word.alternatives]


def test_mixed_requests_get_what_the_recogniser_reads(recognizer, files, expected):
    assert len({word.confidence for word in expected}) == len(files)  # else it would not show who gets what

    async def run():
        async with client_of(recognizer) as (client, service):

            async def ask(seed):
                draw = random.Random(seed)
                chosen = [draw.randrange(len(files)) for _ in range(draw.choice((1, 1, 2, 5, 20)))]
                if len(chosen) == 1 and draw.random() < 0.5:
                    kind = {"Content-Type": "image/png"}
                    response = await client.post("/words", content=files[chosen[0]], headers=kind)
                    names = [""]
                else:
                    response = await client.post("/words", files=form(*[files[i] for i in chosen]))
                    names = [f"{i}.png" for i in range(len(chosen))]
                assert response.status_code == 200
                results = response.json()["results"]
                assert [result["file"] for result in results] == names
                for result, i in zip(results, chosen, strict=True):
                    check(result, expected[i])
                return len(chosen)

            images = sum(await asyncio.gather(*map(ask, range(60))))
            assert service.images.taken == service.buffer.taken == service.batcher.waiting() == 0
            page = (await client.get("/metrics")).text
            assert f'maerec_images_total{{outcome="read"}} {images:.1f}' in page
            assert 'maerec_requests_total{path="/words",status="200"} 60.0' in page
            assert f'maerec_stage_seconds_count{{stage="queue"}} {images:.1f}' in page
            assert f"maerec_batch_images_sum {images:.1f}" in page

    asyncio.run(run())


def test_alternatives_turns_and_sizes(beamed, files):
    async def run(recognizer, images):
        async with client_of(recognizer) as (client, _):
            results = (await client.post("/words", files=form(*images))).json()["results"]
        words = recognizer.read(images)
        for result, word in zip(results, words, strict=True):
            check(result, word)
            assert result["turns"] == word.turns
        return words

    assert all(word.alternatives for word in asyncio.run(run(beamed, files[:6])))
    data = recogniser_data(buckets=((32, 128), (64, 64)), turn_vertical=True)
    draw = np.random.default_rng(0)
    images = [png(draw.integers(0, 256, (*size, 3), np.uint8)) for size in ((20, 80), (40, 40), (90, 30), (50, 10)) * 3]
    words = asyncio.run(run(random_recognizer(batch_size=4, data=data), images))
    assert len(words) == 12


def recogniser_data(**changes):
    return replace(recogniser_config("").data, **changes)


def test_a_damaged_image_does_not_spoil_the_others(recognizer, files, expected):
    async def run():
        async with client_of(recognizer, Limits(max_megapixels=0.5)) as (client, _):
            large = png(np.zeros((800, 800, 3), np.uint8))
            sent = form(files[0], b"<html>", files[1], b"", large, files[2][:-20])
            response = await client.post("/words", files=sent)
            assert response.status_code == 200
            results = response.json()["results"]
            check(results[0], expected[0])
            check(results[2], expected[1])
            reasons = [result["error"]["reason"] for result in results if result["error"]]
            told = [
                "a web page",
                "file is empty",
                "800 x 800 pixels are more than 500000",
                "a truncated PNG",
            ]
            assert all(part in reason for part, reason in zip(told, reasons, strict=True))
            assert {result["error"]["code"] for result in results if result["error"]} == {"unreadable"}
            alone = await client.post("/words", content=b"<html>", headers={"Content-Type": "image/png"})
            assert alone.status_code == 422
            assert alone.json()["results"][0]["text"] is None

    asyncio.run(run())


def test_a_full_queue_refuses_and_nothing_else_breaks(gated, files, expected):
    async def run():
        async with client_of(gated, Limits(queue=6, max_images=6)) as (client, service):
            gated.gate.clear()
            accepted = [asyncio.create_task(client.post("/words", files=form(*files[i : i + 3]))) for i in (0, 3)]
            await until(lambda: service.images.taken == 6)
            for _ in range(20):
                refused = await client.post("/words", files=form(files[0]))
                assert refused.status_code == 503
                assert refused.json()["code"] == "queue_full"
                assert 1 <= int(refused.headers["Retry-After"]) <= 60
            for path in ("/health", "/ready", "/metrics"):
                assert (await client.get(path)).status_code == 200
            gated.gate.set()
            for start, task in zip((0, 3), accepted, strict=True):
                results = (await task).json()["results"]
                for result, word in zip(results, expected[start : start + 3], strict=True):
                    check(result, word)
            assert (await client.post("/words", files=form(files[0]))).status_code == 200
            assert 'maerec_refused_total{code="queue_full"} 20.0' in (await client.get("/metrics")).text
            # Some places are free, but not enough.
            gated.gate.clear()
            held = asyncio.create_task(client.post("/words", files=form(*files[:4])))
            await until(lambda: service.images.taken == 4)
            assert (await client.post("/words", files=form(*files[:3]))).status_code == 503
            gated.gate.set()
            assert (await held).status_code == 200

    asyncio.run(run())


def test_what_was_refused_is_forgotten(gated, files):
    """Nothing is kept of the requests that met a full queue, of which there may be millions."""

    async def run():
        async with client_of(gated, Limits(queue=1, max_images=1)) as (client, service):
            gated.gate.clear()
            held = asyncio.create_task(client.post("/words", files=form(files[0])))
            await until(lambda: service.images.taken == 1)

            async def objects_after(requests):
                for _ in range(requests):
                    assert (await client.post("/words", files=form(files[0]))).status_code == 503
                    await asyncio.sleep(0)  # the loop forgets its timers, but for the last hundred
                gc.collect()
                return len(gc.get_objects())

            before = await objects_after(150)
            assert await objects_after(300) < before + 300
            gated.gate.set()
            assert (await held).status_code == 200

    asyncio.run(run())


def test_limits_of_a_request(gated, files):
    async def endless():
        while True:
            yield bytes(1000)
            await asyncio.sleep(0)

    async def run():
        limits = Limits(max_images=2, queue=10, max_body_mb=0.05, buffer_mb=0.06)
        async with client_of(gated, limits) as (client, service):
            kind = {"Content-Type": "image/png"}

            async def refused(status, code, **body):
                response = await client.post("/words", **body)
                assert (response.status_code, response.json()["code"]) == (status, code)
                assert service.images.taken == service.buffer.taken == service.batcher.waiting() == 0

            await refused(413, "too_many_images", files=form(*files[:3]))
            await refused(413, "body_too_large", content=bytes(50_001), headers=kind)
            await refused(413, "body_too_large", content=endless(), headers=kind)  # without its length
            await refused(413, "body_too_large", files=form(bytes(60_000)))
            await refused(415, "unsupported_type", content=files[0], headers={"Content-Type": "text/plain"})
            await refused(415, "unsupported_encoding", content=files[0], headers=kind | {"Content-Encoding": "gzip"})

            service.limits = replace(limits, timeout=0.3)

            async def slow():
                yield files[0]
                await asyncio.sleep(60)

            await refused(408, "upload_timeout", content=slow(), headers=kind)
            both = await asyncio.gather(*(client.post("/words", content=slow_large(), headers=kind) for _ in range(2)))
            assert sorted(response.status_code for response in both) == [408, 503]
            gated.gate.clear()
            gated.reading.clear()
            await refused(504, "timeout", content=files[0], headers=kind)  # being read
            await refused(504, "timeout", files=form(*files[:2]))  # waiting
            before, service.limits = len(gated.batches), limits
            gated.gate.set()
            assert (await client.post("/words", content=files[0], headers=kind)).status_code == 200
            assert gated.batches[before:] == [1, 1]  # what waited for nobody was not read
            assert "maerec_dropped_images_total 2.0" in (await client.get("/metrics")).text

    async def slow_large():
        yield bytes(40_000)
        await asyncio.sleep(60)

    asyncio.run(run())


def test_faults_are_told_and_over(gated, files, expected, caplog):
    async def run():
        async with client_of(gated) as (client, _):
            gated.fail = True
            failed = await client.post("/words", files=form(*files[:3]))
            assert failed.status_code == 500
            errors = [result["error"] for result in failed.json()["results"]]
            assert {error["code"] for error in errors} == {"failed"}
            assert all("out of memory" not in error["reason"] for error in errors)
            assert "out of memory" in caplog.text
            gated.fail = False
            check((await client.post("/words", files=form(files[0]))).json()["results"][0], expected[0])

    asyncio.run(run())


def test_it_is_ready_after_compiling_and_until_it_stops(gated, files):
    async def run():
        gated.gate.clear()
        service = Service(gated)
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

            async def states():
                response = await client.post("/words", files=form(files[0]))
                if response.status_code != 200:
                    assert int(response.headers["Retry-After"]) >= 1
                pages = [await client.get(path) for path in ("/health", "/ready")]
                return response.status_code, *((page.status_code, page.json()["state"]) for page in pages)

            assert await states() == (503, (200, "alive"), (503, "starting"))
            service.batcher.start()
            assert await states() == (503, (200, "alive"), (503, "starting"))
            gated.gate.set()
            await asyncio.wrap_future(service.batcher.warm)
            assert await states() == (200, (200, "alive"), (200, "ready"))
            service.stopping = True
            assert await states() == (503, (200, "alive"), (503, "stopping"))
            service.stopping = False
            await asyncio.to_thread(service.batcher.close)  # as if its thread had died
            assert await states() == (503, (503, "broken"), (503, "broken"))
            await asyncio.to_thread(service.close)

    asyncio.run(run())


def test_each_image_has_its_own_words_by_its_name(recognizer, files):
    lists = {f"{i}.png": [f"word{i}"] for i in range(3)}
    listed = Recognizer(recognizer._run, recognizer._params, words=lists, batch_size=4)

    async def run():
        async with client_of(listed) as (client, _):
            results = (await client.post("/words", files=form(*files[:4]))).json()["results"]
            assert [result["text"] for result in results] == ["word0", "word1", "word2", None]
            assert "has no words for 3.png" in results[3]["error"]["reason"]

    asyncio.run(run())


def test_each_request_has_its_own_characters(recognizer, files):
    async def run():
        async with client_of(recognizer) as (client, _):
            asked = [{}, {"characters": "01"}, {"blocklist": "0123456789"}, {"characters": "0€"}]
            answers = await asyncio.gather(*(client.post("/words", files=form(files[0]), params=p) for p in asked))
        for answer, lists in zip(answers[:3], asked, strict=False):
            check(answer.json()["results"][0], recognizer.read([files[0]], **lists)[0])
        assert answers[3].status_code == 400
        assert answers[3].json() == {"code": "characters", "reason": "characters: the model cannot write '€'"}

    asyncio.run(run())


def test_the_description_fits_what_is_answered(recognizer, files):
    async def run():
        async with client_of(recognizer) as (client, _):
            described = (await client.get("/openapi.json")).json()
            answered = (await client.post("/words", files=form(files[0], b"text"))).json()
            page = await client.get("/docs")
            assert (await client.get("/", follow_redirects=True)).status_code == 200
            assert (await client.get("/nothing")).json()["code"] == "not_found"
            assert (await client.get("/words")).status_code == 405
            assert "/openapi.json" in page.text
            assert not re.search(r"https?:|[\"']//", page.text)  # it needs no other host
            for needed in re.findall(r'(?:href|src)="([^"]+)"', page.text):
                assert (await client.get(needed)).status_code == 200
        assert page.status_code == 200
        operation = described["paths"]["/words"]["post"]
        assert set(operation["requestBody"]["content"]) >= {"multipart/form-data", "image/png", "image/jpeg"}
        assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "422", "500", "503", "504"}
        schemas = described["components"]["schemas"]
        for result in answered["results"]:
            assert set(result) == set(schemas["ImageReading"]["properties"])
        for schema in schemas.values():
            assert schema["description"]
            assert all(field.get("description") for field in schema["properties"].values())
        examples = [field for field in schemas["ImageReading"]["properties"].values() if "examples" in field]
        assert len(examples) >= 4

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_images": 0}, "max_images must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"queue": 10}, "max_images 64 must not be above queue"),
        ({"buffer_mb": 1}, "max_body_mb 32.0 must not be above buffer_mb"),
        ({"max_megapixels": 51}, "at most 50"),
    ],
)
def test_limits_that_cannot_be(settings, told):
    with pytest.raises(UserError, match=told):
        Limits(**settings)


def test_pillow_and_opencv_images_are_taken(recognizer, files, tmp_path):
    """Every format that Recognizer reads."""
    image = PIL.Image.open(io.BytesIO(files[0]))
    images = []
    for form_ in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        image.save(tmp_path / "word", form_)
        images.append((tmp_path / "word").read_bytes())

    async def run():
        async with client_of(recognizer) as (client, _):
            results = (await client.post("/words", files=form(*images))).json()["results"]
            for result, word in zip(results, recognizer.read(images), strict=True):
                check(result, word)

    asyncio.run(run())
