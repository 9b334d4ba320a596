"""The stand-ins' runs: stopped anywhere and started again they end in the same bytes; a folder has one owner and one run."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from omnivision_train import language, pretraining, pretraining_checkpoint, vision
from omnivision_train.language import LanguageConfig
from omnivision_train.language_tokenizer import train_tokenizer
from omnivision_train.vision import VisionConfig

from omnivision.errors import ConfigError, DivergedError
from omnivision.model.build import WEIGHTS
from omnivision.runs import RunLock, file_hash

OFTEN = {"warmup": 2, "save_steps": 2, "log_every": 1, "workers": 0, "threads": 1}
RECIPES = {  # one from the weights of another run, one fresh
    "vision": (vision.train, VisionConfig(start=str(WEIGHTS / "tiny-vision"), batch=2, steps=3, whole_steps=3, whole_batch=1, **OFTEN)),
    "language": (language.train, LanguageConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=700, batch=2, steps=6,
                                                drill_steps=2, **OFTEN)),
}


@pytest.fixture(scope="module", autouse=True)
def small_tokenizer():
    """Of few lessons, quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "train_tokenizer", partial(train_tokenizer, lessons=40))
        yield


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request, tmp_path_factory):
    """(train, config, folder of a run that nothing stopped)."""
    train, config = RECIPES[request.param]
    return train, config, train(replace(config, out=str(tmp_path_factory.mktemp("whole") / "run")))


def same(folder: Path, whole: Path) -> None:
    """Every file of the result has the same bytes, every logged number is the same, and nothing else is left."""
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in folder.iterdir()} == names and {"omnivision.json", "metrics.jsonl", "tokenizer.json"} <= names
    note = json.loads((whole / "omnivision.json").read_text())
    assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in (*note["files"], "omnivision.json"))
    assert logged(folder) == logged(whole)


def logged(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def acting_after(count: int, act):
    """`one_step` that acts at the end of this process' step of that number."""
    done, one_step = [], pretraining.one_step

    def step(*args):
        numbers = one_step(*args)
        done.append(numbers)
        if len(done) == count:
            act()
        return numbers

    return step


def forked(train, config, count: int, act) -> int:
    """Trains in a process group of its own, which acts on itself; returns how it ended (below 0: by which signal)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            pretraining.one_step = acting_after(count, act)
            train(config)
        except SystemExit as stop:
            code = stop.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def signal_group() -> None:
    """SIGTERM to this process' group from outside, as `timeout` does, and the time it takes for the death of a worker to be noticed."""
    group, sender = os.getpgrp(), os.fork()
    if sender == 0:
        os.killpg(group, signal.SIGTERM)
        os._exit(0)
    os.waitpid(sender, 0)
    time.sleep(0.5)


def test_a_run_that_was_killed_and_stopped_ends_in_the_same_bytes(recipe, tmp_path):
    train, config, whole = recipe
    config = replace(config, out=str(tmp_path / "run"), workers=1)
    assert forked(train, config, 6, lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
    assert len(logged(tmp_path / "run")) == 5  # the fifth step, behind the checkpoint, is run and logged again
    assert forked(train, config, 1, signal_group) == 143
    assert [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())] == ["step-4", "step-5"]
    same(train(config), whole)


def test_what_ended_early_is_no_result_and_what_is_finished_is_not_begun_again(recipe, tmp_path, monkeypatch):
    train, config, whole = recipe
    config, stopped = replace(config, out=str(tmp_path / "run")), str(tmp_path / "run")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, monkeypatch.context() as patch:
        patch.setattr(pretraining, "one_step", acting_after(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        train(config)
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(ConfigError, match="There is no .*safetensors to start from.*its run finished"):
        train(replace(config, out=str(tmp_path / "next"), start=stopped))
    with pytest.raises(ConfigError, match="began with other settings: seed was 1 and is 2"):
        train(replace(config, seed=2))
    settings = tmp_path / "run/config.resolved.yaml"
    settings.write_text(settings.read_text().replace("warmup:", "warm:"))  # as an earlier version wrote it
    with pytest.raises(ConfigError, match="began with other settings: warmup is newer than that run"):
        train(config)
    with pytest.raises(ConfigError, match="result of a run that is finished"):
        train(replace(config, out=str(whole)))


@pytest.mark.parametrize("config, settings, said", [
    (VisionConfig, {"window": 28}, "`window` is 28, but a picture has 27 patches"),
    (LanguageConfig, {"drill_kinds": {"foo": 1.0}}, "`drill_kinds` is {'foo': 1.0}"), (LanguageConfig, {"drill_kinds": {}}, "`drill_kinds` is"),
    (LanguageConfig, {"drill_kinds": {"counting": 0.0}}, "`drill_kinds` is"),
    (LanguageConfig, {"drill_kinds": {"counting": 2.0, "chart": -1.0}}, "`drill_kinds` is"),
    (LanguageConfig, {"drill_kinds": {"counting": float("nan")}}, "`drill_kinds` is"),
    (LanguageConfig, {"matching_layers": [9]}, r"`matching_layers` is \[9\], .* 4 layers"),
    (LanguageConfig, {"matching_layers": [-1]}, r"`matching_layers` is \[-1\]"), (LanguageConfig, {"num_hidden_layers": 1}, "has 1 layers"),
])
def test_settings_that_could_not_run_are_refused_at_once(config, settings, said):
    with pytest.raises(ConfigError, match=said):
        config(**settings)


def test_layers_are_counted_in_the_model_that_a_run_starts_from(tmp_path):
    config = LanguageConfig(start=str(WEIGHTS / "tiny-language"), matching_layers=[4], num_hidden_layers=8)
    with pytest.raises(ConfigError, match=r"`matching_layers` is \[4\], but the model has 4 layers"):
        language.build(config)


def test_a_folder_has_one_owner(tmp_path):
    train, config = RECIPES["language"]
    with RunLock(tmp_path), pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        train(replace(config, out=str(tmp_path)))
    assert not (tmp_path / "config.resolved.yaml").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_where_no_folder_can_be_is_refused(tmp_path, name):
    train, config = RECIPES[name]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="The run's folder cannot be made: .*file"):
        train(replace(config, out=str(tmp_path / "file")))


def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch, capfd):
    train, config = RECIPES["language"]
    config = replace(config, out=str(tmp_path), save_steps=1)
    with pytest.raises(SystemExit), monkeypatch.context() as patch:
        patch.setattr(pretraining, "one_step", acting_after(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        train(config)
    newest = tmp_path / "checkpoints/step-3/optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    steps = []
    monkeypatch.setattr(pretraining, "one_step", lambda recipe, batch, where: steps.append(where) or {"loss": 0.0})
    train(config)
    assert "step-3 is damaged" in capfd.readouterr().err and len(steps) == 4 and steps[0].endswith("step 2")


@pytest.mark.parametrize("moment", ["folder_hashes", "flush_folder"])  # before its files are moved, and before the note says that they are
def test_a_kill_while_the_result_is_written_loses_nothing(tmp_path, monkeypatch, moment):
    train, config = RECIPES["language"]
    config = replace(config, out=str(tmp_path), steps=2)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(pretraining_checkpoint, moment, lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        train(config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-2"] and not (tmp_path / "omnivision.json").exists()
    train(config)
    note = json.loads((tmp_path / "omnivision.json").read_text())
    assert {name: file_hash(tmp_path / name) for name in note["files"]} == note["files"] and "model.safetensors" in note["files"]
    assert len(logged(tmp_path)) == 2 and not (tmp_path / "checkpoints").exists()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, monkeypatch):
    train, config = RECIPES["language"]
    monkeypatch.setattr(language, "losses", lambda *_: (torch.tensor(torch.nan), {}))
    with pytest.raises(DivergedError, match="The loss is nan .*step 0"):
        train(replace(config, out=str(tmp_path)))


def test_a_signal_to_every_process_ends_the_run_as_stopped(tmp_path, monkeypatch):
    train, config = RECIPES["language"]

    def worker_ends(signalled: bool):
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    for signalled, expected in ((False, RuntimeError), (True, SystemExit)):
        with pytest.raises(expected), monkeypatch.context() as patch:
            patch.setattr(pretraining, "one_step", acting_after(3, lambda signalled=signalled: worker_ends(signalled)))
            train(replace(config, out=str(tmp_path / str(signalled))))
        assert [path.name for path in (tmp_path / str(signalled) / "checkpoints").iterdir()] == ["step-2"]
