"""README and docs say what is true: the tree, the commands, the exit codes, the links."""

from __future__ import annotations

import dataclasses
import re
import shlex
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from omnivision_train.main import RECIPES, config_class

from omnivision import errors
from omnivision.config_files import load_config
from omnivision.world.build import PRESETS
from omnivision_cli.failures import INTERRUPTED, RESUMABLE, TERMINATED, USAGE
from omnivision_cli.main import main
from omnivision_cli.verbs import VERBS, Verb, flat_verbs
from test_tree import tracked

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("omnivision/", "train/", "eval/", "scripts/", "docs/", ".ci/")
OUTPUTS = ("runs/", "world/", "world-small/", "data/", "images/", "phone/")  # what commands write, or a reader's own data
SUFFIXES = "py|sh|yaml|toml|md|json|jsonl|jinja|safetensors|png|jpg|html|log"
CONFIGS = {"training.md": "StageConfig", "training-align.md": "AlignConfig", "training-sft.md": "SftConfig",
           "training-dpo.md": "DpoConfig", "training-functions.md": "FunctionsConfig"}
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


def code_of(page: Path) -> list[str]:
    """Code blocks and inline code of a page; a backslash at a line's end joins it to the next."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [block or inline for block, inline in re.findall(r"^```\w*\n(.*?)^```|`([^`\n]+)`", text, re.S | re.M)]


def commands() -> list[str]:
    """Every `omnivision …` command in code blocks, tables and inline code of all pages."""
    lines = [line.strip() for page in PAGES for code in code_of(page) for line in code.splitlines()]
    found = [line for line in lines if line.startswith(("omnivision ", ".venv/bin/omnivision "))]
    return [one for one in dict.fromkeys(found) if not one.endswith(" …")]


def configured(line: str) -> tuple[str, str | None, list[str]] | None:
    """(recipe, configuration file, overrides) of a command that reads a recipe's configuration; None for others."""
    words = shlex.split(line.partition(" -- ")[0])[1:]
    named = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--config" and words[at + 1] != "FILE"]
    if words[0] == "train" and words[1] in RECIPES:
        recipe = words[1]
    elif words[:2] == ["config", "show"] and named:
        recipe = Path(named[0]).stem
    else:
        return None
    overrides = [word for word in words[2:] if re.match(r"[\w.]+=", word) and not word.startswith("key=")]
    return recipe, named[0] if named else None, overrides


def named_files(page: Path) -> list[str]:
    """Words in a page's code that name a file, or a folder of this repository; placeholders left out."""
    # `=`, commas, quotes and brackets around a path end it; a word with a placeholder in it names no single file
    words = [word.rstrip(".:") for code in code_of(page) for word in re.findall(r"[\w./<>{}*…-]+", code)]
    return [word for word in words if not re.search(r"[<>{}*…]|^\W|//", word)
            and (word.startswith(OURS) or re.search(rf"\.({SUFFIXES})$", word))]


@lru_cache(maxsize=1)
def sources() -> tuple[list[str], str]:
    """Tracked paths, and the text of everything that writes files."""
    paths = [path.relative_to(ROOT).as_posix() for path in tracked(ROOT)]
    code = [path for path in paths if path.startswith(OURS) and path.endswith((".py", ".sh", ".yaml"))]
    return paths, "\n".join((ROOT / path).read_text(encoding="utf-8") for path in code)


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
    line, _, flags = line.partition(" -- ")
    assert all(f'"{flag}"' in launcher() for flag in re.findall(r"--\w+", flags)), f"DeepSpeed's launcher does not know {flags}"
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


@lru_cache(maxsize=1)
def launcher() -> str:
    """The source of DeepSpeed's launcher, read without importing it (that takes seconds)."""
    return (Path(find_spec("deepspeed").origin).parent / "launcher" / "runner.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", [one for one in commands() if configured(one)])
def test_overrides_fit_the_configuration(line):
    recipe, file, overrides = configured(line)
    load_config(config_class(recipe), ROOT / file if file else None, overrides)


@pytest.mark.parametrize("page", sorted(CONFIGS))
def test_tables_of_keys_are_the_configuration(page):
    import omnivision_train.config as configs

    cls, shared = getattr(configs, CONFIGS[page]), defaults(configs.StageConfig)
    own = {key: value for key, value in defaults(cls).items() if cls is configs.StageConfig or shared.get(key, ...) != value}
    assert key_table((ROOT / "docs" / page).read_text(encoding="utf-8")) == own


def test_keys_that_may_change_when_a_run_goes_on_are_all_named():
    from omnivision_train.config import MAY_CHANGE

    named = re.search(r"Speed and place\nmay change too \(([^)]*)\)", (ROOT / "docs/training.md").read_text(encoding="utf-8"))[1]
    assert set(re.findall(r"`(\w+)`", named)) - {"dpo"} == MAY_CHANGE - {"out"}  # another folder is another run


@pytest.mark.parametrize("recipe", ["vision", "language"])
def test_tables_of_the_stand_ins_are_their_configuration(recipe):
    section = re.search(rf"^## {recipe}\n(.*?)^## ", (ROOT / "docs/stand-ins.md").read_text(encoding="utf-8"), re.S | re.M)[1]
    assert key_table(section) == defaults(config_class(recipe))


def key_table(text: str) -> dict:
    """key -> default, from rows such as | `lr` | `0.1` | … |."""
    return {key: yaml.safe_load(value) for key, value in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.M)}


def defaults(cls: type) -> dict:
    return {field.name: getattr(cls(), field.name) for field in dataclasses.fields(cls)}


def test_sizes_of_the_world_are_its_presets():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", (ROOT / "docs/world.md").read_text(encoding="utf-8"), re.M)
    assert {name: int(quick) for name, quick, _ in rows} == PRESETS["quick"]
    assert {name: int(long) for name, _, long in rows} == PRESETS["long"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_exist_or_are_written(page):
    paths, code = sources()
    for word in named_files(page):
        here = any(f"/{path}".endswith(f"/{word}") or path.startswith(word.rstrip("/") + "/") for path in paths)
        written = not word.startswith(OURS) and (word.startswith(OUTPUTS) or Path(word).name in code)
        assert here or written, f"{page.name} names {word}"


def test_modules_named_exist():
    for page in PAGES:
        for module in re.findall(r"python -m (omnivision\w*(?:\.\w+)*)", page.read_text(encoding="utf-8")):
            assert find_spec(module), f"{page.name} names {module}"


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
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            there = page.parent / target if target else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_scripts_named_exist():
    for page in PAGES:
        for name in re.findall(r"bash ((?:scripts|\.ci)/[\w./-]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), name


def test_tests_named_exist():
    written = {name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    assert len(named) > 10 and named <= written, named - written
