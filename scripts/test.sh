#!/usr/bin/env bash
# Makes the environment, then runs ruff, mypy and pytest. Other arguments go to pytest: bash scripts/test.sh -k parity
# With --lowest first, runs pytest alone with the oldest versions of the packages that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
without_cuda
unset PYTHONDONTWRITEBYTECODE # uv compiles nothing: without it each of the hundreds of processes would compile all

if [ "${1:-}" = --lowest ]; then
  shift
  make_environment "[test]" --lowest
else
  make_environment "[test]"
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy maerec_jax data_pipelines configs scripts
  # The site: a link, anchor or docstring that does not fit is an error.
  NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --quiet --strict --site-dir .venv/site
fi
"$python" -m pytest -n 2 --dist loadgroup --no-loadscope-reorder "$@"
