# shellcheck shell=bash disable=SC2034,SC2154  # variables of the script that sources it
# Sourced by gpu_node.sh: a batch script that puts itself back into Slurm's queue until the run is done. Reads the
# variables that gpu_node.sh makes of its options.

slurm_folder=runs/slurm

batch_script() { # prints it
  local tasks=$gpus_per_node run flag
  [ "$tasks_per" = gpu ] || tasks=1
  # Slurm without B: signals the processes of srun, and not this script, which goes on to ask for the next turn.
  cat <<TXT
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$node_count
#SBATCH --ntasks-per-node=$tasks
#SBATCH --gpus-per-node=$gpus_per_node
#SBATCH --signal=TERM@$lead
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$slurm_folder/$name-%j.log
TXT
  for flag in ${sbatch[@]+"${sbatch[@]}"}; do printf '#SBATCH %s\n' "$flag"; done
  cat <<TXT
set -uo pipefail
mine=$slurm_folder/$name-\$SLURM_JOB_ID
max_failures=$max_failures
soon=$soon
TXT
  for flag in ${env[@]+"${env[@]}"}; do printf 'export %s\n' "$(quoted "$flag")"; done
  cat <<'TXT'
# srun does not take this number from sbatch by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export PYTHONUNBUFFERED=1
TXT
  [ -z "$setup" ] || printf 'srun --ntasks-per-node=1 --ntasks=%s bash -c %s || exit 1\n' "$node_count" "$(quoted "$setup")"
  run=(srun --kill-on-bad-exit=1 "$python" -m maerec_jax.train "${training[@]}")
  printf 'training=('
  quoted "${run[@]}"
  printf ')\n'
  cat <<'TXT'

said() { tail -c "+$((before + 1))" "$mine.log" | grep "^$1" >/dev/null; }

again() { # back into the queue, under the same number
  echo "== $(date -u +%FT%TZ) back into the queue: $1"
  scontrol requeue "$SLURM_JOB_ID" && exit 0
  echo "error: Slurm did not take the job back; submit the batch script again to resume the run" >&2
  exit 1
}

# Slurm ends the script itself when it cancels the job or gives its nodes to another; then it also puts it back, or not.
ending=
trap 'ending=1' TERM
echo "== $(date -u +%FT%TZ) attempt ${SLURM_RESTART_COUNT:-0} on ${SLURM_JOB_NODELIST:-?}"
before=$(wc -c <"$mine.log" 2>/dev/null || echo 0)
"${training[@]}" &
step=$!
while true; do
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break
done

if [ "$status" = 0 ] && said 'done: '; then
  rm -f "$mine.failures"
  echo "== the run is done"
elif [ -n "$ending" ]; then
  echo "== Slurm is ending the job: cancelled, preempted, or not saved in time before its limit"
  exit 1
elif [ -e "$mine.halt" ]; then
  rm -f "$mine.halt"
  echo "== the run was asked to stop, and ended with status $status; submit the same script again to resume it"
  exit "$status"
elif [ "$status" = 0 ]; then
  rm -f "$mine.failures"
  again "saved and stopped (time limit or preemption)"
else
  failures=$(cat "$mine.failures" 2>/dev/null || echo 0)
  [ "$SECONDS" -lt "$soon" ] || failures=0
  failures=$((failures + 1))
  echo "$failures" >"$mine.failures"
  if [ "$failures" -ge "$max_failures" ]; then
    rm -f "$mine.failures"
    echo "error: failed with status $status (failure $failures of $max_failures in a row): giving up" >&2
    exit "$status"
  fi
  again "failed with status $status (failure $failures of $max_failures in a row)"
fi
TXT
}

submit() {
  local script=$slurm_folder/$name.sbatch
  take mkdir -p "$slurm_folder"
  [ -z "$install" ] || take bash scripts/launching/worker.sh install '[cuda]'
  if [ -n "$dry_run" ]; then
    printf "cat >%s <<'END_OF_BATCH_SCRIPT'\n%s\nEND_OF_BATCH_SCRIPT\n" "$script" "$(batch_script)" >&3
    show sbatch --parsable "$script"
    return
  fi
  command -v sbatch >/dev/null || fail "sbatch is not here: run this on a login node of the cluster (or look at the script with --dry-run)"
  batch_script >"$script"
  job=$(sbatch --parsable "$script") || fail "Slurm refused $script (the reason is above)"
  job=${job%%;*}
  printf '%s\n' "$job" >"$slurm_folder/$name.job"
  say "job $job: its log is $slurm_folder/$name-$job.log"
}

find_job() { # sets $job: the one named with --job, or the last that was submitted under this name
  [ -n "$job" ] || job=$(cat "$slurm_folder/$name.job" 2>/dev/null) || {
    [ -n "$dry_run" ] || fail "no job of the name $name was submitted from here: give its number with --job"
    job=JOB
  }
}

stop_job() {
  # Noted first: without the note the script would take the end for that of its time, and go back into the queue.
  take touch "$slurm_folder/$name-$job.halt"
  take scancel --signal=TERM "$job" || {
    take scancel "$job"
    say "the job was waiting, and has left the queue"
  }
}
