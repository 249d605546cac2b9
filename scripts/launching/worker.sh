#!/usr/bin/env bash
# What runs on each machine of a run that tpu_pod.sh or gpu_node.sh has started, from the folder with the code:
#   bash scripts/launching/worker.sh install EXTRAS      an environment in .venv, with pip's extras such as [tpu,gcs]
#   bash scripts/launching/worker.sh start COMMAND ...   in the background; it outlives the connection. One run a folder
#   bash scripts/launching/worker.sh state [COMMAND ...] a line "state: ..." (below); "other" where COMMAND is not what is running
#   bash scripts/launching/worker.sh watch OFFSET        the same, "offset: BYTES", and what the log has gained since OFFSET
#   bash scripts/launching/worker.sh log [LINES]         the end of the log;  follow [LINES]: and what comes
#   bash scripts/launching/worker.sh stop                asks the run to save and end;  kill: ends it
# States: absent, running, done, halted (saved and ended because of "stop"), stopped (saved and ended because something
# else sent SIGTERM), ended (with status 0, and nothing to say), failed-STATUS.
set -euo pipefail
cd "$(dirname "$0")/../.."
state_folder=run
log=$state_folder/log

usable_python() { # Debian's own Pythons may lack ensurepip, without which they cannot make environments
  "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install() {
  local candidate
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if usable_python "$candidate"; then
      PYTHON=$candidate
      break
    fi
    PYTHON=
  done
  if [ -z "$PYTHON" ] && [ ! -x .venv/bin/python ]; then
    echo "no Python 3.11 or newer here: fetching one with uv"
    local uv=uv
    if ! command -v uv >/dev/null; then
      python3 -m pip install --quiet --user uv || {
        echo "error: neither a Python 3.11 nor pip here; install python3.12 with python3.12-venv, or uv" >&2
        exit 1
      }
      uv="python3 -m uv"
    fi
    $uv python install 3.12
    PYTHON=$($uv python find 3.12)
  fi
  . scripts/environment.sh
  make_environment "$1"
  echo "installed on $(hostname)"
}

start() {
  case $(state "$@") in
    running)
      echo "is running already on $(hostname)"
      return
      ;;
    other)
      echo "error: $(hostname) is running another command: $(cat $state_folder/command)" >&2
      exit 3
      ;;
  esac
  mkdir -p $state_folder
  [ ! -f $log ] || mv $log "$log.$(date -u +%Y%m%dT%H%M%SZ)"
  rm -f $state_folder/{status,halt,pid,runner}
  printf '%q ' "$@" >$state_folder/command
  : >$log
  # shellcheck disable=SC2016  # for the inner bash to expand
  # In a session of its own and without a terminal, so that nothing that ends the connection ends the run. Of its
  # parent, which notes the status, a SIGTERM to all processes of the machine must not be the end.
  PYTHONUNBUFFERED=1 setsid bash -c '
    folder=$1; shift
    trap : TERM HUP # not ignored: that would be inherited. What is in the foreground is waited for all the same.
    echo $$ >"$folder/runner"
    status=0
    (echo $BASHPID >"$folder/pid.new"; mv "$folder/pid.new" "$folder/pid"; exec "$@") || status=$?
    echo $status >"$folder/status.new"; mv "$folder/status.new" "$folder/status"
  ' run $state_folder "$@" >$log 2>&1 </dev/null &
  disown
  wait_for_pid
  echo "started on $(hostname)"
}

wait_for_pid() {
  local waited
  for waited in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -f $state_folder/pid ] || break
    sleep 0.$waited
  done
}

state() { # state [COMMAND ...]
  # Before the status: what is alive may end meanwhile, and note it.
  local alive='' runner
  runner=$(cat $state_folder/runner 2>/dev/null || echo none)
  # What has ended may still be listed, where nobody asked for its status.
  if kill -0 "$runner" 2>/dev/null && ! grep -qs '^State:.*Z' "/proc/$runner/status"; then alive=1; fi
  if [ ! -f $state_folder/command ]; then
    echo absent
  elif [ ! -f $state_folder/status ]; then
    # Without a status what notes it is alive, or the machine was switched off under it.
    if [ -n "$alive" ]; then
      if [ $# = 0 ] || [ "$(printf '%q ' "$@")" = "$(cat $state_folder/command)" ]; then echo running; else echo other; fi
    else
      echo failed-137
    fi
  elif [ "$(cat $state_folder/status)" != 0 ]; then
    echo "failed-$(cat $state_folder/status)"
  elif grep -q '^done: ' $log; then
    echo "done"
  elif [ -f $state_folder/halt ]; then
    echo halted
  elif grep -q '^stopped by SIGTERM' $log; then
    echo stopped
  else
    echo ended
  fi
}

watch() {
  local now size
  now=$(state) # before the log is read, so that the last lines of a run that has ended are in it
  size=$(wc -c <$log 2>/dev/null || echo 0)
  printf 'state: %s\noffset: %s\n' "$now" "$((size))"
  [ "$size" -le "$1" ] || tail -c "+$(($1 + 1))" $log | head -c "$((size - $1))" | tail -c 65536
}

end() { # end SIGNAL
  if [ "$(state)" = running ]; then
    [ "$1" = KILL ] || : >$state_folder/halt
    wait_for_pid # of a command that is just being started
    kill "-$1" "$(cat $state_folder/pid)"
    echo "sent SIG$1 on $(hostname)"
  else
    echo "nothing is running on $(hostname)"
  fi
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
  install) install "${1:-}" ;;
  start) start "$@" ;;
  state) echo "state: $(state "$@")" ;;
  watch) watch "${1:-0}" ;;
  log) tail -n "${1:-200}" $log ;;
  follow) tail -n "${1:-200}" -F $log ;;
  stop) end TERM ;;
  kill) end KILL ;;
  *)
    sed -n '2,/^set/p' "$0" | grep '^#' | cut -c 3-
    exit 2
    ;;
esac
