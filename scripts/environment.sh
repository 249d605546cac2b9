# Sourced by the other scripts. Makes a virtual environment with the project in it, and sets $python to its Python.
# PYTHON names the interpreter to make it with; it must be 3.11 or newer.

make_environment() { # make_environment EXTRAS [--lowest]
  local base=${PYTHON:-python3} folder=.venv
  [ "${2:-}" != --lowest ] || folder=.venv-lowest
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $base is not Python 3.11 or newer; name one, for example: PYTHON=python3.12 bash $0" >&2
    exit 1
  fi
  if [ ! -x $folder/bin/pip ]; then
    echo "making a virtual environment in $folder"
    if ! "$base" -m venv $folder; then
      rm -rf $folder
      echo "error: $base cannot make virtual environments; on Debian and Ubuntu install python3-venv" >&2
      exit 1
    fi
  fi
  python=$PWD/$folder/bin/python
  # Installed again only when the project file has changed since.
  local stamp="$folder/installed$1"
  if cmp -s pyproject.toml "$stamp"; then
    return
  fi
  echo "installing maerec-jax$1 in $folder (a few minutes on a fresh machine)"
  if [ $folder = .venv ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --editable ".$1"
  else
    "$python" -m pip install --quiet --disable-pip-version-check uv
    "$python" -m uv pip install --quiet --python "$python" --resolution lowest-direct --editable ".$1"
  fi
  cp pyproject.toml "$stamp"
}
