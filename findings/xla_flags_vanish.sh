#!/usr/bin/env bash
# jaxlib: a flag in XLA_FLAGS that one minor version knows ends the process in the next.
#
# Expected: XLA ignores a flag that it no longer has, or warns; or jax raises an error that can be caught.
# Seen:     jaxlib 0.10.1 takes --xla_cpu_use_fusion_emitters=false; 0.12.0.1, which needs Python 3.12 or newer and whose
#           library still holds the flag's name, logs "Unknown flag in XLA_FLAGS" and ends Python with status 1, without
#           an exception, when a backend is made.
# So:       set flags only for versions that were tried.
#
# PYTHON names a Python of 3.12 or newer (python3.13).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python=${PYTHON:-python3.13}
for version in 0.10.1 0.12.0.1; do
  "$python" -m pip install --quiet --disable-pip-version-check --target "$version" jax=="$version" jaxlib=="$version"
  status=0
  told=$(PYTHONPATH=$version JAX_PLATFORMS=cpu XLA_FLAGS=--xla_cpu_use_fusion_emitters=false \
    "$python" -c 'import jax; print(jax.numpy.ones(2).sum())' 2>&1) || status=$?
  echo "jaxlib $version: status $status, ${told##*] }"
  if [ "$version" == 0.10.1 ]; then
    [ "$status" == 0 ] || exit 1
  else
    [ "$status" != 0 ] && grep -q "Unknown flag in XLA_FLAGS" <<<"$told" || exit 1
  fi
done
