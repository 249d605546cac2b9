#!/usr/bin/env bash
# shellcheck disable=SC2034,SC2154  # variables of what is sourced
set -euo pipefail
usage() {
  cat <<'TXT'
bash scripts/clean_machine.sh [--all] [--keep] [EXTRA ...]

Tests a fresh installation: clones the committed HEAD, builds wheel and source distribution, and installs the wheel into
new environments, first without extras, then with each extra of pyproject.toml (or those named). In each environment it
imports every module, runs every command with --help, and runs the main use of the extra, outside the source tree.
The exit status is 1 if anything is missing or fails.

  --all    also install extras of several gigabytes (cuda, tpu, ahead); otherwise only their versions are resolved
  --keep   keep the temporary folder

PYTHON names the interpreter (default: python3). PyTorch is the build that scripts/test.sh uses.
TXT
}
started=$SECONDS
cd "$(dirname "$0")/.."
. scripts/environment.sh
. scripts/clean_machine/main_paths.sh

fail() {
  echo "error: $*" >&2
  exit 1
}

all='' keep='' wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit ;;
    --all) all=1 ;;
    --keep) keep=1 ;;
    -*) fail "no such option: $1 (there are --all and --keep)" ;;
    *) wanted+=("$1") ;;
  esac
  shift
done

base=${PYTHON:-python3}
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "$base is not Python 3.11 or newer; name one: PYTHON=python3.12 bash $0"
work=$(mktemp -d)
clean_up() {
  kill $(jobs -p) 2>/dev/null || true
  [ -n "$keep" ] || rm -rf "$work"
}
trap clean_up EXIT
export UV_NO_PROGRESS=1
without_cuda
if command -v uv >/dev/null; then
  uv=uv
else
  "$base" -m venv "$work/uv"
  "$work/uv/bin/pip" install --quiet --disable-pip-version-check uv
  uv=$work/uv/bin/uv
fi

echo "== clone and build"
clone=$work/clone
git clone --quiet --no-local --depth 1 "file://$(git rev-parse --show-toplevel)" "$clone"
cd "$clone"
"$uv" build --quiet --python "$base" --out-dir "$work/built" . # the source distribution, and the wheel from that
wheel=$(echo "$work"/built/*.whl)
"$base" -m zipfile -e "$wheel" "$work/wheel"
for package in maerec_jax data_pipelines; do
  diff -r "$package" "$work/wheel/$package" ||
    fail "the wheel does not hold what is tracked; [tool.setuptools.package-data] of pyproject.toml names data files"
done

mapfile -t extras < <("$base" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"], sep="\n")')
for extra in "${extras[@]}"; do
  declare -F "try_${extra//-/_}" >/dev/null ||
    fail "the extra $extra has no main path: write a function try_${extra//-/_} in scripts/clean_machine/main_paths.sh"
done
for extra in ${wanted[@]+"${wanted[@]}"}; do
  [[ " ${extras[*]} " = *" $extra "* ]] || fail "no such extra: $extra (there are ${extras[*]})"
done
mapfile -t commands < <(grep -rlE '^if __name__ == "__main__":' maerec_jax data_pipelines --include '*.py' |
  sed 's/\.py$//; s/\/__main__$//; s/\//./g' | sort)
paths=$(declare -f)
for command in "${commands[@]}"; do
  grep -qE -- "-m $command\b" <<<"$paths" ||
    fail "$command is a command without a main path: add it to a function of scripts/clean_machine/main_paths.sh"
done

# Away from the source tree, which must not be what is imported, and without what the user's own settings would change.
mkdir "$work/tried"
cd "$work/tried"
unset PYTHONPATH PYTHONHOME
# What one process has compiled, of Python or for JAX, the next ones find: what is tried is whether they run.
smoke_environment=(JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$work/compiled" XDG_CACHE_HOME="$work/cache"
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2 JAX_DISABLE_MOST_OPTIMIZATIONS=1
  PYTHONDONTWRITEBYTECODE='' PYTHONPYCACHEPREFIX="$work/bytecode")

try() { # try COMMAND ...: runs it with the environment that is being tried; what it prints is shown where it fails
  local begun=$SECONDS output=$work/$name.output
  if ! env "${smoke_environment[@]}" "$@" >"$output" 2>&1 </dev/null; then
    tail -n 60 "$output" >&2
    fail "${*//"$work"\//} failed"
  fi
  printf '%-8s %3d s  %s\n' "$name" $((SECONDS - begun)) "$(sed "s|$work/||g" <<<"$*")"
}

try_environment() { # try_environment FOLDER [EXTRA]: a fresh environment there, and what has to work in it
  local name=${2:-plain} list heavy
  list=$work/$name.txt
  "$uv" pip compile --quiet --python "$base" --output-file "$list" - <<<"maerec-jax${2:+[$2]} @ file://$wheel" \
    >/dev/null || fail "no versions satisfy $name"
  heavy=$(grep -oE '^(nvidia-|libtpu)' "$list" | sort -u | tr '\n' ' ') || true
  if [ -n "$heavy" ] && [ -z "$all" ]; then
    echo "$name: $(grep -c '==' "$list") packages, not installed without --all: among them are gigabytes ($heavy)"
    return
  fi
  "$uv" venv --quiet --clear --python "$base" "$1"
  python=$1/bin/python
  "$uv" pip sync --quiet --python "$python" "$list"
  try "$python" "$clone/scripts/clean_machine/imports.py" "$clone" "${2:-}"
  "try_${name//-/_}"
}

try_every_second() { # try_every_second FOLDER EXTRA ...: the first, the third and so on, in environments in that place
  trap stop_servers EXIT
  local folder=$1
  while [ $# -gt 1 ]; do
    try_environment "$folder" "$2"
    shift $(($# > 2 ? 2 : 1))
  done
}

[ ${#wanted[@]} != 0 ] || wanted=("${extras[@]}")
try_environment "$work/one"
# Two at a time: most processes keep one core busy.
try_every_second "$work/one" "${wanted[@]}" &
try_every_second "$work/other" "${wanted[@]:1}" &
for lane in $(jobs -p); do wait "$lane"; done
echo "clean machine: all of it works, in $((SECONDS - started)) s"
