# Sourced by the other scripts: makes the virtual environment .venv with the project in it, and sets $python to its Python.
# PYTHON names the interpreter to make it with; it must be 3.11 or newer.

make_environment() { # make_environment EXTRAS
  local base=${PYTHON:-python3}
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $base is not Python 3.11 or newer; name one, for example: PYTHON=python3.12 bash $0" >&2
    exit 1
  fi
  if [ ! -x .venv/bin/pip ]; then
    echo "making a virtual environment in .venv"
    if ! "$base" -m venv .venv; then
      rm -rf .venv
      echo "error: $base cannot make virtual environments; on Debian and Ubuntu install python3-venv" >&2
      exit 1
    fi
  fi
  python=$PWD/.venv/bin/python
  # Installed again only when the project file has changed since.
  local stamp=.venv/installed$1
  if ! cmp -s pyproject.toml "$stamp"; then
    echo "installing maerec-jax$1 (a few minutes on a fresh machine)"
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".$1"
    cp pyproject.toml "$stamp"
  fi
}
