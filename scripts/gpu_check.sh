#!/usr/bin/env bash
# What a GPU makes of it: speed and memory of the stages at the full shape beside stock TRL, then the `small` preset trained for real.
#   bash scripts/gpu_check.sh [OUT]      # OUT must not exist; default runs/gpu-check
# PRESET, BATCH, ROUNDS, WORLD and SMALL_STEPS make it smaller, to try the script itself. PYTHON names one that has everything installed: nothing is set up then.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
[ -n "${PYTHON:-}" ] || OMNIVISION_EXTRAS=dev,gpu bash scripts/setup.sh
out="${1:-runs/gpu-check}"
python="${PYTHON:-.venv/bin/python}"
omnivision=("$python" -m omnivision_cli)
mkdir -p "$(dirname "$out")"
mkdir "$out"

# First whether every stage starts and goes on at all, for minutes are dear there.
"$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_train_gpu.py | tee "$out/tests.txt" || echo "gpu_check: tests are red, see $out/tests.txt"

# All arms of a stage are alive together, each with its weights and optimizer: no more of them, and no larger batches, than 80 GB hold.
speed() { # stage, samples a step, settings that are compared too
  "$python" scripts/benchmark_training.py --preset "${PRESET:-968m}" --out "$out/speed" --stages "$1" --batch-size "${BATCH:-$2}" --rows 640 --words 100 \
    --rounds "${ROUNDS:-5}" --workers "$(nproc)" --together --peers trl --also "${@:3}" | tee -a "$out/speed.md"
}
liger=()
if command -v nvidia-smi >/dev/null; then liger=(loss_kernel=liger); fi # not on a CPU, where only the script itself is tried
speed align 64 feature_cache=null compile=true
speed sft 32 compile=true ${liger[@]+"${liger[@]}"}
speed dpo 16 compile=true
"$python" scripts/benchmark_training.py --preset "${PRESET:-small}" --out "$out/small" --batch-size 32 --rows 320 --rounds "${ROUNDS:-5}" \
  --workers "$(nproc)" --together --peers trl | tee "$out/small.md"

world="$out/world"
"${omnivision[@]}" data world --out "$world" --preset "${WORLD:-long}"
"${omnivision[@]}" train chain --config train/configs/small/chain.yaml "out=$out/trained" "shared.image_root=$world" "shared.preset=${PRESET:-small}" \
  "shared.vision=$out/small/vision" "shared.language=$out/small/language" "shared.max_steps=${SMALL_STEPS:--1}" \
  "align.data=[$world/align.jsonl]" "sft.data=[$world/sft.jsonl]" "pairs.data=$world/dpo.jsonl" \
  "functions.data=[$world/functions.jsonl]" "functions.functions=$world/functions.json"
for stage in sft dpo functions; do
  tasks="pope chartqa open"
  [ "$stage" = functions ] && tasks="$tasks actions"
  # shellcheck disable=SC2086
  "${omnivision[@]}" eval $tasks --model "$out/trained/$stage/final" --data "$world" --out "$out/trained/$stage/eval" --batch-size 64
done
