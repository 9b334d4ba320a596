"""Configuration files: what is accepted, and that every mistake is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

from omnivision.config_files import dump_config, load_config, load_tree, schema
from omnivision.errors import ConfigError


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class Recipe:
    name: str
    steps: int = 10
    bf16: bool = False
    resume: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    parts: list[str] = field(default_factory=list)
    flags: dict[str, int] = field(default_factory=dict)
    optimizer: Optimizer = Optimizer()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 is needed.")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_defaults_and_overrides(tmp_path):
    path = write(tmp_path, "name: sft\nsteps: 5\noptimizer: {lr: 1e-4}\nparts: [projector]\n")
    recipe = load_config(Recipe, path, ["steps=7", "optimizer.betas=[0.8, 0.9]", "flags.a=3", "resume=007"])
    assert recipe == Recipe("sft", steps=7, resume="007", parts=["projector"], flags={"a": 3}, optimizer=Optimizer(1e-4, (0.8, 0.9)))


@pytest.mark.parametrize("name", ["对话", "010", "1e5", "1:30", "2024-02-30", "yes", "5 #2", "null", "0x1f"])
def test_round_trip(tmp_path, name):
    recipe = Recipe(name, parts=["a", name], flags={"x": 1}, optimizer=Optimizer(0.5))
    assert load_config(Recipe, write(tmp_path, dump_config(recipe))) == recipe


@pytest.mark.parametrize(("text", "read"), [("010", 10), ("0o17", 15), ("0x1f", 31), ("1_000", 1000), ("-3", -3), ("5e8", 5e8), ("1e-4", 1e-4), ("1.5e+3", 1500.0),
                                            (".5", 0.5), ("1:30", "1:30"), ("2024-13-01", "2024-13-01"), ("1.2.3", "1.2.3"), ("1e5x", "1e5x"), ("'5e8'", "5e8")])
def test_numbers_are_those_of_todays_yaml(tmp_path, text, read):
    @dataclass(frozen=True)
    class Free:
        any: dict[str, Any]

    for config in (load_config(Free, write(tmp_path, f"any: {{deep: {{value: {text}}}}}")), load_config(Free, None, [f"any.deep.value={text}"])):
        assert config.any == {"deep": {"value": read}} and type(config.any["deep"]["value"]) is type(read)


def test_overrides_of_text_are_taken_as_they_are():
    recipe = load_config(Recipe, None, ["name=runs/exp #2", "resume=2024-02-30"])
    assert (recipe.name, recipe.resume) == ("runs/exp #2", "2024-02-30")
    assert load_config(Recipe, None, ["name='a b'", "resume=null"]) == Recipe("a b")


def test_overrides_leave_what_they_are_laid_over():
    tree = {"name": "a", "optimizer": {"lr": 0.5}}
    assert load_tree(Recipe, tree, ["optimizer.lr=1"], "here").optimizer.lr == 1 and tree["optimizer"] == {"lr": 0.5}


@pytest.mark.parametrize(("text", "overrides", "said"), [
    ("name: a", ["name="], "`name` is empty"),
    ("name: a", ["resume= "], "or null for none"),
    ("? [a, b]\n: 1", [], "a key is a list"),
    ("name: a\nstep: 3", [], "Did you mean `steps`?"),
    ("name: a\noptimizer: {rl: 3}", [], "`optimizer.rl`"),
    ("name: a\noptimizer: {beta: 3}", [], "Did you mean `optimizer.betas`?"),
    ("name: a\nzzz: 3", [], "Known keys: name, steps"),
    ("steps: 3", [], "Missing: `name`"),
    ("name: a\nsteps: 3.5", [], "`steps` is 3.5 (float) but has to be int"),
    ("name: a\nsteps: true", [], "has to be int"),
    ("name: a\nbf16: 1", [], "has to be bool"),
    ("name: 5", [], "has to be str"),
    ("name: a\nresume: 5", [], "has to be str or null"),
    ("name: a\nprecision: fp8", [], "one of 'fp32', 'bf16'"),
    ("name: a\nparts: [1]", [], "`parts[0]`"),
    ("name: a\noptimizer: {betas: [1]}", [], "has 1 entries but needs 2"),
    ("name: a\noptimizer: {lr: nan}", [], "has to be float"),
    ("name: a\nsteps: 0", [], "at least 1"),
    ("name: a\nname: b", [], "stands twice"),
    ("- a", [], "holds a list"),
    ("name: [", [], "not YAML"),
    ("name: a", ["steps"], "`steps` is no override"),
    ("name: a", ["steps=x"], "has to be int"),
    ("name: a", ["optimizer.l=1"], "`optimizer.l`"),
])
def test_mistakes_are_named(tmp_path, text, overrides, said):
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, write(tmp_path, text), overrides)
    assert said in caught.value.paragraph()
    assert caught.value.exit_code == 2


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Recipe, tmp_path / "none.yaml")


def test_schema_judges_like_the_loader(tmp_path):
    rules = schema(Recipe)
    assert rules["required"] == ["name"] and rules["properties"]["steps"]["default"] == 10
    jsonschema.validate({"name": "a", "optimizer": {"lr": 0.1}, "resume": None}, rules)
    for wrong in ({"steps": 3}, {"name": "a", "step": 3}, {"name": "a", "optimizer": {"rl": 1}}, {"name": 5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, rules)
