#!/usr/bin/env bash
# Makes the environment, then runs ruff, mypy and pytest. Arguments go to pytest: bash scripts/test.sh -k parity
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "[test]"

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy maerec_jax data_pipelines configs
"$python" -m pytest -n 2 "$@"
