# shellcheck shell=bash disable=SC2034,SC2154  # variables of the script that sources it
# Sourced by gpu_node.sh: the same run on a list of machines that ssh reaches, a process each. Reads the variables that
# gpu_node.sh makes of its options.

on_host() { # on_host HOST COMMAND
  take ssh -o BatchMode=yes -o ServerAliveInterval=30 "$1" "$2"
}

on_first() { on_host "${hosts[0]}" "$1"; }

on_one() { on_host "${hosts[$1]}" "$2"; }
on_all() { each "${!hosts[@]}" -- on_one "$1"; }

install_one() {
  take scp -o BatchMode=yes "$archive" "${hosts[$1]}:$folder.tar.gz" && on_one "$1" "$(install_command '[cuda]' "$setup")"
}

run_of() { # run_of INDEX: sets the array $run to the command of that process
  run=(${env[@]+env "${env[@]}"} "$python" -m maerec_jax.train "${training[@]}")
  [ ${#hosts[@]} = 1 ] || run+=(--coordinator "${hosts[0]#*@}:$port" --num-processes "${#hosts[@]}" --process-id "$1")
}

start_one() {
  local run
  run_of "$1"
  on_one "$1" "$(worker start "${run[@]}")"
}

# Machines of one's own are there; whether they answer shows when they are spoken to.
look() { machines=ready; }
clear_away() { :; }

make_ready() {
  if [ -z "$install" ]; then
    [ -z "$setup" ] || on_all "cd $(quoted "$folder") && bash -c $(quoted "$setup")" >&3
    return
  fi
  say "installing on ${hosts[*]}"
  pack
  each "${!hosts[@]}" -- install_one >&3
}

start_run() {
  say "starting the run on ${hosts[*]}"
  each "${!hosts[@]}" -- start_one >&3
}
