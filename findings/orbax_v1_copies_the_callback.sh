#!/usr/bin/env bash
# Orbax: options of the v1 API are copied deeply, and with a method the object that it belongs to.
#
# Expected: a post_finalization_callback that is a method of an object is called on that object.
# Seen:     orbax-checkpoint 0.12.8 calls it on a copy, made when the context is given to a Checkpointer: what the object
#           learns later the callback does not know, and what the callback notes the object never sees.
# So:       should we move to v1, the callback has to be a function (docs/history/checkpoints.md); functions are not
#           copied.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python=${PYTHON:-python3}
"$python" -m pip install --quiet --disable-pip-version-check --target packages orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2
PYTHONPATH=packages JAX_PLATFORMS=cpu "$python" - "$work/checkpoints" <<'PY'
import importlib.metadata
import sys

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp


class Counter:
    count = 0

    def add(self):
        self.count += 1


method, function = Counter(), Counter()
for counter, callback in ((method, method.add), (function, lambda: function.add())):
    context = ocp.Context()
    context.async_options.post_finalization_callback = callback
    with ocp.training.Checkpointer(f"{sys.argv[1]}/{id(counter)}", context=context) as checkpointer:
        checkpointer.save(1, {"x": np.zeros(1)})
version = importlib.metadata.version("orbax-checkpoint")
print(f"orbax-checkpoint {version}: {method.count} calls of a method, {function.count} of a function")
assert (method.count, function.count) == (0, 1)
PY
