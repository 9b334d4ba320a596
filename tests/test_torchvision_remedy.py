"""The remedy: lazy, enough for an import, honest about nms."""

from __future__ import annotations

import subprocess
import sys

LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("remedy", {path!r})
remedy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(remedy)
remedy.unhook()
remedy.hook()
remedy.hook()
finders = [one for one in sys.meta_path if type(one).__name__ == "_BeforeTorchvision"]
assert len(finders) == 1, finders
assert "torch" not in sys.modules, "the hook must wait"
import torchvision, torch
assert not any(type(one).__name__ == "_BeforeTorchvision" for one in sys.meta_path)
boxes, scores = torch.tensor([[0., 0., 1., 1.]]), torch.ones(1)
state = remedy.apply()
try:
    print(state if not remedy._kept else "declared", torchvision.ops.nms(boxes, scores, 0.5).tolist())
except RuntimeError:
    print("declared" if remedy._kept else "broken", "no kernel")
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_and_nms_is_real_or_refused(root):
    said = run(LOAD.format(path=str(root / "omnivision" / "torchvision_remedy.py")))
    assert said in ("healthy [0]", "declared no kernel")


def test_importing_the_remedy_starts_nothing(root):
    assert run(f"import sys; sys.path.insert(0, {str(root)!r}); import runpy; "
               f"runpy.run_path({str(root / 'omnivision' / 'torchvision_remedy.py')!r}, run_name='looked_at'); "
               "print('torch' in sys.modules)") == "False"
