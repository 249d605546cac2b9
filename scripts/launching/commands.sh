# shellcheck shell=bash disable=SC2034,SC2154  # variables of the script that sources it
# Sourced by tpu_pod.sh and gpu_node.sh: commands that a dry run prints instead, checks of arguments, and what machines
# that the code is copied to are told to do. Written so that bash 3.2, which macOS has, should do for the launching side.

dry_run=
poll=30        # seconds between looks at a run
max_failures=3 # attempts in a row that may fail soon after their start
soon=600       # seconds; an attempt that trained for longer ends the row

fail() {
  echo "error: $*" >&2
  exit 2
}

# What the scripts say is a comment, so that the output of a dry run is itself a script.
say() { printf '# %s\n' "$*" >&3; }

quoted() { # the words of a command, written so that a shell reads the same words again
  local word separator='' quote="'" inside="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word=$quote${word//$quote/$inside}$quote ;;
    esac
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
}

is_in() { [[ " $2 " = *" $1 "* ]]; } # is_in WORD WORDS

# parse ARGUMENTS ...: sets $command, where the first is one of $commands; for each option the variable of its name, with
# underscores: to 1 for one of $switches, to its value for one of $valued, and for one of $repeated it adds to an array;
# and the array $training to what follows --.
parse() {
  local option variable
  case ${1:-} in
    -*) ;;
    '')
      usage
      exit 2
      ;;
    *)
      is_in "$1" "$commands" || fail "no such command: $1 (there are $commands)"
      command=$1 && shift
      ;;
  esac
  while [ $# -gt 0 ]; do
    option=${1%%=*}
    variable=${option#--} variable=${variable//-/_}
    if [ "$1" = -- ]; then
      shift
      training=("$@")
      return
    elif [ "$1" = -h ] || [ "$1" = --help ]; then
      usage && exit
    elif is_in "$1" "$switches"; then
      printf -v "$variable" 1
    elif is_in "$option" "$valued $repeated"; then
      if [ "$1" = "$option" ]; then
        if [ $# -lt 2 ] || [ "$2" = -- ]; then fail "$1 needs a value"; fi
        shift
        set -- "$option=$1" "${@:2}"
      fi
      if is_in "$option" "$repeated"; then eval "$variable+=(\"\${1#*=}\")"; else printf -v "$variable" %s "${1#*=}"; fi
    else
      fail "no such option: $1 (arguments of maerec_jax.train come after --; --help lists the options)"
    fi
    shift
  done
}

# each PLACES ... -- FUNCTION ARGUMENTS ...: FUNCTION PLACE ARGUMENTS, at the same time for all: their processes wait for
# each other.
each() {
  local places=() place pids=() pid status=0
  while [ "$1" != -- ]; do places+=("$1") && shift; done
  shift
  for place in "${places[@]}"; do
    if [ -n "$dry_run" ]; then
      "$1" "$place" "${@:2}"
    else
      "$1" "$place" "${@:2}" &
      pids+=($!)
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || status=1; done
  return $status
}

show() { printf '%s\n' "$(quoted "$@")" >&3; }

take() { # take COMMAND ...: runs it, or shows it in a dry run
  if [ -n "$dry_run" ]; then show "$@"; else "$@"; fi
}

# ask KIND COMMAND ...: its output goes to $answer, its complaints to $complaint. A dry run shows the command (functions
# show what they would run) and takes the next word of $plan_KIND for the answer; the last word stays.
ask() {
  local kind=$1 plan
  shift
  complaint=
  if [ -n "$dry_run" ]; then
    if [ "$(type -t "$1")" = function ]; then "$@"; else show "$@"; fi
    eval "plan=\$plan_$kind"
    answer=${plan%% *}
    [ "$answer" = "$plan" ] || eval "plan_$kind=\${plan#* }"
    say "  suppose the answer is: $answer"
    [ "$kind" != run ] || answer=$(printf 'state: %s\noffset: 0' "$answer")
    return
  fi
  local errors status=0
  errors=$(mktemp)
  answer=$("$@" 2>"$errors") || status=$?
  complaint=$(cat "$errors")
  rm -f "$errors"
  return $status
}

pause() { [ -n "$dry_run" ] || sleep "$poll"; }

# option_value NAME ARGUMENTS ...: the last value that "--NAME VALUE" or "--NAME=VALUE" gives, in $value; 1 without any.
option_value() {
  local name=$1 word previous=
  shift
  value=
  local found=1
  for word in "$@"; do
    case $word in
      --"$name"=*) value=${word#*=} found=0 ;;
    esac
    [ "$previous" != "--$name" ] || value=$word found=0
    previous=$word
  done
  return $found
}

check_training_arguments() { # what can be known to fail before any machine is started
  [ $# -gt 0 ] || fail "no training command: give the arguments of maerec_jax.train after --, for example: -- --config configs/mae_vit_s.py --workdir ..."
  option_value config "$@" || fail "--config FILE is missing among the arguments after --"
  config=$value
  case $config in
    /* | ../* | */../*) fail "--config $config: the file has to lie in the project, whose files are what the machines get; give its path from there" ;;
  esac
  [ -f "$config" ] || fail "no such config file: $config (in $(pwd))"
  local word
  for word in "$@"; do
    case $word in
      --coordinator | --coordinator=* | --num-processes | --num-processes=* | --process-id | --process-id=*)
        fail "${word%%=*} is set by this script"
        ;;
    esac
  done
  if option_value data.root "$@"; then
    case $value in
      gs://*) fail "--data.root $value: shards are read from file systems; copy or mount them with --setup (docs/launching.md)" ;;
    esac
  fi
}

check_environment() { # of the array $env
  local pair
  for pair in ${env[@]+"${env[@]}"}; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env takes NAME=VALUE, not $pair"
  done
}

check_number() { # check_number OPTION VALUE [LEAST]
  case $2 in
    '' | *[!0-9]*) fail "$1 takes a whole number, not '$2'" ;;
  esac
  [ "$2" -ge "${3:-0}" ] || fail "$1 has to be at least $3, not $2"
}

# pack: the code of this checkout as an archive, in $archive. Only what a run needs, and the config wherever it lies.
pack() {
  archive=${XDG_CACHE_HOME:-$HOME/.cache}/maerec_jax/launch/$name.tar.gz
  take mkdir -p "$(dirname "$archive")"
  set -- pyproject.toml README.md LICENSE maerec_jax data_pipelines configs scripts
  case ${config:-configs/} in
    configs/*) ;;
    *) set -- "$@" "$config" ;;
  esac
  take tar --exclude=__pycache__ --exclude='*.egg-info' -czf "$archive" "$@"
}

# The command on each machine that unpacks the archive, which lies beside the folder for the code, and installs it.
install_command() { # install_command EXTRAS SETUP
  printf 'mkdir -p %s && tar -xzf %s -C %s && cd %s && bash scripts/launching/worker.sh install %s' \
    "$(quoted "$folder")" "$(quoted "$folder.tar.gz")" "$(quoted "$folder")" "$(quoted "$folder")" "$(quoted "$1")"
  [ -z "$2" ] || printf ' && bash -c %s' "$(quoted "$2")"
}

worker() { printf 'cd %s && %s' "$(quoted "$folder")" "$(quoted bash scripts/launching/worker.sh "$@")"; }

# field NAME: the first "NAME: ..." in $answer
field() { printf '%s\n' "$answer" | sed -n "s/^$1: //p" | head -n 1; }
