"""The steps on a Ray cluster make what they make on this machine, whatever dies meanwhile."""

import json
import os
import subprocess
import sys

import pytest

from data_pipelines.construct.__main__ import main
from data_pipelines.sources.files import LmdbWords
from tests.data_pipelines.construct.test_crop import BOX, marked, tree  # noqa: F401

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

# Two nodes, the second of which is killed when the last step has finished some parts.
_CLUSTER = """
import json, os, subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from data_pipelines.construct import __main__ as construct, deduplicate, readings, write

folder, (*steps, last) = sys.argv[1], json.loads(sys.argv[2])
node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
second = cluster.add_node(**node)
os.environ["RAY_ADDRESS"] = cluster.address
deduplicate._PART = readings._PART = write._PART = 100
status = [construct.main([*step, "--engine", "ray"]) for step in steps]
assert not any(status), status
disturbed = subprocess.Popen([sys.executable, "-m", "data_pipelines.construct", *last, "--engine", "ray"])
while disturbed.poll() is None and len(list(Path(folder).glob("words-??????"))) < 3:
    time.sleep(0.01)
assert disturbed.poll() is None, "it was too fast to be disturbed"
cluster.remove_node(second, allow_graceful=False)
assert disturbed.wait() == 0
cluster.shutdown()
"""


def other_steps(folder, words):
    """What follows on crop, with the files that it needs."""
    lists = {name: str(folder / f"words/{name}.jsonl") for name in ("shops", "unique", "labelled", "found")}
    names = [f"shops/{n // 1000:06d}/{n:09d}_0000.jpg" for n in range(len(words))]
    read = [json.dumps({"file": n, "reading": f"w{k % 500}"}) + "\n" for k, n in enumerate(names)]
    detected = [json.dumps({"img": name, "polygons": [BOX], "scores": [0.9]}) + "\n" for name in words]
    files = {"first": read, "second": read[::-1], "detected_1": detected, "detected_2": detected[::-1]}
    for name, lines in files.items():
        (folder / name).write_text("".join(lines))
    first, second, *detections = (str(folder / name) for name in files)
    yield "deduplicate", lists["shops"], "--out", lists["unique"], "--root", str(folder)
    yield "vote", lists["shops"], "--readings", first, second, "--out", str(folder / "words/voted.jsonl")
    yield "pseudo-label", lists["shops"], "--readings", first, second, "--out", lists["labelled"]
    yield "write", lists["unique"], "--out", str(folder / "words/set"), "--outputs", "annotations", "lmdb"
    yield "find-unlabelled", str(folder / "pictures"), "--detections", *detections, "--out", lists["found"]


def made(folder):
    """All but what tells of times and transactions."""
    files = tree(folder)
    told = {name: data for name, data in files.items() if not name.endswith((".report.json", ".mdb"))}
    words = LmdbWords("set/unique_lmdb").open(folder)
    return told, [words[index] for index in range(len(words))], sorted(files)


def test_a_node_that_is_killed_changes_nothing(marked, tmp_path):  # noqa: F811
    words = {f"{number:04d}.png": [(BOX, f"w{number}", {})] for number in range(64 * 12)}
    steps = [marked(words), *other_steps(tmp_path, words)]
    for step in steps:
        assert main([*step, "--workers", "0"]) == 0
    (tmp_path / "words").rename(tmp_path / "whole")
    # On the loopback interface only, which Ray otherwise does on macOS alone; it waits for slow machines, and tells
    # nobody of what it does.
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    settings |= {"RAY_raylet_start_wait_time_s": "300"}
    cluster = [sys.executable, "-c", _CLUSTER, str(tmp_path / "words/.found.unfinished"), json.dumps(steps)]
    subprocess.run(cluster, check=True, env={**os.environ, **settings})
    assert made(tmp_path / "words") == made(tmp_path / "whole")


def test_without_a_cluster_it_is_one_line(marked, capsys):  # noqa: F811
    assert main([*marked({"a.png": []}), "--engine", "ray"]) == 1
    assert "--engine ray finds no cluster: start one" in capsys.readouterr().err
