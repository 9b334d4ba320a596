#!/usr/bin/env bash
# Makes .venv with everything pinned in pyproject.toml. Run it as often as you like: when nothing changed it
# returns at once. Needs Python 3.11 or newer with venv; no compiler, no GPU, no root.
#
#   bash scripts/setup.sh                          everything
#   OMNIVISION_TORCH=default bash scripts/setup.sh take torch from the default index even without a GPU
#   OMNIVISION_EXTRAS=export bash scripts/setup.sh other extras (default: dev, and with a GPU dev,gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE # without .pyc files every process recompiles the whole stack: 25 s an import
export PIP_DISABLE_PIP_VERSION_CHECK=1

has_gpu() { [ -e /dev/nvidia0 ] || [ -e /proc/driver/nvidia/version ] || nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

extras="${OMNIVISION_EXTRAS:-dev$(has_gpu && echo ,gpu || true)}"
python=.venv/bin/python
stamp=.venv/.omnivision-setup

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

fingerprint() {
  { echo "$PWD $extras ${OMNIVISION_TORCH:-}"; cat pyproject.toml scripts/setup.sh omnivision/torchvision_remedy.py; } | cksum
}
up_to_date() { [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && "$python" -c '' 2>/dev/null; }

up_to_date && exit 0
mkdir -p .cache
if command -v flock >/dev/null; then # two starts at once: the second waits, then finds the work done
  exec 9>.cache/setup.lock
  flock 9
  up_to_date && exit 0
fi

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    # Run, not only looked up: a version manager's shim exists for versions that are switched off.
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

make_venv() {
  if [ -x "$python" ] && "$python" -c 'import pip' 2>/dev/null; then return; fi
  local base free
  base=$(find_python) || die "no Python 3.11 or newer was found. Install one (Debian, Ubuntu: apt-get install python3 python3-venv), then run this again."
  "$base" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$base has no venv module. Install it (Debian, Ubuntu: apt-get install $(basename "$base")-venv), then run this again."
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge 4 ] || say "only $free GiB are free here; a CPU set-up takes about 2, one with CUDA about 9"
  say "making .venv with $("$base" -V)"
  rm -rf .venv
  "$base" -m venv .venv
}

pin() { # "torch" -> "torch==2.13.0", from pyproject.toml
  "$python" - "$1" <<'PY'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(next(one for one in project["dependencies"] if one.startswith(sys.argv[1] + "==")))
PY
}

art() { # the packages to install without their dependencies
  "$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["art"])'
}

reachable() { "$python" -c 'import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], method="HEAD"), timeout=8)' "$1" 2>/dev/null; }

install() { # uv where it works (a minute), else pip (5 to 10 minutes)
  if [ -n "$uv" ] && "$uv" pip install --quiet --python "$python" "$@"; then return; fi
  [ -z "$uv" ] || say "uv could not do it; trying pip, which takes longer"
  "$python" -m pip install --quiet "$@"
}

install_torch() { # without a GPU a CPU build saves gigabytes of CUDA libraries
  local links cpu=https://download.pytorch.org/whl/cpu
  if "$python" -c 'import sys; from importlib.metadata import version; sys.exit(version("torch").split("+")[0] != sys.argv[1].split("==")[1])' "$(pin torch)" 2>/dev/null; then return; fi
  if has_gpu || [ "$(uname)" != Linux ] || [ "${OMNIVISION_TORCH:-}" = default ]; then return; fi
  links="${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}"
  if [ -n "$links" ] && PIP_FIND_LINKS="$links" "$python" -m pip install --quiet --no-index --no-deps "$(pin torch)" 2>/dev/null; then
    say "torch: the build held on this machine ($("$python" -c 'from importlib.metadata import version; print(version("torch"))'))"
  elif reachable "$cpu/torch/" && install --no-deps --index-url "$cpu" "$(pin torch)" "$(pin torchvision)"; then
    say "torch: the CPU build from $cpu"
  else
    say "torch: no CPU build is in reach, the default index may send the CUDA build (several GB)"
  fi
}

rm -f "$stamp" # what is killed from here on is not ready
make_venv
say "installing uv (the installer)"
"$python" -m pip install --quiet uv 2>/dev/null || true
uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv || true)
# pip's own variables are not read by uv; a local folder of wheels has to reach both.
if [ -n "${PIP_FIND_LINKS:-}" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"; fi
install_torch
say "installing the pinned packages of pyproject.toml [$extras]"
install -e ".[$extras]"
say "installing the art of the embedded world"
# shellcheck disable=SC2046 # one word a package
install --no-deps $(art)
say "$("$python" omnivision/torchvision_remedy.py)"
"$python" -m compileall -q omnivision train eval || true
fingerprint > "$stamp"
say "done: .venv is ready (.venv/bin/omnivision doctor looks it over)"
