# shellcheck shell=bash disable=SC2034,SC2154  # variables of the script that sources it
# Sourced by tpu_pod.sh: a slice, or several, of Cloud TPU as a queued resource. Reads the variables that tpu_pod.sh makes
# of its options.

queued_resources() { # queued_resources VERB [FLAGS]
  local verb=$1
  shift
  take gcloud compute tpus queued-resources "$verb" "$name" "${where[@]}" "$@"
}

on_node() { # on_node NODE WORKER COMMAND
  take gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" --ssh-flag=-oServerAliveInterval=30 \
    ${ssh[@]+"${ssh[@]}"} --worker "$2" --command "$3"
}

on_first() { on_node "${nodes[0]}" 0 "$1"; }

copy_to_node() { # copy_to_node NODE FILE
  take gcloud compute tpus tpu-vm scp "$2" "$1:$folder.tar.gz" "${where[@]}" ${ssh[@]+"${ssh[@]}"} --worker all
}

on_all() { each "${nodes[@]}" -- on_node all "$1"; }

state_of() { # state_of KIND COMMAND ...: sets $answer to what the command tells, ABSENT, or UNKNOWN where gcloud does not know
  ask "$@" || case $complaint in
    *NOT_FOUND* | *"not found"*) answer=ABSENT ;;
    *) answer=UNKNOWN ;;
  esac
}

slice_state() { state_of slice queued_resources describe --format 'value(state.state)'; }

look() {
  local node
  slice_state
  case $answer in
    ACTIVE) machines=ready ;;
    SUSPENDING | SUSPENDED | DELETING) machines=lost ;;
    FAILED) machines=failed ;;
    UNKNOWN) machines=unknown ;;
    *) machines=absent ;;
  esac
  [ $machines = ready ] || return 0
  for node in "${nodes[@]}"; do
    state_of node take gcloud compute tpus tpu-vm describe "$node" "${where[@]}" --format 'value(state)'
    case $answer in
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | ABSENT)
        say "node $node is $answer"
        machines=lost
        ;;
      READY) ;;
      *) [ $machines = lost ] || machines=unknown ;; # being repaired or restarted, which ends
    esac
  done
}

clear_away() {
  local tries
  for ((tries = 0; tries < 20; tries++)); do
    # Refused while the resources are still being taken away.
    queued_resources delete --force >&3 || true
    slice_state
    [ "$answer" != ABSENT ] || return 0
    pause
  done
  fail "the queued resource $name could not be deleted; it may cost money: look at it with gcloud compute tpus queued-resources list"
}

ever_there=
make_ready() {
  local flags=() said=
  slice_state
  case $answer in
    UNKNOWN)
      [ -n "$ever_there" ] || fail "gcloud does not report the state of $name: $(printf '%s' "$complaint" | tail -n 3)"
      ;;
    FAILED | SUSPENDED | SUSPENDING)
      clear_away
      answer=ABSENT
      ;;
  esac
  if [ "$answer" = ABSENT ]; then
    if [ "$node_count" -gt 1 ]; then flags=(--node-count "$node_count" --node-prefix "$name"); else flags=(--node-id "$name"); fi
    [ -z "$capacity" ] || flags+=("$capacity")
    [ -z "$service_account" ] || flags+=(--service-account "$service_account")
    say "asking for $node_count x $type"
    if ! queued_resources create --accelerator-type "$type" --runtime-version "$runtime_version" "${flags[@]}" \
      ${create[@]+"${create[@]}"} >&3; then
      [ -n "$ever_there" ] || fail "the request was refused (the reason is above)"
      return 1
    fi
  fi
  while true; do
    slice_state
    case $answer in
      ACTIVE) break ;;
      FAILED | SUSPENDED | SUSPENDING | ABSENT)
        say "the request is $answer"
        [ "$answer" = ABSENT ] || queued_resources describe >&3 || true
        return 1
        ;;
    esac
    [ "$answer" = "$said" ] || say "the request is $answer: waiting ${complaint:+($(printf '%s' "$complaint" | tail -n 1))}"
    said=$answer
    pause
  done
  ever_there=1
  say "installing on all workers"
  pack
  if ! { each "${nodes[@]}" -- copy_to_node "$archive" && on_all "$(install_command '[tpu,gcs]' "$setup")"; } >&3; then
    say "with several workers gcloud needs your key in an agent: ssh-add ~/.ssh/google_compute_engine"
    return 1
  fi
}

start_run() {
  say "starting the run on all workers"
  on_all "$(worker start "${first_run[@]}")" >&3
}

stop_run() {
  local tries
  on_all "$(worker stop)" >&3 || return 1
  for ((tries = 0; tries < 20; tries++)); do
    ask end on_all "$(worker state)" || return 1
    case $answer in
      *running*) pause ;;
      *) return 0 ;;
    esac
  done
  say "still running after $((20 * poll)) s"
  return 1
}

down() {
  slice_state
  if [ "$answer" = ABSENT ]; then
    say "there is no queued resource $name"
    return
  fi
  if [ "$answer" = ACTIVE ] && [ "${1:-}" = stop ]; then stop_run || say "could not stop the run: it resumes from its last checkpoint"; fi
  clear_away
  say "deleted $name: only the data in the bucket still cost money"
}
