"""A step on a Ray cluster makes what it makes on this machine, whatever dies meanwhile."""

import os
import subprocess
import sys

import pytest

from data_pipelines.construct.__main__ import main
from tests.data_pipelines.construct.test_crop import BOX, marked, tree  # noqa: F401

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")

# Two nodes, the second of which is killed as soon as some parts are finished.
_CLUSTER = """
import os, subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

folder, *command = sys.argv[1:]
node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
second = cluster.add_node(**node)
step = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": cluster.address})
while step.poll() is None and len(list(Path(folder).glob("words-??????"))) < 3:
    time.sleep(0.01)
assert step.poll() is None, "it was too fast to be disturbed"
cluster.remove_node(second, allow_graceful=False)
status = step.wait()
cluster.shutdown()
sys.exit(status)
"""


def test_a_node_that_is_killed_changes_nothing(marked, tmp_path):  # noqa: F811
    arguments = marked({f"{number:04d}.png": [(BOX, f"w{number}", {})] for number in range(64 * 12)})
    assert main([*arguments, "--workers", "0"]) == 0
    (tmp_path / "words").rename(tmp_path / "whole")
    command = [sys.executable, "-m", "data_pipelines.construct", *arguments, "--engine", "ray"]
    # On the loopback interface only, which Ray otherwise does on macOS alone; it waits for slow machines, and tells
    # nobody of what it does.
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    settings |= {"RAY_raylet_start_wait_time_s": "300"}
    cluster = [sys.executable, "-c", _CLUSTER, str(tmp_path / "words/.shops.unfinished"), *command]
    subprocess.run(cluster, check=True, env={**os.environ, **settings})
    assert tree(tmp_path / "words") == tree(tmp_path / "whole")


def test_without_a_cluster_it_is_one_line(marked, capsys):  # noqa: F811
    assert main([*marked({"a.png": []}), "--engine", "ray"]) == 1
    assert "--engine ray finds no cluster: start one" in capsys.readouterr().err
