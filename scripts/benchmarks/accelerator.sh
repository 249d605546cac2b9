#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'TXT'
bash scripts/benchmarks/accelerator.sh [--try] [FOLDER]

Checks this project on a GPU or TPU in less than ten minutes, in the environment that is active: pip install -e
'.[cuda,torch,onnx]'. First the main paths in bfloat16: both stages of training, one of them stopped and resumed,
reading, and exported files, which have to read the same. Then training steps beside PyTorch compiled by torch.compile,
with their utilisation. All that is printed is also in FOLDER/log.txt (FOLDER: runs/accelerator).

  --try  on whatever JAX runs on, and measuring the smallest model only: to see that the script works
TXT
}
cd "$(dirname "$0")/../.."
tries='' steps=400 models=(mae:s mae:b maerec:s) measured=(--batch-size 256 --dtypes bfloat16 --rounds 5)
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit ;;
    --try) tries=1 steps=40 models=(mae:tiny) measured=(--batch-size 4 --rounds 1 --steps 1) ;;
    -*) echo "error: no such option: $1 (there is --try)" >&2 && exit 1 ;;
    *) runs=$1 ;;
  esac
  shift
done
runs=${runs:-runs/accelerator}
[ ! -e "$runs" ] || { echo "error: $runs is there: give another folder" >&2 && exit 1; }
mkdir -p "$runs"
exec > >(tee "$runs/log.txt") 2>&1
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
train() { python -m maerec_jax.train --config "configs/quickstart_$1.py" --workdir "$runs/$1" --dtype bfloat16 "${@:2}"; }
texts() { awk '{ print $3, $2 }' "$1" | sort; } # of what predict prints

say "the device"
python -c "
import sys, jax
device = jax.devices()[0]
print(jax.__version__, device.platform, device.device_kind)
sys.exit(device.platform == 'cpu' and not '$tries' and 'error: JAX finds no accelerator here')"
say "pre-training"
train mae --steps 40 --validate-every 40 --optimizer.warmup-steps 4
say "fine-tuning, stopped after a save"
recogniser=(maerec --init-from "$runs/mae" --steps $steps --validate-every 200 --checkpoint-every 20 --optimizer.warmup-steps 20)
train "${recogniser[@]}" &
until [ -e "$runs/maerec/checkpoints/20" ]; do
  kill -0 $! || { echo "error: training has ended before step 20" && exit 1; }
  sleep 0.2
done
pkill -TERM -P $! || kill -TERM $!
wait $!
say "and resumed"
train "${recogniser[@]}" | tee "$runs/resumed.txt"
python -m maerec_jax.checkpoints "$runs/maerec"
say "reading"
python -m maerec_jax.evaluate --checkpoint "$runs/maerec" --overwrite --json "$runs/accuracy.json"
python -m data_pipelines.rendering --folder "$runs/words" --count 64 --seed 1 --max-length 8 --difficulty 0.3
read_words=(python -m maerec_jax.predict "$runs/words" --checkpoint "$runs/maerec")
"${read_words[@]}" --dtype bfloat16 >"$runs/bfloat16.txt"
"${read_words[@]}" --dtype float32 >"$runs/float32.txt"
same=$(comm -12 <(texts "$runs/bfloat16.txt") <(texts "$runs/float32.txt") | wc -l)
echo "$same of 64 readings are the same in bfloat16 and float32"
say "exporting"
for format in onnx stablehlo; do
  python -m maerec_jax.export --checkpoint "$runs/maerec" --format $format --output "$runs/maerec.$format"
  python scripts/read_exported.py "$runs/maerec.$format" "$runs"/words/*.png >"$runs/$format.txt"
  diff <(texts "$runs/float32.txt") <(texts "$runs/$format.txt") || { echo "error: $format reads something else" && exit 1; }
done
for model in "${models[@]}"; do
  say "training steps: $model"
  python scripts/benchmarks/training.py --stage "${model%:*}" --model "${model#*:}" "${measured[@]}" --contenders jax torch-compile
done
say "all of it works"
