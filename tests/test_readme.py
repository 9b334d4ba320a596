"""README and docs say what is true: the tree, the commands, the exit codes, the links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from omnivision import errors
from omnivision_cli.failures import INTERRUPTED, RESUMABLE, TERMINATED, USAGE
from omnivision_cli.main import main
from omnivision_cli.verbs import VERBS, Verb, flat_verbs
from test_tree import tracked

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Shells and helpers inside a named folder; the README names stations, not every drawer.
UNNAMED = ("omnivision/weights/", "eval/tasks/", "train/configs/", "tests/")


def tree_paths(text: str) -> list[str]:
    """Paths named by the tree's code block, from its indentation."""
    block = re.search(r"## The tree\n\n```\n(.*?)```", text, re.S)[1]
    paths, parents = [], []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [line.split()[0].rstrip("/")]
        paths.append("/".join(parents))
    return paths


def commands() -> list[str]:
    """Every `omnivision …` command in code blocks, tables and inline code of all pages."""
    found = []
    for page in PAGES:
        for code in re.findall(r"```\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.S):
            found += [line.strip() for line in (code[0] or code[1]).splitlines() if line.strip().startswith(("omnivision ", ".venv/bin/omnivision "))]
    return [one for one in dict.fromkeys(found) if "…`" not in one and one.split()[1] != "…"]


def test_the_tree_is_the_tree():
    named = tree_paths(PAGES[0].read_text(encoding="utf-8"))
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, f"README names {missing}"
    folders = {path.parent.relative_to(ROOT).as_posix() for path in tracked(ROOT)} - {"."}
    unnamed = {folder for folder in folders if folder not in named and not (folder + "/").startswith(UNNAMED)}
    assert not unnamed, f"README does not name {sorted(unnamed)}"


def test_there_are_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line, capsys):
    words = shlex.split(re.sub(r"[\[\]…|]", " ", line))[1:]
    leading = words[: next((i for i, word in enumerate(words) if word.startswith("--") or "=" in word), len(words))]
    entry = VERBS.get(leading[0])
    assert entry is not None, f"{leading[0]} is no verb"
    if not isinstance(entry, Verb):
        assert leading[1] in entry, line
    assert main([*leading, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or word in shown, f"{word} does not stand in the help of {line}"


@pytest.mark.parametrize("verb", list(flat_verbs()))
def test_every_verb_has_help_with_an_example_and_json(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "example" in shown and f"omnivision {verb}" in shown
    assert verb == "train" or "--json" in shown  # train's flags are those of its stages


def test_every_verb_stands_in_the_readme():
    text = PAGES[0].read_text(encoding="utf-8")
    assert not [verb for verb in flat_verbs() if f"`omnivision {verb}" not in text]


def test_exit_codes_are_listed():
    listed = set(re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", PAGES[0].read_text(encoding="utf-8"), re.M))))
    ours = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.OmniError)}
    assert listed == {str(code) for code in ours | {0, USAGE, RESUMABLE, INTERRUPTED, TERMINATED}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_scripts_named_exist():
    for page in PAGES:
        for name in re.findall(r"bash ((?:scripts|\.ci)/[\w./-]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), name
