#!/usr/bin/env bash
# Runs the core of the tests with every Python from 3.11 to 3.13 that this machine has: with the newest packages that it
# can have, and with the oldest that pyproject.toml allows. Each has an environment of its own, .venv-VERSION.
# VERSIONS and PACKAGES choose some of them, and arguments go to pytest:
# VERSIONS=3.13 PACKAGES=newest bash scripts/test_versions.sh -k parity
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
without_cuda
unset PYTHONDONTWRITEBYTECODE

core=(tests/models tests/data_pipelines tests/reading tests/weights tests/interop/test_export.py tests/interop/test_onnx.py
  tests/training/test_step.py tests/training/test_train.py tests/evaluation/test_table.py tests/test_config.py)
told=() status=0
for version in ${VERSIONS:-3.11 3.12 3.13}; do
  if ! command -v "python$version" >/dev/null; then
    told+=("Python $version: skipped, it is not on this machine")
    continue
  fi
  if ! "python$version" -c "" 2>/dev/null; then # pyenv has the command of a version that is not chosen, too
    told+=("Python $version: skipped, $(command -v "python$version") does not run")
    continue
  fi
  for packages in ${PACKAGES:-newest oldest}; do
    what="Python $version, $packages packages" lowest=
    [ "$packages" = newest ] || lowest=--lowest
    echo "$what"
    PYTHON=python$version ENVIRONMENT=.venv-$version make_environment "[test]" $lowest
    if "$python" -m pytest -q -n 2 --dist loadgroup "${core[@]}" "$@"; then
      told+=("$what: passed")
    else
      told+=("$what: failed")
      status=1
    fi
  done
done
printf '%s\n' "${told[@]}"
exit "$status"
