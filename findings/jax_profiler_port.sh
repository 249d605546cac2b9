#!/usr/bin/env bash
# jax: the profiler's server listens on all addresses of the machine, and none can be chosen.
#
# Expected: jax.profiler.start_server(port) listens on the loopback interface, as for a program on the same machine that
#           asks for a trace; or takes an address.
# Seen:     jax 0.10.2 and 0.12.0.1 listen on [::], so whoever reaches the machine can have it traced, without a password.
#           grain's profiling of worker processes (grain_enable_multiprocess_worker_profiling) opens such a port in each.
# So:       traces are started in the process itself, and worker processes write down themselves what they do.
#
# Needs Linux, for /proc/net/tcp6.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python=${PYTHON:-python3}
"$python" -m pip install --quiet --disable-pip-version-check --target packages jax==0.10.2 jaxlib==0.10.2
PYTHONPATH=packages JAX_PLATFORMS=cpu "$python" - <<'PY'
import socket
from pathlib import Path

import jax

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
server = jax.profiler.start_server(port)
lines = [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
(address,) = {line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")}
print(f"jax {jax.__version__}: listening on {address.split(':')[0]}")
assert set(address.split(":")[0]) == {"0"}, "another address than all of them"
PY
