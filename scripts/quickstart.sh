#!/usr/bin/env bash
# The whole road on the embedded world: set-up, training in stages, evaluation, export, report.
#   bash scripts/quickstart.sh [--out DIR] [--long]
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
unset PYTHONDONTWRITEBYTECODE
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/omnivision" quickstart "$@" # where the caller stands: --out is meant from there
