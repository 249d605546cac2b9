#!/usr/bin/env bash
# Runs the core of the tests with every Python from 3.11 to 3.13 that this machine has: with the newest packages that it
# can have, and with the oldest that pyproject.toml allows. Each has an environment of its own, .venv-VERSION.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
without_cuda
unset PYTHONDONTWRITEBYTECODE

core=(tests/models tests/data_pipelines tests/reading tests/weights tests/interop/test_export.py tests/interop/test_onnx.py
  tests/training/test_step.py tests/training/test_train.py tests/evaluation/test_table.py tests/test_config.py)
told=() status=0
for version in 3.11 3.12 3.13; do
  if ! command -v "python$version" >/dev/null; then
    told+=("Python $version: skipped, it is not on this machine")
    continue
  fi
  for oldest in "" --lowest; do
    what="Python $version, newest packages"
    [ -z "$oldest" ] || what="Python $version, oldest packages"
    echo "$what"
    PYTHON=python$version ENVIRONMENT=.venv-$version make_environment "[test]" $oldest
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
