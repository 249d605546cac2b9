# Sourced by the other scripts. Makes a virtual environment with the project in it, and sets $python to its Python.
# PYTHON names the interpreter to make it with; it must be 3.11 or newer. ENVIRONMENT names its folder, .venv by default.
# What installs is uv, with pip's settings.

make_environment() { # make_environment EXTRAS [--lowest]
  local base=${PYTHON:-python3} folder=${ENVIRONMENT:-.venv} resolution=highest
  if [ "${2:-}" = --lowest ]; then folder=$folder-lowest resolution=lowest-direct; fi
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
  "$python" -m pip install --quiet --disable-pip-version-check uv
  take_settings_of_pip "$python"
  "$python" -m uv pip install --quiet --python "$python" --resolution $resolution --editable ".$1"
  cp pyproject.toml "$stamp"
}

take_settings_of_pip() { # take_settings_of_pip PYTHON: where packages are, which uv does not ask pip for
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$1" -m pip config get global.find-links || true)}}
  export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$("$1" -m pip config get global.index-url || true)}}
} 2>/dev/null

without_cuda() { # for tests on CPUs: of PyTorch a build of hundreds of megabytes instead of gigabytes
  take_settings_of_pip "${PYTHON:-python3}"
  export UV_CONSTRAINT=$PWD/scripts/constraints.txt
  # PyTorch's own index has it, if not one of the places that pip is told of.
  [ -n "$UV_FIND_LINKS" ] || export UV_TORCH_BACKEND=cpu
}
