"""What a config says of the data: values that cannot be are refused before anything is read; a run of bad rows alone ends as bad data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import train_world
from omnivision_train import pretraining
from omnivision_train.config import POSITIVE, FunctionsConfig, StageConfig
from omnivision_train.main import RECIPES, config_class
from omnivision_train.main import main as command
from omnivision_train.run_data import check_settings

from omnivision.config_files import load_config
from omnivision.errors import ConfigError, DataError

NAN = float("nan")
WRONG = [("passes", [NAN]), ("passes", [1e9]), ("passes", [float("inf")]), ("passes", [0.0]), ("passes", [1.0, 1.0]), ("weights", [NAN]), ("weights", [1e308]),
         ("weights", [-1.0]), ("max_bad_fraction", NAN), ("max_bad_fraction", -1.0), ("max_bad_fraction", 1.5), ("limit", 0), ("limit", -3), ("replay_limit", 0)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.mark.parametrize("key, value", WRONG)
def test_a_value_that_cannot_be_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"`{key}` is"):
        check_settings(FunctionsConfig(data=["a.jsonl"], **{key: value}))


def test_passes_and_weights_exclude_each_other():
    with pytest.raises(ConfigError, match="Both"):
        check_settings(FunctionsConfig(data=["a.jsonl"], passes=[1.0], weights=[1.0]))


def test_values_at_their_limits_are_fine():
    check_settings(FunctionsConfig(data=["a.jsonl", "b.jsonl"], passes=[0.001, 1000.0], max_bad_fraction=0.0, limit=1, replay_limit=1))
    check_settings(FunctionsConfig(data=["a.jsonl"], weights=[1e9], max_bad_fraction=1.0))


@pytest.mark.parametrize("schedule", get_args(get_type_hints(StageConfig)["schedule"]))
def test_every_schedule_that_is_offered_trains(world, tmp_path, schedule):
    assert train_world.train(train_world.settings(world, tmp_path, "align", schedule=schedule, warmup=0.5), "align").is_dir()


def test_no_steps_at_all_are_no_training():
    with pytest.raises(ConfigError, match="`max_steps` is 0: nothing would train"):
        load_config(config_class("align"), None, ["max_steps=0"])


def test_a_schedule_that_is_not_is_refused_before_anything_loads():
    with pytest.raises(ConfigError, match="schedule"):
        load_config(config_class("sft"), None, ["schedule=cosin"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_with_which_nothing_could_run_are_refused_before_anything_loads(recipe, tmp_path):
    cls = config_class(recipe)
    counts = [key for key in (POSITIVE if recipe in train_world.STAGES else pretraining.POSITIVE) if hasattr(cls(), key)]
    for key in counts:
        for value in ("0", "-1"):
            with pytest.raises(ConfigError, match=rf"^`{key}` is {value} \({key}\)\. Give {key} a number above 0\.$"):
                load_config(cls, None, [f"{key}={value}"])
    with pytest.raises(ConfigError, match="`lr` is inf"):
        load_config(cls, None, ["lr=.inf"])
    with pytest.raises(ConfigError, match="`workers` is -1"):
        load_config(cls, None, ["workers=-1"])
    file = tmp_path / "config.yaml"
    file.write_text(f"{counts[0]}: 0\nlr: -0.1\nworkers: 0\n")
    with pytest.raises(ConfigError, match=rf"^`{counts[0]}` is 0, `lr` is -0\.1 \({counts[0]}, lr\)"):
        command([recipe, "--config", str(file)])


@pytest.mark.parametrize("recipe, key", [("functions", "token_weight"), ("sft", "exit_loss")])
def test_a_weight_below_zero_would_unlearn(recipe, key):
    with pytest.raises(ConfigError, match=f"`{key}` is -1 "):
        load_config(config_class(recipe), None, [f"{key}=-1"])


@pytest.mark.parametrize("stage", train_world.STAGES)
def test_they_are_looked_at_before_the_files(world, tmp_path, stage):
    with pytest.raises(ConfigError, match="`passes` is"):
        train_world.train(train_world.settings(world, tmp_path, stage, data=[str(tmp_path / "none.jsonl")], passes=[NAN]), stage)


def test_a_file_stands_once_however_its_path_is_written(world, tmp_path):
    file = Path(world.file("align"))
    with pytest.raises(ConfigError, match="A file stands twice"):
        train_world.train(train_world.settings(world, tmp_path, "align", data=[str(file), str(world.folder / "images" / ".." / file.name)]), "align")


BAD = {  # a row that reading lets pass and its stage leaves out
    "align": {"image": "images/none.png", "caption": "A cat."}, "sft": {"question": "What? " * 900, "answer": "cat"},
    "dpo": {"prompt": "What?", "chosen": "cat", "rejected": "cat"}, "functions": {"request": "Fly", "calls": [{"name": "fly", "arguments": {}}]},
}  # fmt: skip


@pytest.mark.parametrize("stage", BAD)
def test_bad_rows_alone_are_bad_data_however_many_are_allowed(world, tmp_path, stage):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [BAD[stage]] * 3))
    config = train_world.settings(world, tmp_path, stage, data=[str(file)], held_out=[world.file(stage)], max_bad_fraction=1.0)
    with pytest.raises(DataError, match=rf"No row is left to train on: all 3 are bad; the first: .*{file}:1"):
        train_world.train(config, stage)


@pytest.mark.parametrize("stage, key, whose", [("align", "out", "run"), ("align", "feature_cache", "cache"), ("align", "picture_cache", "cache"),
                                               ("dpo", "reference_cache", "reference cache")])
def test_a_run_where_no_folder_can_be_is_refused(world, tmp_path, stage, key, whose):
    (file := tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"The {whose}'s folder cannot be made: .*{file}.*Give another one"):
        train_world.train(replace(train_world.settings(world, tmp_path / "run", stage), **{key: str(file)}), stage)
