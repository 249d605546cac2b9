#!/usr/bin/env bash
# JAX: a program that came out of the persistent compilation cache can be serialised, but not be run from that.
#
# Expected: jax.experimental.serialize_executable writes a program whole, wherever it is from, or raises an error.
# Seen:     jax 0.10.2 on CPUs: compiled by the first process, the program runs after serialize and deserialize_and_load;
#           found in the cache by the second, it is written without an error, and running it raises "Function wrapped_sine
#           not found".
# So:       compile with the cache off what is to be serialised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat >"$folder/try.py" <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load, serialize

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
x = jnp.ones((64, 64))
program = jax.jit(lambda x: jnp.sin(x @ x).sum() + jnp.exp(x).mean()).lower(x).compile()
try:
    print("runs", bool(deserialize_and_load(*serialize(program))(x) > 0))
except Exception as error:
    print("fails", type(error).__name__, str(error).splitlines()[0][:200])
PYTHON
for time in first second; do
  JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" "$folder/cache" | tee "$folder/$time"
done
grep -q "^runs True" "$folder/first"
grep -q "^fails" "$folder/second"
