# shellcheck shell=bash disable=SC2034,SC2154  # variables of the script that sources it
# Sourced by tpu_pod.sh and gpu_node.sh: starting a run again until it is done.

max_silent=20  # looks in a row that may fail, before the machines count as lost
settle_looks=2 # looks at the machines after a run has ended, before it is started on them again

# keep_running: starts the run and starts it again until it is done; returns 0 then, and when it was asked to stop.
# The launcher provides
#   make_ready          the machines, with the code on them; 1 if that did not work
#   start_run           starts the run on all of them; 1 if that did not work
#   first_run           an array: the command on the first machine
#   look                sets $machines: ready, lost (taken away), failed (never came), absent, or unknown
#   on_first COMMAND    a shell command on the machine whose log is shown;  on_all COMMAND: on all of them
#   clear_away          removes what is left of lost machines
keep_running() {
  local failures=0 began attached=
  if running_already; then
    say "the run is in progress: following its log"
    attached=1
  fi
  while true; do
    if [ -n "$attached" ] || { make_ready && start_run; }; then
      attached=
      began=$SECONDS
      follow
    else
      began=$SECONDS
      outcome="could not be started"
      look
      [ "$machines" != lost ] || outcome=lost
    fi
    case $outcome in
      "done")
        say "the run is done"
        return 0
        ;;
      halted)
        say "the run was asked to stop; its checkpoint is in the workdir: repeat the command to resume"
        return 0
        ;;
      lost)
        say "the machines are gone: creating them again"
        clear_away
        continue
        ;;
    esac
    [ $((SECONDS - began)) -lt "$soon" ] || failures=0
    failures=$((failures + 1))
    say "the run $outcome (failure $failures of $max_failures in a row)"
    if [ "$failures" -ge "$max_failures" ]; then
      say "giving up. The end of the log:"
      on_first "$(worker log 60)" >&3 || true
      return 1
    fi
    pause
  done
}

running_already() {
  look
  [ "$machines" = ready ] && ask run on_first "$(worker state "${first_run[@]}")" || return 1
  case $(field state) in
    running) return 0 ;;
    other) fail "another command is running there: stop it first" ;;
  esac
  return 1
}

# follow: shows the log until the run ends or its machines do. Sets $outcome: done, halted, lost, or what went wrong.
follow() {
  local offset=0 silent=0 now
  while true; do
    pause
    look
    case $machines in
      ready) ;;
      unknown)
        # The fault is likely between here and there: the run may be well.
        say "no answer: $(printf '%s' "$complaint" | tail -n 1)"
        continue
        ;;
      *)
        outcome=lost
        return
        ;;
    esac
    now=
    if ask run on_first "$(worker watch "$offset")"; then now=$(field state); fi
    case $now in
      '')
        silent=$((silent + 1))
        say "no answer from the first machine ($silent of $max_silent): $(printf '%s' "$complaint" | tail -n 1)"
        if [ "$silent" -ge "$max_silent" ]; then
          outcome=lost
          return
        fi
        continue
        ;;
    esac
    silent=0
    offset=$(field offset)
    printf '%s\n' "$answer" | sed -e '1,/^offset: /d' >&3
    case $now in
      running) ;;
      "done" | halted)
        outcome=$now
        return
        ;;
      *)
        settle "$now"
        return
        ;;
    esac
  done
}

# settle STATE: the process on the first machine has ended, with neither result. One of the others may know more, and
# the reason may be that machines are being taken away, which shows a little later.
settle() {
  local i states=
  for ((i = 0; i < settle_looks; i++)); do
    ask run on_all "$(worker state)" || true
    states=$(printf '%s\n' "$answer" | sed -n 's/^state: //p' | sort | uniq -c | sed 's/^ *//' | paste -s -d , -)
    case $states in
      *" done"*) outcome="done" && return ;;
      *" halted"*) outcome=halted && return ;;
    esac
    pause
    look
    case $machines in
      ready | unknown) ;;
      *) outcome=lost && return ;;
    esac
  done
  outcome="ended (machines and states: ${states:-1 $1})"
  case $states in
    *" running"*) on_all "$(worker kill)" >&3 || true ;;
  esac
}
