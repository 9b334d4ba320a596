#!/usr/bin/env bash
# The whole road on the embedded world: set-up, training in stages, evaluation, export, report.
#   bash scripts/quickstart.sh [--out DIR] [--long]
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
bash scripts/setup.sh
exec .venv/bin/omnivision quickstart "$@"
