#!/usr/bin/env bash
# Set-up, then the tests in two processes; arguments go to pytest (`bash scripts/test.sh -m slow`, `-k chart`, `-n 0` for one process).
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tests are small: threads that wait for each other cost more than they give
bash scripts/setup.sh
exec .venv/bin/python -m pytest -q --numprocesses=2 --dist=loadfile "$@" # a file's tests share what they build
