"""Lets torchvision be imported where its C++ library does not fit the torch beside it.

The published torchvision wheel is a CUDA build. Beside a CPU torch its library cannot load, the operators
`nms` and `qnms` stay undeclared, and `import torchvision` dies, and with it open_clip, timm and parts of
transformers. The remedy declares the two schemas and supplies no kernel: calling nms still raises.
On a healthy install nothing changes.

`hook()` waits for the first `import torchvision`, so nothing heavy is imported before. `scripts/setup.sh` runs
this file as a program; it then puts a copy beside a .pth file in site-packages, so that child processes and
other commands (lm-eval, accelerate, DeepSpeed's workers) are served too. Only the standard library at import.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SCHEMAS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
COPY_NAME = "omnivision_torchvision_hook"

_kept: list[object] = []  # torch forgets a schema when its Library object dies


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Runs the remedy at the first look for torchvision, then steps aside."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            unhook()
            apply()
        return None


def hook() -> None:
    """Arranges for the remedy at the first import of torchvision; cheap, and once per process."""
    # By name: the copy in site-packages and the library's own module are two classes.
    if "torchvision" not in sys.modules and not any(type(one).__name__ == _BeforeTorchvision.__name__ for one in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def unhook() -> None:
    """Takes the hook away."""
    sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != _BeforeTorchvision.__name__]


def apply() -> str:
    """Loads torchvision's C++ library, or declares its two schemas where it cannot load.

    Returns:
        "healthy", "declared", or "absent" where torch or torchvision is not installed.
    """
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None or importlib.util.find_spec("torch") is None:
        return "absent"
    import torch

    libraries = [*Path(spec.origin).parent.glob("_C*.so"), *Path(spec.origin).parent.glob("_C*.pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        pass  # built for another torch or another CUDA: judged below by what is missing
    return "declared" if _declare(torch) else "healthy"


def _declare(torch: object) -> bool:
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(name + SIGNATURE)
        _kept.append(library)
    return bool(missing)


def installed_files(folder: Path | None = None) -> tuple[Path, Path]:
    """The copy of this file and the .pth file that starts it, in site-packages."""
    folder = folder or Path(sysconfig.get_path("purelib"))
    return folder / f"{COPY_NAME}.py", folder / f"{COPY_NAME}.pth"


def install(folder: Path | None = None) -> str:
    """Puts the hook into site-packages where torchvision needs it, and takes it away where it does not.

    Returns:
        One line that says what was done.
    """
    copy, path_file = installed_files(folder)
    # An old .pth must not hide the state that is to be judged.
    path_file.unlink(missing_ok=True)
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        copy.unlink(missing_ok=True)
        return "torchvision is healthy: no remedy installed"
    shutil.copyfile(__file__, copy)
    path_file.write_text(f"import {COPY_NAME}; {COPY_NAME}.hook()\n", encoding="utf-8")
    probe = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return "torchvision's C++ library does not fit this torch: remedy installed (its nms stays unusable, nothing here calls it)"
    path_file.unlink()
    copy.unlink()
    last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
    raise RuntimeError(f"torchvision cannot be imported, and the remedy does not help: {last}")


if __name__ == "__main__":
    print(install())
