#!/usr/bin/env bash
# shellcheck disable=SC2034  # plan_* and others are read by what is sourced
set -euo pipefail
usage() {
  cat <<'TXT'
bash scripts/launching/tpu_pod.sh [COMMAND] --type TYPE [options] -- --config FILE --workdir gs://BUCKET/FOLDER [overrides]

Trains on one or more Cloud TPU slices, requested as a queued resource. Arguments after -- go to
python -m maerec_jax.train. If the slice is preempted, it is created again and the run resumes from the last checkpoint
in the workdir. docs/launching.md explains the steps.

Commands
  run      (default) up, start, follow the log, restart until the run is done, then down.
           Repeat it to follow a run that is in progress. Ctrl-C stops following, not the run.
  up       create the slice, wait until it is ready, and install the code of this checkout
  status   show the states of the slice, its nodes, and the process on each worker
  logs     follow the log of the first worker
  stop     save a checkpoint and stop the run; the slice stays, and still costs money
  down     stop, and delete the slice

Options
  --type TYPE              v4-64, v5litepod-256, v5p-128, v6e-256, ... (v4 and v5p count cores, two per chip)
  --name NAME              name of the queued resource and its nodes (default: maerec)
  --zone ZONE, --project PROJECT      default: those of gcloud's configuration
  --node-count N           number of slices; also sets --mesh.slices (default: 1)
  --spot | --reserved | --on-demand   capacity to use (default: on-demand)
  --runtime-version NAME   software of the machines (default: Google's recommendation for JAX on this type)
  --service-account EMAIL  service account of the machines; it must be able to read and write the bucket
  --setup COMMAND          shell command for every worker after installing, for example to mount or copy data
  --env NAME=VALUE         environment variable of the run (repeatable)
  --create=FLAG            flag for gcloud's queued-resources create (repeatable)
  --ssh=FLAG               flag for gcloud's tpu-vm ssh and scp, such as --internal-ip (repeatable)
  --keep                   keep the slice when the run is done
  --local-workdir          allow a workdir outside a bucket; it is lost with the slice, so the slice is kept
  --max-failures N         give up after this many early failures in a row (default: 3)
  --soon SECONDS           a failure is early if the run lasted less than this (default: 600)
  --poll SECONDS           time between checks of the slice and the log (default: 30)
  --dry-run                print every command, but run nothing; needs no gcloud
TXT
}
cd "$(dirname "$0")/../.."
. scripts/launching/commands.sh
. scripts/launching/keep_running.sh
. scripts/launching/slice.sh
exec 3>&1

commands="run up status logs stop down"
switches="--spot --reserved --on-demand --keep --local-workdir --dry-run"
valued="--type --name --zone --project --node-count --runtime-version --service-account --setup --max-failures --soon --poll"
repeated="--env --create --ssh"
command=run type="" name=maerec zone=${CLOUDSDK_COMPUTE_ZONE:-} project=${CLOUDSDK_CORE_PROJECT:-} node_count=1
spot="" reserved="" on_demand="" runtime_version="" service_account="" setup="" keep="" local_workdir="" folder=maerec_jax
env=() create=() ssh=() training=()
parse "$@"

capacity=${spot:+--spot}${reserved:+--reserved}
[[ $spot$reserved$on_demand != 11* ]] || fail "--spot and --reserved exclude each other, and --on-demand both"
check_number --node-count "$node_count" 1
check_number --max-failures "$max_failures" 1
check_number --soon "$soon"
check_number --poll "$poll"
[[ $name =~ ^[a-z]([a-z0-9-]{0,55}[a-z0-9])?$ ]] ||
  fail "--name $name: small letters, digits and hyphens, 57 at most, from a letter to a letter or digit"
check_environment

if [ "$command" = run ] || [ "$command" = up ]; then
  case $type in
    '') fail "--type is missing: the accelerator type, such as v5litepod-16 or v6e-256" ;;
    v4-*) default=tpu-ubuntu2204-base ;;
    v5litepod-*) default=v2-alpha-tpuv5-lite ;;
    v5p-*) default=v2-alpha-tpuv5 ;;
    v6e-*) default=v2-alpha-tpuv6e ;;
    tpu7x*) [ -n "$runtime_version" ] || fail "--type $type: Google gives these chips out through Compute Engine and Kubernetes Engine, not as queued resources (docs/launching.md)" ;;
    *) [ -n "$runtime_version" ] || fail "--type $type: not v4-, v5litepod-, v5p- or v6e-N; if Google has it, name its --runtime-version" ;;
  esac
  runtime_version=${runtime_version:-$default}
fi
if [ "$command" = run ]; then
  check_training_arguments ${training[@]+"${training[@]}"}
  option_value workdir "${training[@]}" || value=
  case $value in
    gs://?*) ;;
    *)
      [ -n "$local_workdir" ] || fail "--workdir ${value:-is missing}: a preempted slice loses its disks; give a folder in a bucket, --workdir gs://BUCKET/FOLDER, or --local-workdir if you mean it"
      keep=1
      ;;
  esac
  if option_value mesh.slices "${training[@]}"; then
    [ "$value" = "$node_count" ] || fail "--mesh.slices $value, but --node-count $node_count"
  elif [ "$node_count" -gt 1 ]; then
    training+=(--mesh.slices "$node_count")
  fi
fi

if [ -n "$dry_run" ]; then
  project=${project:-PROJECT} zone=${zone:-ZONE} # to be put in
else
  command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install (or look at what would run with --dry-run)"
  [ -n "$project" ] || project=$(gcloud config get-value project 2>/dev/null)
  [ -n "$zone" ] || zone=$(gcloud config get-value compute/zone 2>/dev/null)
fi
[ -n "$project" ] || fail "no project: give --project, or set it with gcloud config set project PROJECT"
[ -n "$zone" ] || fail "no zone: give --zone, or set it with gcloud config set compute/zone ZONE"
first_run=(.venv/bin/python -m maerec_jax.train ${training[@]+"${training[@]}"})
[ ${#env[@]} = 0 ] || first_run=(env "${env[@]}" "${first_run[@]}")
where=(--project "$project" --zone "$zone" --quiet)
nodes=("$name")
if [ "$node_count" -gt 1 ]; then
  nodes=()
  for ((i = 0; i < node_count; i++)); do nodes+=("$name-$i"); done
fi

case $command in
  run)
    # What a dry run supposes: the slice comes, is taken away and comes again; the run fails once, and is done.
    plan_slice="ABSENT ABSENT WAITING_FOR_RESOURCES ACTIVE ACTIVE SUSPENDED ABSENT ABSENT ACTIVE ACTIVE ACTIVE ACTIVE ACTIVE ACTIVE ACTIVE ACTIVE ABSENT"
    plan_node=READY plan_run="running failed-1 failed-1 failed-1 done"
    trap 'say "the run continues without this script: repeat the command to follow it again; down deletes the slice"; exit 130' INT
    status=0
    keep_running || status=1
    if [ "$outcome" != "done" ] || [ -n "$keep" ]; then
      say "the slice is still there and costs money: bash scripts/launching/tpu_pod.sh down --name $name --project $project --zone $zone"
    else
      down
    fi
    exit $status
    ;;
  up)
    plan_slice="ABSENT WAITING_FOR_RESOURCES ACTIVE"
    make_ready || exit 1
    ;;
  status)
    plan_slice=ACTIVE plan_node=READY
    look
    say "machines: $machines"
    [ "$machines" = absent ] || queued_resources describe --format 'yaml(name,state,tpu.nodeSpec)' >&3 || true
    [ "$machines" != ready ] || on_all "$(worker state)" >&3
    ;;
  logs) on_first "$(worker follow)" >&3 ;;
  stop)
    plan_end="state:running state:halted"
    stop_run || exit 1
    ;;
  down)
    plan_slice="ACTIVE ABSENT" plan_end="state:halted"
    down stop
    ;;
esac
