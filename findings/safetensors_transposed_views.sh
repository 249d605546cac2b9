#!/usr/bin/env bash
# safetensors, NumPy side: a transposed view comes back scrambled, without an error.
#
# Expected: save_file writes an array's values in their logical order, whatever its strides, or refuses it.
# Seen:     0.8.0 writes the bytes in the order of memory under the shape of the view; 0.7.0 wrote the values.
# So:       make arrays contiguous before they are saved: np.ascontiguousarray.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 0.7.0 0.8.0; do
  python3 -m pip install --quiet --disable-pip-version-check --target "$version" safetensors=="$version" numpy==2.2.6
  PYTHONPATH=$version python3 -c '
import numpy as np, safetensors
from safetensors.numpy import load_file, save_file

kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
save_file({"kernel": kernel}, "kernel.safetensors")
found = load_file("kernel.safetensors")["kernel"]
same = np.array_equal(found, kernel)
print(f"safetensors {safetensors.__version__}: saved {kernel.tolist()}, read {found.tolist()}")
assert found.shape == (3, 2)
assert same == (safetensors.__version__ == "0.7.0"), "the behaviour has changed"
'
done
