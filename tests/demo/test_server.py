"""The server: it takes nothing but uploads, asks nobody, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import pytest
from PIL import Image

from data_pipelines.errors import UserError
from maerec_jax.demo_page.server import own_folder
from maerec_jax.demo_page.uploads import Limits
from tests.demo.conftest import FOLDERS, draw_word, served, unbroken  # noqa: F401


def test_the_folder_goes_away_whatever_happens(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def serve_until_terminated():
        with own_folder() as folder:
            assert os.environ["GRADIO_TEMP_DIR"] == tempfile.gettempdir() == str(folder)
            (folder / "upload.png").write_bytes(b"1")
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    try:
        with pytest.raises(KeyboardInterrupt):
            serve_until_terminated()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not list(tmp_path.iterdir())


NAMING = """
import asyncio, sys, tempfile
from pathlib import Path
from maerec_jax.demo_page.desk import Desk
from maerec_jax.demo_page.page import build_page
from maerec_jax.demo_page.server import make_app
from maerec_jax.demo_page.uploads import Limits
from maerec_jax.weights.finding import load_recognizer
import gradio.processing_utils

async def fetch(url, **options):
    print("asked", url)
    return str(folder / "a.png")

folder = Path(sys.argv[2])
gradio.processing_utils.async_ssrf_protected_download = fetch
page = build_page(Desk(load_recognizer(sys.argv[1])), Limits(), folder)
take = next(one for one in page.fns.values() if one.targets[0][1] == "upload" and one.fn)
named = {"path": "https://example.org/a.png", "meta": {"_type": "gradio.FileData"}}
for _ in range(2):
    try:
        asyncio.run(page.preprocess_data(take, [named, "word", 1, "box", "", "", ""], None))
    except ValueError as error:
        print("refused", error)
    make_app(page, Limits(), folder)
"""


def test_the_server_asks_no_host_that_a_request_names(unbroken, tmp_path):  # noqa: F811
    # In a process of its own: Gradio leaves event loops open.
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", NAMING, str(unbroken), str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # What Gradio does by itself, and then not any more.
    assert run.stdout.splitlines() == [
        "asked https://example.org/a.png",
        "refused files are uploaded, never named",
    ]


def ask(address, body):
    """What Gradio's queue answers to a request that no page has made."""
    request = urllib.request.Request(
        address + "gradio_api/queue/join", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={body['session_hash']}") as answers:
        for line in answers:
            if line.startswith(b"data: ") and json.loads(line[6:])["msg"] == "process_completed":
                return json.loads(line[6:])
    return None


def test_the_server_opens_no_files_that_a_request_names(address, tmp_path):
    with urllib.request.urlopen(address + "config") as answer:
        config = json.load(answer)
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
    uploads = [one for one in config["dependencies"] if [target[1] for target in one["targets"]] == ["upload"]]
    take = next(one for one in uploads if one["backend_fn"])
    Image.fromarray(draw_word("secret")).save(tmp_path / "secret.png")
    values = [None, "word", 1, "box", "", "", ""]
    for number in range(len(values)):
        named = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
        data = [named if i == number else value for i, value in enumerate(values)]
        body = {"data": data, "event_data": {**named, "name": "secret.png"}, "fn_index": take["id"]}
        answer = ask(address, body | {"session_hash": f"named{number}", "trigger_id": take["targets"][0][0]})
        assert not answer["success"] or answer["output"]["data"][0] is None
    with pytest.raises(urllib.error.HTTPError, match=r"40[34]") as refused:
        urllib.request.urlopen(f"{address}gradio_api/file={tmp_path}/secret.png")
    refused.value.close()
    assert not [*FOLDERS[address].rglob("secret.png")]
    for named in ("file=http://127.0.0.1:9/a.png", "proxy=https://example.org/a.png"):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(f"{address}gradio_api/{named}")
        assert refused.value.read() == b"addresses are not fetched"


def upload(address, *files, **headers):
    """The status of an upload that no page has made."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n%b\r\n' % each
        for each in enumerate(files)
    ]
    body = b"".join(parts) + b"--b--\r\n"
    sent = {"content-type": "multipart/form-data; boundary=b"} | {n.replace("_", "-"): h for n, h in headers.items()}
    request = urllib.request.Request(address + "gradio_api/upload", body, sent)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_uploads_are_bounded_together_and_come_from_the_page(unbroken, tmp_path):  # noqa: F811
    def kept():
        return [path for path in tmp_path.rglob("*.png") if path.is_file()]

    flags = ("--max-megabytes", "1", "--max-kept-megabytes", "2", "--no-scenes")
    with served(unbroken, tmp_path, *flags) as (process, url):
        assert upload(url, b"1" * 700_000, sec_fetch_site="cross-site") == 403
        assert upload(url, b"1" * 700_000, b"2" * 700_000) == 413
        assert not kept()
        assert upload(url, b"1" * 700_000, sec_fetch_site="same-origin") == 200
        assert upload(url, b"2" * 700_000) == 200
        assert upload(url, b"3" * 700_000) == 503
        assert len(kept()) == 2
    assert process.returncode == 0  # by SIGTERM
    assert not kept()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_requests_under_names_of_others_are_refused(address):
    """So that no page of another site has a browser read and upload here under that site's name."""
    urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "localhost:1"})).close()
    for path in ("", "config", "gradio_api/upload"):
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(urllib.request.Request(address + path, headers={"Host": "evil.example"}))
        refused.value.close()


def test_the_largest_file_has_room():
    with pytest.raises(UserError, match="max_kept_megabytes"):
        Limits(max_megabytes=30, max_kept_megabytes=20)
