"""Start a run on TPUs of Google Kubernetes Engine, as a JobSet: ``--dry-run`` prints its manifest.

``python scripts/launching/gke.py --type v5litepod-16 --image IMAGE -- --config configs/mae_vit_s.py --workdir gs://...``
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tyro

from data_pipelines.command import guarded
from data_pipelines.errors import UserError
from maerec_jax.costs.chips import CHIPS, Topology

# What Google calls a type: our name of the chip, the label of its nodes, and how many the number in it counts for a
# chip. https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
_TYPES = {
    "v4": ("v4", "tpu-v4-podslice", 2),
    "v5litepod": ("v5e", "tpu-v5-lite-podslice", 1),
    "v5p": ("v5p", "tpu-v5p-slice", 2),
    "v6e": ("v6e", "tpu-v6e-slice", 1),
    "tpu7x": ("tpu7x", "tpu7x", 2),
}
_CHIPS_A_HOST = 4  # of slices of several hosts; smaller ones of v5e and v6e are one host
_SECONDS_TO_SAVE = 120

# Chips are reached through locked memory, of which they need more than a process has by default:
# https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus#privileged-mode
#
# A run that is asked to stop saves, and ends with status 0. Here that would mean that it is done: so the process that
# was asked says that it was. The shell waits for it again, since a signal ends the first wait.
_COMMAND = """
ulimit -l 68719476736 || true
trap 'stopped=143; kill -TERM $run' TERM
maerec train "$@" & run=$!
wait $run; status=$?
[ -z "$stopped" ] || { wait $run; status=$stopped; }
exit $status
"""


@dataclass(frozen=True)
class GkeArguments:
    """Start a run on TPUs of Google Kubernetes Engine. What follows -- goes to maerec train. See docs/launching.md.

    Needs kubectl, set to a cluster with JobSet and a node pool of the type.
    """

    type: str
    """Type of a slice: v5litepod-16, v6e-256, v5p-128, v4-64, tpu7x-128 (v4, v5p and tpu7x count two a chip)."""
    image: str
    """Container image of this checkout (Dockerfile)."""
    name: str = "maerec"
    """Name of the JobSet."""
    slices: int = 1
    """Number of slices; also sets --mesh.slices."""
    service_account: str = "default"
    """Account of the cluster that the run acts as, which may read and write the bucket."""
    data_bucket: str = ""
    """Bucket that is mounted at /data, for --data.root /data."""
    spot: bool = False
    """Use spot capacity."""
    max_restarts: int = 10
    """Failures after which the run is given up; nodes that are taken away do not count."""
    dry_run: bool = False
    """Print the manifest, and start nothing."""


def slice_of(type_name: str) -> tuple[Topology, str]:
    """The topology of a type such as ``v5litepod-16``, and the label of its nodes. Raises ``UserError``."""
    kind, _, number = type_name.partition("-")
    if kind not in _TYPES or not re.fullmatch("[1-9][0-9]*", number):
        raise UserError(f"--type {type_name}: give {', '.join(f'{known}-N' for known in _TYPES)}")
    chip, label, counted = _TYPES[kind]
    shapes = [shape for shape in CHIPS[chip].shapes if prod(shape) * counted == int(number)]
    if not shapes:
        known = sorted({prod(shape) * counted for shape in CHIPS[chip].shapes})
        raise UserError(f"--type {type_name}: there are {kind}-{', '.join(map(str, known[:12]))} ...")
    return Topology(CHIPS[chip], min(shapes, key=max)), label  # the one that is most like a cube


def manifest(arguments: GkeArguments, training: Sequence[str]) -> dict[str, Any]:
    """The JobSet: a job for each slice, in which each host has a pod. Raises ``UserError`` for what cannot be run."""
    topology, label = slice_of(arguments.type)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir", default="")
    given = parser.parse_known_args(training)[0]
    if given.config is None:
        raise UserError("--config is missing: after --, give the arguments of maerec train")
    if not given.workdir.startswith("gs://"):
        raise UserError("--workdir must be in a bucket, gs://BUCKET/FOLDER: the disks of a pod go with it")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", arguments.name):
        raise UserError(f"--name {arguments.name}: small letters, digits and hyphens, 40 at most")
    if arguments.slices > 1:
        training = [*training, "--mesh.slices", str(arguments.slices)]
    chips = prod(topology.shape)
    chips_a_host = chips if len(topology.shape) == 2 and chips <= 8 else _CHIPS_A_HOST
    hosts = chips // chips_a_host
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology.name.partition(":")[2],
    }
    volumes: list[dict[str, Any]] = [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}]
    mounts: list[dict[str, Any]] = [{"name": "memory", "mountPath": "/dev/shm"}]
    annotations, tolerations = {}, []
    if arguments.spot:
        nodes["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    if arguments.data_bucket:
        annotations["gke-gcsfuse/volumes"] = "true"
        attributes = {"bucketName": arguments.data_bucket, "mountOptions": "implicit-dirs,file-cache:max-size-mb:-1"}
        driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}
        volumes.append({"name": "data", "csi": driver})
        mounts.append({"name": "data", "mountPath": "/data", "readOnly": True})
    container = {
        "name": "train",
        "image": arguments.image,
        "command": ["sh", "-c", _COMMAND, "train", *training],
        "resources": {"limits": {"google.com/tpu": str(chips_a_host)}},
        "securityContext": {
            "runAsUser": 0,  # to whom alone the right to raise the limit of locked memory can be given
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_RESOURCE"]},
        },
        "volumeMounts": mounts,
    }
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": arguments.service_account,
        "terminationGracePeriodSeconds": _SECONDS_TO_SAVE,
        "nodeSelector": nodes,
        "tolerations": tolerations,
        "containers": [container],
        "volumes": volumes,
    }
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # the processes of a run end together: all are started anew, or none
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {"metadata": {"annotations": annotations}, "spec": pod},
    }
    taken_away = {"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": arguments.name,
            # Each slice has its node pool, and a pool one job.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": arguments.max_restarts, "rules": [taken_away]},
            "replicatedJobs": [{"name": "slice", "replicas": arguments.slices, "template": {"spec": job}}],
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifest, or give it to kubectl; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    middle = words.index("--") if "--" in words else len(words)
    parsed = tyro.cli(GkeArguments, args=words[:middle], prog="python scripts/launching/gke.py")

    def run() -> int:
        text = json.dumps(manifest(parsed, words[middle + 1 :]), indent=2)
        if parsed.dry_run:
            print(text)
            return 0
        try:
            return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=False).returncode
        except FileNotFoundError:
            raise UserError("kubectl is not installed: see what it would be given with --dry-run") from None

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
