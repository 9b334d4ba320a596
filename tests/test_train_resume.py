"""Interrupted runs: they go on from the newest checkpoint that proves itself and end where an uninterrupted run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import train_world
from omnivision_train.callbacks import Log

from omnivision.config_files import dump_config
from omnivision.errors import ConfigError, DataError
from omnivision.runs import RunLock, newest_checkpoint, verifies

STEPS = {"max_steps": 6, "save_steps": 2, "keep_checkpoints": 2}


class Killed(BaseException):
    """Stands for a process that dies: nothing below may catch it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    return train_world.train(train_world.settings(world, tmp_path_factory.mktemp("whole"), "sft", **STEPS), "sft")


def interrupt(monkeypatch, step, act) -> None:
    """Calls act() when a run has logged a step."""
    original = Log.on_log

    def on_log(self, args, state, control, logs=None, **kwargs):
        original(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == step and logs and "loss" in logs:
            act()

    monkeypatch.setattr(Log, "on_log", on_log)


def die():
    raise Killed


def killed_run(world, folder, monkeypatch, step=5):
    """A run that died in its step; returns its config."""
    config = train_world.settings(world, folder, "sft", **STEPS)
    with monkeypatch.context() as patch:
        interrupt(patch, step, die)
        with pytest.raises(Killed):
            train_world.train(config, "sft")
    return config


def same_weights(one, other):
    one, other = train_world.weights(one), train_world.weights(other)
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_run_ends_as_if_nothing_had_happened(world, uninterrupted, tmp_path, monkeypatch, capsys):
    config = killed_run(world, tmp_path, monkeypatch)
    checkpoints = tmp_path / "sft" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-2", "step-4"]
    assert not (tmp_path / "sft" / "final").exists()
    capsys.readouterr()
    final = train_world.train(config, "sft")
    said = capsys.readouterr().err
    assert "sft 5/6" in said and "sft 4/6" not in said  # it went on, and did not begin again
    assert same_weights(final, uninterrupted)
    steps = [line["step"] for line in train_world.read_lines(tmp_path / "sft" / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6] and train_world.losses(final) == train_world.losses(uninterrupted)


def test_a_damaged_checkpoint_is_skipped(world, uninterrupted, tmp_path, monkeypatch, capsys):
    config = killed_run(world, tmp_path, monkeypatch)
    newest = tmp_path / "sft" / "checkpoints" / "step-4"
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert not verifies(newest)
    capsys.readouterr()
    final = train_world.train(config, "sft")
    said = capsys.readouterr().err
    assert "step-4 is damaged or incomplete and is skipped" in said and "sft 3/6" in said and "sft 2/6" not in said
    assert same_weights(final, uninterrupted)


def test_sigterm_saves_and_ends_with_143(world, uninterrupted, tmp_path, monkeypatch):
    config = train_world.settings(world, tmp_path, "sft", **STEPS)
    with monkeypatch.context() as patch:
        interrupt(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            train_world.train(config, "sft")
    assert stopped.value.code == 143 and not (tmp_path / "sft" / "final").exists()
    saved = sorted((tmp_path / "sft" / "checkpoints").glob("step-*"))
    assert verifies(saved[-1]) and saved[-1].name == "step-3"  # the step that ran when the signal came; no step to save otherwise
    assert same_weights(train_world.train(config, "sft"), uninterrupted)


def test_only_so_many_checkpoints_are_kept(world, tmp_path, monkeypatch):
    config = train_world.settings(world, tmp_path, "sft", max_steps=5, save_steps=1, keep_checkpoints=2)
    interrupt(monkeypatch, 5, die)
    with pytest.raises(Killed):
        train_world.train(config, "sft")
    assert sorted(p.name for p in (tmp_path / "sft" / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_a_folder_in_use_is_refused_with_its_owner(world, tmp_path):
    with RunLock(tmp_path / "sft"):
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on "):
            train_world.train(train_world.settings(world, tmp_path, "sft"), "sft")
    assert not (tmp_path / "sft" / "config.resolved.yaml").exists()


def test_a_changed_start_is_refused(world, uninterrupted, tmp_path):
    import shutil

    from omnivision_train import stages

    copied = tmp_path / "final"
    shutil.copytree(uninterrupted, copied)
    with (copied / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="changed after its stage ended: config.json"):
        stages.open_model(train_world.settings(world, tmp_path, "dpo", copied), "dpo")


@pytest.mark.parametrize("changes, message", [({"lr": 1e-4}, r"lr was 0.005 and is 0.0001"), ({"seed": 4}, "seed was 3 and is 4"),
                                              ({"batch_size": 4}, "began with 2 rows a step, now it would be 4.*= 2")])
def test_a_run_goes_on_with_the_settings_it_began_with(world, tmp_path, monkeypatch, changes, message):
    from dataclasses import replace

    config = killed_run(world, tmp_path, monkeypatch)
    noted = [(tmp_path / "sft" / name).read_bytes() for name in ("config.resolved.yaml", "env.json")]
    with pytest.raises(ConfigError, match=message):
        train_world.train(replace(config, **changes), "sft")
    assert [(tmp_path / "sft" / name).read_bytes() for name in ("config.resolved.yaml", "env.json")] == noted
    train_world.train(replace(config, batch_size=1, accumulation=2, threads=1, save_steps=5), "sft")  # the same rows a step


def test_another_tower_or_tokenizer_in_the_same_folder_is_refused(world, tmp_path, monkeypatch):
    import shutil

    for part in ("vision", "language"):
        shutil.copytree(getattr(world, part), tmp_path / part)
    changes = {"vision": str(tmp_path / "vision"), "language": str(tmp_path / "language")}
    config = train_world.settings(world, tmp_path, "align", **STEPS, **changes)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, die)
        with pytest.raises(Killed):
            train_world.train(config, "align")
    for file in (tmp_path / "language" / "tokenizer.json", tmp_path / "vision" / "model.safetensors"):
        kept = file.read_bytes()
        file.write_bytes(kept + b" ")
        with pytest.raises(DataError, match=f"What the run reads has changed since it began.*{file.name}"):
            train_world.train(config, "align")
        file.write_bytes(kept)
    train_world.train(config, "align")


def test_a_later_stage_keeps_its_projector(world, tmp_path):
    for key, asked, found in (("projector", "conv", "raster"), ("projector_gelu", "tanh", "erf")):
        with pytest.raises(ConfigError, match=f"`{key}` is {asked}, and the model it starts from has {found}"):
            train_world.train(train_world.settings(world, tmp_path, "sft", world.start("sft"), **{key: asked}), "sft")


def test_a_projector_is_made_as_asked(world, tmp_path):
    final = train_world.train(train_world.settings(world, tmp_path, "align", projector="block", projector_gelu="tanh", max_steps=1), "align")
    made = json.loads((final / "config.json").read_text())
    assert (made["projector_layout"], made["projector_gelu"]) == ("block", "tanh")


def test_changed_data_are_refused(world, tmp_path, monkeypatch):
    import shutil
    from dataclasses import replace

    file = tmp_path / "rows.jsonl"
    shutil.copy(world.file("sft"), file)
    monkeypatch.setattr(train_world.World, "file", lambda self, stage: str(file))
    config = killed_run(world, tmp_path, monkeypatch)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    with pytest.raises(DataError, match="What the run reads has changed since it began.*rows.jsonl"):
        train_world.train(replace(config), "sft")


def test_a_changed_table_of_functions_is_refused(world, tmp_path, monkeypatch):
    """Its tokens would mean something else from there on."""
    file = tmp_path / "given.json"
    file.write_text(json.dumps(train_world.FUNCTIONS))
    config = train_world.settings(world, tmp_path, "functions", **STEPS, functions=str(file))
    with monkeypatch.context() as patch:
        interrupt(patch, 3, die)
        with pytest.raises(Killed):
            train_world.train(config, "functions")
    file.write_text(json.dumps(train_world.FUNCTIONS[::-1]))
    with pytest.raises(DataError, match="What the run reads has changed since it began.*given.json"):
        train_world.train(config, "functions")
    file.write_text(json.dumps(train_world.FUNCTIONS))
    assert train_world.train(config, "functions").is_dir()


def test_a_signal_to_all_processes_of_a_run_is_not_the_end_of_its_loaders(world, tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text(dump_config(train_world.settings(world, tmp_path, "sft", max_steps=5000, save_steps=5000, workers=2)))
    command = [sys.executable, "-m", "omnivision_cli", "train", "sft", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("sft 3/5000"):
                os.killpg(process.pid, signal.SIGTERM)
                break
        said.append(process.stderr.read())
    assert process.returncode == 143, "".join(said)[-2000:]
    assert newest_checkpoint(tmp_path / "sft" / "checkpoints", print) is not None


def test_half_a_line_of_metrics_is_no_line(world, uninterrupted, tmp_path, monkeypatch):
    config = killed_run(world, tmp_path, monkeypatch)
    with (tmp_path / "sft" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    final = train_world.train(config, "sft")
    assert train_world.losses(final) == train_world.losses(uninterrupted)


@pytest.mark.parametrize("variables, devices, message", [
    ({"ACCELERATE_USE_CPU": "true"}, 0, "`accelerate launch` has started a single process"),
    ({"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4"}, 2, "Process 2 of this machine has no device: there are 2"),
])  # fmt: skip
def test_a_launcher_that_cannot_work_is_refused(world, tmp_path, monkeypatch, variables, devices, message):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(ConfigError, match=message):
        train_world.train(train_world.settings(world, tmp_path, "sft"), "sft")
    assert not (tmp_path / "sft").exists()
