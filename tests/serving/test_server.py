"""Real connections: disconnects free their places, a stop finishes what was accepted, the command says what it does."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from data_pipelines.command import run_command
from maerec_jax import serve
from maerec_jax.config import UserError
from maerec_jax.serving.app import make_app
from maerec_jax.serving.connections import allowed_hosts, listen
from maerec_jax.serving.limits import Limits
from maerec_jax.serving.server import Server
from maerec_jax.serving.service import Service
from tests.conftest import REPOSITORY
from tests.serving.conftest import form, served


def url(address):
    return f"http://{address[0]}:{address[1]}"


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def posted(body, length=None):
    """The bytes of a request."""
    head = (
        f"POST /words HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(address, body, length=None):
    """Send a request without waiting for the response."""
    connection = socket.create_connection(address, 60)
    connection.sendall(posted(body, length))
    return connection


def test_who_hangs_up_frees_the_places(gated, files, expected):
    with served(gated, Limits(queue=64)) as (address, _, service):
        gated.gate.clear()
        gated.reading.clear()
        connections = [send(address, files[0])]
        assert gated.reading.wait(60)
        connections += [send(address, files[i]) for i in range(1, 9)]
        wait_until(lambda: service.batcher.waiting() == 8)
        uploading = send(address, files[0][:20], 1000)
        held = sum(map(len, files[:9]))
        wait_until(lambda: service.buffer.taken == held + 20 and service.images.taken == 9)
        uploading.close()
        wait_until(lambda: service.buffer.taken == held)
        for connection in connections[1:8]:
            connection.close()
        wait_until(lambda: service.batcher.waiting() == 1 and service.images.taken == 2)
        before = len(gated.batches)
        gated.gate.set()
        assert connections[8].recv(100).startswith(b"HTTP/1.1 200")
        assert gated.batches[before:] == [1, 1]
        page = httpx.get(url(address) + "/metrics", trust_env=False).text
        assert "maerec_dropped_images_total 7.0" in page
        wait_until(lambda: service.images.taken == service.buffer.taken == 0)
        for connection in (connections[0], connections[8]):
            connection.close()


def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest(gated, files, expected):
    with served(gated) as (address, server, service):
        gated.gate.clear()
        answers = {}

        def ask(i):
            answers[i] = httpx.post(url(address) + "/words", files=form(files[i]), timeout=60, trust_env=False)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.images.taken == 8)
        # Its body is not complete when the service stops: it was not accepted.
        late = send(address, files[0][:20], len(files[0]))
        wait_until(lambda: service.buffer.taken > sum(map(len, files[:8])))
        wait_until(lambda: len(server.server_state.connections) == 9)
        server.handle_exit(signal.SIGTERM, None)
        late.sendall(files[0][20:])
        assert late.recv(100).startswith(b"HTTP/1.1 503")
        late.close()
        wait_until(lambda: refused(address))
        assert not answers
        gated.gate.set()
        for thread in threads:
            thread.join(60)
        for i, response in answers.items():
            assert response.status_code == 200
            assert response.json()["results"][0]["text"] == expected[i].text
        assert len(answers) == 8
    assert not service.batcher.alive


def refused(address):
    try:
        socket.create_connection(address, 60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_large_body_is_refused_before_it_is_sent(recognizer):
    """The response comes at once, and the rest that is sent nonetheless does not tear it off."""
    with served(recognizer, Limits(max_body_mb=1)) as (address, _, service):
        with send(address, b"", 10**12) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        response = httpx.post(
            url(address) + "/words", content=bytes(1_900_000), headers={"Content-Type": "image/png"}, trust_env=False
        )
        assert response.status_code == 413
        assert response.headers["Connection"] == "close"
        assert service.buffer.taken == 0


def test_connections_that_send_nothing_are_closed(recognizer, files, monkeypatch):
    monkeypatch.setattr("maerec_jax.serving.server._HEAD_SECONDS", 0.2)
    with served(recognizer) as (address, _, _):
        with socket.create_connection(address, 60) as silent, socket.create_connection(address, 60) as half:
            half.sendall(b"POST /words HTTP/1.1\r\nHost: a\r\n")
            assert silent.recv(100) == half.recv(100) == b""
        with send(address, files[0]) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_more_connections_than_it_holds(recognizer, files):
    """On those beyond, images are refused in its own form and counted; how it is can still be asked."""
    with served(recognizer, Limits(connections=2)) as (address, server, _):

        def ask(method, path, **body):
            return httpx.request(method, url(address) + path, trust_env=False, timeout=60, **body)

        with socket.create_connection(address, 60) as first, socket.create_connection(address, 60):
            wait_until(lambda: len(server.server_state.connections) == 2)
            refused = ask("POST", "/words", files=form(files[0]))
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert "2 connections are open" in refused.json()["reason"]
            assert [ask("GET", path).status_code for path in ("/health", "/ready")] == [200, 200]
            assert 'maerec_refused_total{code="too_many_connections"} 1.0' in ask("GET", "/metrics").text
            # Those that were there before are served.
            first.sendall(posted(files[0]))
            assert first.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not server.server_state.connections)
        assert ask("POST", "/words", files=form(files[0])).status_code == 200


def test_requests_under_names_of_others_are_refused(recognizer, files):
    """So that no page of another site has a browser ask for it under that site's name."""
    hosts = allowed_hosts(["words.example.org"], "127.0.0.1", ("127.0.0.1", 8000))

    async def run():
        transport = httpx.ASGITransport(make_app(Service(recognizer), hosts=hosts))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            for host in ("127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]:8000", "words.example.org"):
                assert (await client.get("/health", headers={"Host": host})).status_code == 200, host
            for host in ("evil.example", "words.example.org.evil.example", "127.0.0.1.evil.example:8000", "", "a b"):
                for method, path in (("GET", "/metrics"), ("POST", "/words")):
                    assert (await client.request(method, path, headers={"Host": host})).status_code == 400, host

    asyncio.run(run())


def test_who_can_reach_it_is_told(capsys):
    assert "evil.example" not in allowed_hosts([], "127.0.0.1", ("127.0.0.1", 8000))
    assert {"[::1]", "me.lan"} < set(allowed_hosts([], "me.lan", ("::1", 8000, 0, 0)))
    assert "*" not in allowed_hosts([], "::1", ("::1", 8000, 0, 0))
    assert capsys.readouterr().err == ""
    assert allowed_hosts([], "0.0.0.0", ("0.0.0.0", 8000)) == ["*"]  # it cannot know its names
    assert capsys.readouterr().err.startswith("note: there is no password: anyone who can reach this address")
    named = allowed_hosts(["*.example.org"], "me.lan", ("192.0.2.1", 8000))
    assert {"*.example.org", "192.0.2.1", "me.lan", "localhost"} <= set(named)
    assert "*" not in named


def test_compiling_that_fails_ends_the_server(gated):
    gated.fail = True
    server = Server(Service(gated))
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(server.run_until_stopped(listen("127.0.0.1", 0, 8)))


def test_addresses_that_cannot_be_used():
    with listen("127.0.0.1", 0, 8) as taken, pytest.raises(UserError, match="Address already in use"):
        listen("127.0.0.1", taken.getsockname()[1], 8)
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0, 8)
    with pytest.raises(UserError, match="cannot listen on no host"):
        listen("no host", 0, 8)
    with pytest.raises(UserError, match="port must be 0 to 65535, not 70000"):
        listen("127.0.0.1", 70_000, 8)


def test_the_command_serves_until_a_signal(recognizer, files, expected, tmp_path):
    recognizer.save(tmp_path / "tiny.safetensors")
    command = [sys.executable, "-m", "maerec_jax.serve", "--checkpoint", str(tmp_path / "tiny.safetensors")]
    process = subprocess.Popen(
        [*command, "--port", "0", "--batch-size", "4"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("ready: http://127.0.0.1:"), process.stderr.read()
        response = httpx.post(line.split()[1] + "/words", files=form(*files[:3]), timeout=60, trust_env=False)
        assert [result["text"] for result in response.json()["results"]] == [word.text for word in expected[:3]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--queue", "3"], "max_images 64 must not be above queue 3"),
        (["--timeout", "0"], "timeout must be above 0"),
        (["--port", "70000"], "port must be 0 to 65535"),
        (["--checkpoint", "nowhere", "--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--checkpoint", "nowhere", "--detect-threads", "0"], "--detect-threads must be at least 1"),
        (["--checkpoint", "nowhere", "--batch-delay-ms", "-1"], "--batch-delay-ms must not be negative, but is -1"),
        (["--checkpoint", "nowhere", "--allowed-hosts", "http://a.org"], "'http://a.org' is no name of a host"),
    ],
)
def test_mistakes_are_one_line(flags, told, capsys):
    try:
        status = run_command(serve.ServeArguments, serve.serve, "serve", flags)
    except SystemExit as stop:  # of arguments that cannot be parsed
        status = stop.code
    assert status
    assert told in " ".join(capsys.readouterr().err.split())
