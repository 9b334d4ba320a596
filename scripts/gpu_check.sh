#!/usr/bin/env bash
# What a GPU makes of it: that every stage starts and goes on, speed and memory of the stages at the full shape beside stock TRL, then the `small` preset trained for real.
#   bash scripts/gpu_check.sh [OUT]      # OUT must not exist; default runs/gpu-check
# PARTS ("tests speed loss small") leaves some out; PRESET, BATCH, ROUNDS, STEPS, ROWS, WORLD and SMALL_STEPS make it smaller, to try the script itself, GATE=--no-gate quicker.
# PYTHON names one that has everything installed: nothing is set up then.
set -euo pipefail
out="$(realpath -m "${1:-runs/gpu-check}")"
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
[ -n "${PYTHON:-}" ] || OMNIVISION_EXTRAS=dev,gpu bash scripts/setup.sh
python="${PYTHON:-.venv/bin/python}"
omnivision=("$python" -m omnivision_cli)
mkdir -p "$(dirname "$out")"
mkdir "$out"
wanted() { [[ " ${PARTS:-tests speed loss small} " == *" $1 "* ]]; }

if wanted tests; then
  "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_train_gpu.py | tee "$out/tests.txt" || echo "gpu_check: tests are red, see $out/tests.txt"
fi

# Both arms of a stage are alive together, each with its weights and optimizer: batches as large as 80 GB hold, or twice that.
# Pictures are few, so that their files lie in memory; an epoch is longer than all turns, so that no arm waits for its loaders to begin again.
# Lengths are those of ordinary data: an answer of 100 words in sft and dpo, a caption of 40 in align.
if wanted speed; then
  size="${BATCH:-$("$python" -c 'import torch; print(64 * max(1, int(torch.cuda.mem_get_info()[1] / 65e9)) if torch.cuda.is_available() else 64)')}"
  # shellcheck disable=SC2086
  "$python" scripts/benchmark_training.py --preset "${PRESET:-968m}" --out "$out/speed" --stages sft dpo align --batch-size "$size" $((size / 2)) "$size" --words 100 100 40 \
    --rows ${ROWS:-$((size * 60)) $((size * 30)) $((size * 60))} --photos 256 --rounds "${ROUNDS:-3}" --steps "${STEPS:-3}" --workers "$(nproc)" --together --peers trl ${GATE:-} | tee "$out/speed.md"
fi
if wanted loss; then
  "$python" -m omnivision_train.loss_speed --positions 14400 | tee "$out/loss.md"
fi

wanted small || exit 0
"$python" - "$out/small" "${PRESET:-small}" <<'END' # a tower and a language model with random weights
import sys
from pathlib import Path
from omnivision_train.benchmark.material import write_parts
write_parts(Path(sys.argv[1]), sys.argv[2], photos=1)
END
world="$out/world"
"${omnivision[@]}" data world --out "$world" --preset "${WORLD:-long}" --workers "$(nproc)"
"${omnivision[@]}" train chain --config train/configs/small/chain.yaml "out=$out/trained" "shared.image_root=$world" "shared.preset=${PRESET:-small}" \
  "shared.vision=$out/small/vision" "shared.language=$out/small/language" "shared.max_steps=${SMALL_STEPS:--1}" "shared.workers=$(nproc)" \
  "align.data=[$world/align.jsonl]" "sft.data=[$world/sft.jsonl]" "pairs.data=$world/dpo.jsonl" \
  "functions.data=[$world/functions.jsonl]" "functions.functions=$world/functions.json"
for stage in sft dpo functions; do
  tasks="pope chartqa open"
  [ "$stage" = functions ] && tasks="$tasks actions"
  # shellcheck disable=SC2086
  "${omnivision[@]}" eval $tasks --model "$out/trained/$stage/final" --data "$world" --out "$out/trained/$stage/eval" --batch-size 64
done
