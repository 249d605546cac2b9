#!/usr/bin/env bash
# Makes the environment, then runs ruff, and mypy and the site beside pytest. Other arguments go to pytest:
# bash scripts/test.sh -k parity
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
without_cuda
unset PYTHONDONTWRITEBYTECODE # uv compiles nothing: without it each of the hundreds of processes would compile all

check_types_and_site() {
  "$python" -m mypy maerec_jax data_pipelines configs scripts
  # A link, anchor or docstring that does not fit is an error.
  NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --quiet --strict --site-dir .venv/site
}

make_environment "[test]"
"$python" -m ruff check .
"$python" -m ruff format --check .
check_types_and_site >.venv/checks.log 2>&1 &
checks=$!
status=0
# Three on two cores: many tests wait for processes.
"$python" -m pytest -n 3 --dist loadgroup --no-loadscope-reorder "$@" || status=$?
if ! wait "$checks"; then
  cat .venv/checks.log
  exit 1
fi
exit "$status"
