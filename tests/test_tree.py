"""The shape of the tree: who may import whom, what lies at the top, what is installed."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP_LEVEL = {"pyproject.toml", "README.md", "omnivision", "train", "scripts", "eval", "tests", ".ci", "docs", ".gitignore"}
# The library knows nothing of those who use it, and stays installable without the heavy trainers.
LIBRARY_MAY_NOT = {"deepspeed", "trl", "lm_eval", "omnivision_train", "omnivision_eval", "omnivision_cli", "train", "eval"}
FORBIDDEN = {
    "library": LIBRARY_MAY_NOT,
    "train": {"omnivision_eval", "eval", "train"},
    "eval": {"omnivision_train", "train", "eval"},
    "cli": {"train", "eval"},  # the mapped names only
    "tests": {"train", "eval"},
}
IGNORED = {".git", ".venv", "__pycache__", "build", "runs", ".cache", ".pytest_cache", ".hypothesis", "omnivision.egg-info"}
HEAVY = {"torch", "transformers", "numpy", "PIL", "deepspeed", "trl"}


def tracked(root: Path) -> list[Path]:
    """Files that git tracks, or would track at the next commit; in an unpacked archive every file."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        return [path for path in root.rglob("*") if path.is_file() and not IGNORED & set(path.relative_to(root).parts)]
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def station(path: Path, root: Path) -> str | None:
    """Which side of the arrows a file stands on."""
    parts = path.relative_to(root).parts
    if parts[:2] == ("omnivision", "cli"):
        return "cli"
    return {"omnivision": "library", "train": "train", "eval": "eval", "tests": "tests"}.get(parts[0])


def imported(text: str) -> set[str]:
    """First names of everything that a module imports, wherever the import stands in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            names |= {arg.value.split(".")[0] for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return names


def wrong_arrows(text: str, side: str) -> set[str]:
    """The imports of a module that its side may not have."""
    return imported(text) & FORBIDDEN[side]


def test_imports_follow_the_road(root):
    wrong = [f"{path.relative_to(root)} imports {', '.join(sorted(names))}" for path in tracked(root)
             if path.suffix == ".py" and (side := station(path, root)) and (names := wrong_arrows(path.read_text(encoding="utf-8"), side))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("text", "side"), [
    ("import deepspeed", "library"),
    ("def f():\n    from omnivision_train import main", "library"),
    ("from omnivision_cli.main import main", "library"),
    ("import importlib\nimportlib.import_module('omnivision_eval.pope')", "train"),
    ("from omnivision_train.main import main", "eval"),
    ("import eval.pope", "cli"),
])
def test_the_walker_sees_a_wrong_arrow(text, side):
    assert wrong_arrows(text, side)


def test_relative_imports_stay_inside_the_library(root):
    """`from ..cli import x` would reach the command line by a side door."""
    for path in tracked(root):
        if path.suffix == ".py" and station(path, root) == "library":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    words = (node.module or "").split(".") + [alias.name for alias in node.names if node.level or node.module == "omnivision"]
                    assert not ((node.level or words[0] == "omnivision") and "cli" in words), f"{path.relative_to(root)}:{node.lineno}"


def test_top_level_is_fixed(root):
    assert {path.relative_to(root).parts[0] for path in tracked(root)} == TOP_LEVEL


def test_no_paths_of_one_machine(root):
    mine = Path(__file__)
    marks = [mark.encode() for mark in (str(root.parent) + "/", str(Path.home()) + "/") if mark != "//"]
    for path in tracked(root):
        content = path.read_bytes()
        if path != mine and b"\0" not in content[:4096]:
            found = [mark.decode() for mark in marks if mark in content]
            assert not found, f"{path.relative_to(root)} holds {found}"


def test_every_package_is_installed(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = settings["package-dir"]
    names = {folder: name for name, folder in folders.items()}
    expected = set()
    for path in tracked(root):
        if path.name == "__init__.py" and station(path, root) not in (None, "tests"):
            folder = path.parent.relative_to(root).as_posix()
            top = max((one for one in names if folder == one or folder.startswith(one + "/")), key=len)
            expected.add(names[top] + folder.removeprefix(top).replace("/", "."))
    assert set(settings["packages"]) == expected


def test_every_module_lies_in_a_package(root):
    for path in tracked(root):
        if path.suffix == ".py" and station(path, root) not in (None, "tests") and "tasks" not in path.parts:
            assert (path.parent / "__init__.py").is_file(), f"{path.relative_to(root)} would not be installed"


def test_versions_are_pinned(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    assert not [line for line in lines if "==" not in line]


def test_the_command_starts_light(root):
    for name in ("main", "verbs", "failures", "__init__", "doctor"):
        tree = ast.parse((root / "omnivision" / "cli" / f"{name}.py").read_text(encoding="utf-8"))
        top = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        top |= {(node.module or "").split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert not top & (HEAVY | {"omnivision"}), name
