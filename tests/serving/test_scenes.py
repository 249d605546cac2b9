"""POST /scenes: what a SceneReader reads, in the batches of everybody, whatever detector finds the words."""

import asyncio

import httpx
import numpy as np
import pytest

from maerec_jax.scenes.regions import LARGE, Region
from maerec_jax.scenes.scene_reader import SceneReader
from maerec_jax.serving.app import make_app
from maerec_jax.serving.limits import Limits
from maerec_jax.serving.scenes import Scenes
from maerec_jax.serving.service import Service
from tests.serving.conftest import client_of, form, patient, png, until


class Tiles:
    """Finds a word in each 16 rows of a picture, as wide as it is."""

    def detect(self, image_HWC):
        height, width = image_HWC.shape[:2]
        return [
            Region(np.array([(0, y), (width, y), (width, y + 16), (0, y + 16)], np.float32), 0.5 + y / 1e4)
            for y in range(0, height - 15, 16)
        ]


def run_with_scenes(recognizer, use, limits=None):
    async def run():
        service = Service(recognizer, patient(limits))
        scenes = Scenes(service, Tiles())
        service.batcher.start()
        try:
            await asyncio.wrap_future(service.batcher.warm)
            transport = httpx.ASGITransport(make_app(service, scenes))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                await use(client, service, scenes)
        finally:
            await asyncio.to_thread(service.close)

    asyncio.run(run())


@pytest.fixture(scope="module")
def pictures():
    draw = np.random.default_rng(3)
    return [png(draw.integers(0, 256, (rows, 60, 3), np.uint8)) for rows in (16, 400, 80, 10)]


def test_scenes_are_read_as_by_the_scene_reader(recognizer, pictures, files, expected):
    reader = SceneReader(recognizer, Tiles())
    scenes = [reader.read(picture) for picture in pictures]
    assert [len(scene.words) for scene in scenes] == [1, 25, 5, 0]

    async def use(client, service, _):
        sent = form(*pictures, b"<html>")
        response, *words = await asyncio.gather(
            client.post("/scenes", files=sent), *(client.post("/words", files=form(file)) for file in files[:8])
        )
        assert response.status_code == 200
        *read, broken = response.json()["results"]
        for result, scene in zip(read, scenes, strict=True):
            described = scene.described()
            assert (result["width"], result["height"]) == (described["width"], described["height"])
            for found, word in zip(result["words"], described["words"], strict=True):
                for name in ("polygon", "detection_confidence", "text", "turns"):
                    assert found[name] == word[name]
                assert found["confidence"] == pytest.approx(word["confidence"], abs=1e-5)
        assert "web page" in broken["error"]["reason"]
        for answer, word in zip(words, expected, strict=False):
            assert answer.json()["results"][0]["text"] == word.text
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert "SceneReadings" in str(paths["/scenes"])
        assert service.buffer.taken == 0

    run_with_scenes(recognizer, use)


def test_too_many_scenes_are_refused(gated, pictures, files):
    async def use(client, service, scenes):
        gated.gate.clear()
        held = asyncio.create_task(client.post("/scenes", files=form(*pictures[:2])))
        await until(lambda: service.batcher.waiting() > 0)
        refused = await client.post("/scenes", files=form(pictures[0]))
        assert (refused.status_code, refused.json()["code"]) == (503, "scenes_full")
        assert (await client.post("/scenes", files=form(*pictures[:3]))).status_code in (413, 503)
        words = asyncio.create_task(client.post("/words", files=form(files[0])))
        await until(lambda: service.images.taken == 1)
        gated.gate.set()
        assert (await held).status_code == (await words).status_code == 200
        assert (await client.post("/scenes", files=form(*pictures[:3]))).json()["code"] == "too_many_images"
        assert scenes.places.taken == 0

    run_with_scenes(gated, use, Limits(scenes=2))


def test_without_a_detector_there_are_no_scenes(recognizer):
    assert "/scenes" not in make_app(Service(recognizer)).openapi()["paths"]


def test_who_sends_scenes_to_a_service_of_words_hears_how_they_are_read(recognizer, files):
    """Its body is not looked at; and a word as large as a scene is read, with a note."""

    async def run():
        async with client_of(recognizer) as (client, service):
            refused = await client.post("/scenes", files=form(*files))
            assert (refused.status_code, refused.json()["code"]) == (404, "no_detector")
            assert "--detect" in refused.json()["reason"]
            assert refused.headers["Connection"] == "close"
            assert 'maerec_refused_total{code="no_detector"} 1.0' in (await client.get("/metrics")).text
            large, small = (png(np.full((LARGE - less, LARGE, 3), 99, np.uint8)) for less in (0, 1))
            results = (await client.post("/words", files=form(large, small))).json()["results"]
            assert results[0]["text"] is not None
            assert "at least 400 pixels high and wide" in results[0]["note"]
            assert "/scenes" in results[0]["note"]
            assert "--detect" in results[0]["note"]
            assert results[1]["note"] is None
            assert service.images.taken == 0

    asyncio.run(run())
