#!/usr/bin/env bash
# shellcheck disable=SC2034  # plan_* and others are read by what is sourced
set -euo pipefail
usage() {
  cat <<'TXT'
bash scripts/launching/gpu_node.sh [COMMAND] [--hosts A,B,C | --slurm] [options] -- --config FILE --workdir FOLDER [overrides]

Trains on GPUs: on this machine (all GPUs, one process), on machines reached by ssh (one process each), or through
Slurm. Arguments after -- go to python -m maerec_jax.train. A run that fails is restarted from its last checkpoint.
docs/launching.md explains the steps. With several machines, all of them must see the workdir: use a bucket or a shared
file system.

Commands
  run      (default) install, start, and restart until the run is done; with --slurm: submit a batch script
  status   show what the processes are doing
  logs     follow the log of the first process
  stop     save a checkpoint and stop the run
           (status, logs and stop are for --hosts and --slurm)

Options
  --name NAME              name of the job (default: maerec)
  --env NAME=VALUE         environment variable of the run (repeatable)
  --setup COMMAND          shell command for every machine before the run, for example to mount or copy data
  --python PATH            interpreter instead of .venv/bin/python; nothing is installed then
  --max-failures N         give up after this many early failures in a row (default: 3)
  --soon SECONDS           a failure is early if the run lasted less than this (default: 600)
  --dry-run                print every command and the batch script, but run nothing
with --hosts
  --folder FOLDER          folder for the code on each host, relative to the home folder (default: maerec_jax)
  --no-install             the code and its .venv are already in that folder
  --port PORT              port of the first host that all hosts can reach (default: 12355)
  --poll SECONDS           time between checks of the run (default: 30)
with --slurm
  --node-count N           number of nodes (default: 1)
  --gpus-per-node N        GPUs per node (default: 8)
  --tasks-per gpu|node     one process per GPU, or per node (default: gpu)
  --lead SECONDS           save and stop this long before the time limit (default: 120)
  --sbatch=FLAG            flag for sbatch, such as --time=24:00:00 (repeatable)
  --job NUMBER             for status, logs and stop: another job than the last one
TXT
}
cd "$(dirname "$0")/../.."
. scripts/launching/commands.sh
. scripts/launching/keep_running.sh
. scripts/launching/hosts.sh
. scripts/launching/slurm.sh
exec 3>&1

commands="run status logs stop"
switches="--slurm --no-install --dry-run"
valued="--hosts --name --setup --python --max-failures --soon --poll --folder --port --node-count --gpus-per-node --tasks-per"
valued+=" --lead --job"
repeated="--env --sbatch"
command=run hosts="" slurm="" name=maerec setup="" python="" no_install="" folder=maerec_jax port=12355
node_count=1 gpus_per_node=8 tasks_per=gpu lead=120 job=""
env=() sbatch=() training=()
parse "$@"

mode=here install=1
[ -z "$slurm" ] || mode=slurm
[ -z "$hosts" ] || mode=hosts
[ -z "$no_install$python" ] || install=
python=${python:-.venv/bin/python}
for flag in ${sbatch[@]+"${sbatch[@]}"}; do
  case $flag in
    --output* | --error* | --open-mode* | --requeue* | --no-requeue* | --signal* | --job-name*)
      fail "$flag is set by this script"
      ;;
    -*) ;;
    *) fail "--sbatch takes a flag of sbatch, as in --sbatch=--time=24:00:00, not $flag" ;;
  esac
done
check_number --max-failures "$max_failures" 1
check_number --soon "$soon"
check_number --poll "$poll"
check_number --port "$port" 1
check_number --node-count "$node_count" 1
check_number --gpus-per-node "$gpus_per_node" 1
check_number --lead "$lead" 1
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_-]*$ ]] || fail "--name $name: letters, digits, hyphens and underscores only"
case $tasks_per in
  gpu | node) ;;
  *) fail "--tasks-per takes gpu or node, not $tasks_per" ;;
esac
check_environment
if [ $mode = hosts ]; then
  IFS=, read -r -a hosts <<<"$hosts"
  for host in "${hosts[@]}"; do
    [[ $host =~ ^[A-Za-z0-9][A-Za-z0-9_.@-]*$ ]] || fail "--hosts: not the name of a host: '$host'"
  done
  [ "${#hosts[@]}" = "$(printf '%s\n' "${hosts[@]}" | sort -u | wc -l)" ] || fail "--hosts names a host twice"
fi
if [ "$command" = run ]; then
  check_training_arguments ${training[@]+"${training[@]}"}
  case $mode in
    hosts) processes=${#hosts[@]} ;;
    slurm) processes=$node_count ;;
    here) processes=1 ;;
  esac
  if [ "$processes" -gt 1 ] && ! option_value workdir "${training[@]}"; then
    fail "--workdir is missing: with several machines, give a folder that all of them can see"
  fi
elif [ $mode = here ]; then
  fail "$command is for --hosts and --slurm; on this machine, the run is where it was started"
fi

run_here() {
  local failures=0 began status child='' stopping=''
  local run=(${env[@]+env "${env[@]}"} "$python" -m maerec_jax.train "${training[@]}")
  if [ -n "$install" ]; then take bash scripts/launching/worker.sh install '[cuda]'; fi
  if [ -n "$setup" ]; then take bash -c "$setup"; fi
  if [ -n "$dry_run" ]; then
    show "${run[@]}"
    say "  suppose the run fails: it is started again, $max_failures times in a row at most"
    show "${run[@]}"
    return
  fi
  # A signal to this script is meant for the run, which saves and ends.
  trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child"' TERM INT
  while true; do
    began=$SECONDS
    "${run[@]}" &
    child=$!
    while true; do
      status=0
      wait "$child" || status=$?
      kill -0 "$child" 2>/dev/null || break
    done
    child=
    if [ "$status" = 0 ] || [ -n "$stopping" ]; then exit "$status"; fi
    [ $((SECONDS - began)) -lt "$soon" ] || failures=0
    failures=$((failures + 1))
    say "the run failed with status $status (failure $failures of $max_failures in a row)"
    if [ "$failures" -ge "$max_failures" ]; then
      say "giving up"
      exit "$status"
    fi
  done
}

case $mode-$command in
  here-run) run_here ;;
  slurm-run) submit ;;
  slurm-status) find_job && take squeue --jobs "$job" ;;
  slurm-logs) find_job && take tail -n 200 -F "$slurm_folder/$name-$job.log" ;;
  slurm-stop) find_job && stop_job ;;
  hosts-run)
    # What a dry run supposes: nothing runs there; the run fails once, and is done.
    plan_run="absent running failed-1 failed-1 failed-1 done"
    run_of 0
    first_run=("${run[@]}")
    trap 'say "the run continues without this script: repeat the command to follow it again; stop ends it"; exit 130' INT
    keep_running || exit 1
    ;;
  hosts-status) on_all "$(worker state)" >&3 ;;
  hosts-logs) on_first "$(worker follow)" >&3 ;;
  hosts-stop) on_all "$(worker stop)" >&3 ;;
esac
