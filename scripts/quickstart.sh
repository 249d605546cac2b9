#!/usr/bin/env bash
# From nothing to a recogniser that reads words: makes an environment, pre-trains a small MAERec on rendered words,
# fine-tunes it, evaluates it on words that it has never seen, and reads sample images. About ten minutes on two cores.
# Repeat it to resume after a stop.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment "[detect]"

runs=runs/quickstart
words=(--characters 0123456789abcdefghijklmnopqrstuvwxyz --min-length 2 --max-length 8 --difficulty 0.4 --split validation)
say() { printf '\n== %s\n' "$*"; }
start=$SECONDS

say "reading a street with the built-in weights: $runs/street"
"$python" -m maerec_jax.predict docs/pictures/street.jpg --detect --visualise $runs/street
say "1/4 pre-training on unlabelled words: runs/quickstart/pretraining"
"$python" -m maerec_jax.train --config configs/quickstart_mae.py --workdir $runs/pretraining
say "2/4 fine-tuning on labelled words: runs/quickstart/recogniser"
"$python" -m maerec_jax.train --config configs/quickstart_maerec.py --workdir $runs/recogniser --init-from $runs/pretraining
say "3/4 evaluating on held-out words"
"$python" -m maerec_jax.evaluate --checkpoint $runs/recogniser --json $runs/accuracy.json --report $runs/report.html --overwrite
say "4/4 reading sample images"
"$python" -m data_pipelines.rendering --folder $runs/samples --count 12 --seed 1 "${words[@]}"
"$python" -m maerec_jax.predict $runs/samples --checkpoint $runs/recogniser --sheet $runs/samples.png
cp "$(ls $runs/pretraining/pictures/validation_*.png | tail -n 1)" $runs/reconstructions.png
cp "$(ls $runs/recogniser/pictures/validation_*.png | tail -n 1)" $runs/readings.png

cat <<TXT

Done in $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s.
  $runs/street/               what the built-in weights read in docs/pictures/street.jpg
  $runs/reconstructions.png   pre-training: original, masked and reconstructed words
  $runs/readings.png          held-out words and their readings
  $runs/report.html           accuracy by length, calibration, confused characters, worst errors
  $runs/recogniser            checkpoints, metrics.jsonl, tensorboard/

Next steps, after: source .venv/bin/activate
  python -m maerec_jax.predict YOUR_IMAGE.jpg --checkpoint $runs/recogniser   # read your own word image
  python -m data_pipelines.rendering --out sheet.png --difficulty 1           # look at harder training words
  python -m maerec_jax.train --config configs/maerec_s.py --help              # settings of the full-size recipe
TXT
