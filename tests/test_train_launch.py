"""Two processes on a CPU give what one gives at the same global batch; DeepSpeed's launcher and torchrun, ZeRO 0 to 3."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import train_world
from omnivision_train import launch as launch_module
from omnivision_train import main as main_module

from omnivision.config_files import dump_config
from omnivision.errors import ConfigError, OmniError, ResumableError
from omnivision.runs import newest_checkpoint, write_hand_over

WATCHDOG = 480  # seconds; a quiet machine takes some 40, a busy one had not started both ranks after 240


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def mixed(world):
    """Eight rows of which one has a picture: in its step one rank has a picture and the other has none.

    Two whole steps of four: a shorter last batch would be filled up for two processes, not for one.
    """
    rows = train_world.read_lines(world.file("sft"))
    return str(train_world.write_lines(world.folder / "mixed.jsonl", [rows[0], *({**row, "images": []} for row in rows[5:])]))


def mixed_settings(world, out, mixed, **changes):
    """Three steps of four rows each, however many processes share them."""
    return train_world.settings(world, out, "sft", data=[mixed], **changes)


@pytest.fixture(scope="module")
def alone(world, mixed, tmp_path_factory):
    """One process with the whole batch."""
    return train_world.train(mixed_settings(world, tmp_path_factory.mktemp("alone"), mixed, batch_size=4, zero_stage=2), "sft")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def started(command: list[str]) -> subprocess.Popen:
    """A command of several processes, in a group of its own."""
    foreign = ("PYTHONDONTWRITEBYTECODE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in foreign} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment)


def run(command: list[str]) -> None:
    """Runs a command to its end; ends all its processes when the watchdog's time is over."""
    process = started(command)
    try:
        said, _ = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hung for {WATCHDOG} s: {process.communicate()[0][-2000:]}")
    assert process.returncode == 0, said[-4000:]


def deepspeed_command(file) -> list[str]:
    """The stage's own command with two processes."""
    return [sys.executable, "-m", "omnivision_cli", "train", "sft", "--config", str(file), "--",
            "--num_accelerators", "2", "--master_port", free_port()]


def torchrun_command(file) -> list[str]:
    """The same, started by torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port(),
            str(train_world.Path(main_module.__file__).resolve()), "sft", "--config", str(file)]


def accelerate_command(file) -> list[str]:
    """The same, started by accelerate with DeepSpeed."""
    return [sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", "--zero_stage", "2", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port(),
            str(train_world.Path(main_module.__file__).resolve()), "sft", "--config", str(file)]


def together(config, folder, command=deepspeed_command):
    """A stage with two processes, to its end; returns final/."""
    file = folder / "stage.yaml"
    file.write_text(dump_config(config))
    run(command(file))
    return folder / "out" / "sft" / "final"


def same(final, alone, tolerance=1e-3) -> None:
    assert train_world.losses(final) == pytest.approx(train_world.losses(alone), abs=tolerance)
    one, two = train_world.weights(alone), train_world.weights(final)
    assert set(one) == set(two)
    tower = [name for name in two if "vision_tower" in name]
    assert tower and all(torch.equal(one[name], two[name]) for name in tower)
    assert not any(name.suffix in (".bin", ".pt", ".pth") for name in final.rglob("*"))


@pytest.mark.timeout(WATCHDOG + 60)
def test_two_processes_learn_what_one_learns(world, mixed, alone, tmp_path):
    config = mixed_settings(world, tmp_path / "out", mixed, batch_size=2, zero_stage=2, save_steps=2)
    same(together(config, tmp_path), alone)


@pytest.mark.slow
@pytest.mark.timeout(WATCHDOG + 60)
@pytest.mark.parametrize("command", [torchrun_command, accelerate_command])
def test_torchrun_and_accelerate_serve_as_well(world, mixed, alone, tmp_path, command):
    """Half a batch on each of two processes gives what a whole one gives on one: a single process would not."""
    same(together(mixed_settings(world, tmp_path / "out", mixed, batch_size=2, zero_stage=2), tmp_path, command), alone)


@pytest.mark.slow
@pytest.mark.timeout(WATCHDOG + 60)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_zero_stage_gives_the_same_curve(world, mixed, alone, tmp_path, zero_stage):
    config = mixed_settings(world, tmp_path / "out", mixed, batch_size=2, zero_stage=zero_stage, save_steps=2)
    same(together(config, tmp_path), alone)


@pytest.mark.slow
@pytest.mark.timeout(3 * WATCHDOG)
def test_two_killed_processes_go_on_from_their_checkpoint(world, mixed, tmp_path):
    shared = {"batch_size": 2, "zero_stage": 2, "save_steps": 2}
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    configs = [replace(mixed_settings(world, folder / "out", mixed, **shared), max_steps=5) for folder in folders]
    whole = together(configs[0], folders[0])
    file = folders[1] / "stage.yaml"
    file.write_text(dump_config(configs[1]))
    with started(deepspeed_command(file)) as process:
        for line in process.stdout:
            if line.startswith("sft 3/5"):
                os.killpg(process.pid, signal.SIGKILL)
                break
    assert [p.name for p in (folders[1] / "out" / "sft" / "checkpoints").glob("step-*")] == ["step-2"]
    final = together(configs[1], folders[1])
    assert train_world.losses(final)[-3:] == pytest.approx(train_world.losses(whole)[-3:], abs=1e-6)
    one, two = train_world.weights(whole), train_world.weights(final)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(3 * WATCHDOG)
def test_sigterm_to_the_command_lets_two_processes_save(world, mixed, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text(dump_config(replace(mixed_settings(world, tmp_path / "out", mixed, batch_size=2, zero_stage=2, workers=1), max_steps=5000, save_steps=5000)))
    with started(deepspeed_command(file)) as process:
        for line in process.stdout:
            if line.startswith("sft 3/5000"):
                os.killpg(process.pid, signal.SIGTERM)  # to the command's process group, as `timeout` does, and again
                os.killpg(process.pid, signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 143
    newest = newest_checkpoint(tmp_path / "out" / "sft" / "checkpoints", print)
    assert newest is not None and newest.name == f"step-{train_world.read_lines(tmp_path / 'out' / 'sft' / 'metrics.jsonl')[-1]['step']}"


def test_launcher_flags_start_the_launcher(world, mixed, tmp_path, monkeypatch, capsys):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    started = []
    monkeypatch.setattr(main_module, "free_port", lambda: 4242)
    monkeypatch.setattr(main_module, "launch", lambda argv, flags: started.append((argv, flags)))
    file = tmp_path / "stage.yaml"
    file.write_text(dump_config(mixed_settings(world, tmp_path / "out", mixed)))
    with pytest.raises(ResumableError, match="ended without a result"):  # the launcher was killed, and its runner says 0
        main_module.main(["sft", "--config", str(file), "processes=2"])
    started.clear()
    (tmp_path / "out" / "sft" / "final").mkdir(parents=True)
    write_hand_over(tmp_path / "out" / "sft" / "final", "sft", None)
    assert main_module.main(["sft", "--config", str(file), "batch_size=1", "--", "--num_gpus", "8"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'sft' / 'final'}\n"
    assert main_module.main(["sft", "--config", str(file), "processes=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "out" / "sft" / "final")}
    assert started == [(["sft", "--config", str(file), "batch_size=1"], ["--num_gpus", "8"]),
                       (["sft", "--config", str(file), "processes=2"], ["--num_accelerators", "2", "--master_port", "4242"])]


class Launched:
    """Stands for the launcher's process: ends with a code, or is interrupted while it is waited for."""

    def __init__(self, interrupted: bool, code: int = 0) -> None:
        self.interrupted, self.code, self.said, self.pid = interrupted, code, [], os.getpid()

    def __call__(self, command, env, start_new_session, stdout):
        assert stdout != sys.__stdout__.fileno()
        self.command, self.env = command, env
        return self

    def wait(self):
        self.said.append("wait")
        if self.interrupted and self.said == ["wait"]:
            raise KeyboardInterrupt
        return self.code

    def terminate(self):
        self.said.append("terminate")


def test_the_launcher_runs_the_same_words(monkeypatch):
    process = Launched(interrupted=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(subprocess, "Popen", process)
    launch_module.launch(["sft", "--config", "x.yaml"], ["--num_gpus", "2"])
    script = next(i for i, word in enumerate(process.command) if word.endswith("main.py"))
    assert process.command[1:5] == ["-m", "deepspeed.launcher.runner", "--num_gpus", "2"] and "--no_local_rank" in process.command[:script]
    assert process.command[script + 1:] == ["sft", "--config", "x.yaml"]
    assert "PYTHONDONTWRITEBYTECODE" not in process.env and process.env["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("code, kind, exit_code", [(3, OmniError, 3), (2, OmniError, 2), (143, OmniError, 143), (256 - signal.SIGTERM, OmniError, 143), (255, OmniError, 255), (-1 % 256 - 60, OmniError, 195),
                                                   (256 - signal.SIGKILL, ResumableError, 6), (-signal.SIGKILL, ResumableError, 6), (256 - signal.SIGSEGV, ResumableError, 6)])
def test_what_ends_the_processes_ends_the_command(monkeypatch, code, kind, exit_code):
    monkeypatch.setattr(subprocess, "Popen", Launched(interrupted=False, code=code))
    with pytest.raises(OmniError) as failed:
        launch_module.launch(["sft"], [])
    assert type(failed.value) is kind and failed.value.exit_code == exit_code


def test_what_cannot_run_under_a_launcher_says_so(monkeypatch, root):
    with pytest.raises(ConfigError, match="`language` trains in one process.*--num_gpus 8"):
        main_module.main(["language", "--config", str(root / "train" / "configs" / "language.yaml"), "--", "--num_gpus", "8"])
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="`chain` starts its stages itself"):
        main_module.main(["chain", "--config", "x.yaml"])


@pytest.mark.slow
@pytest.mark.timeout(2 * WATCHDOG)
def test_two_processes_say_one_thing_on_stdout(world, mixed, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text(dump_config(mixed_settings(world, tmp_path / "out", mixed, processes=2, batch_size=2)))
    command = [sys.executable, "-m", "omnivision_cli", "train", "sft", "--config", str(file), "--json"]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and json.loads(done.stdout) == {"folder": str(tmp_path / "out" / "sft" / "final")}, done.stderr[-2000:]
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == json.loads(again.stdout)["error"]["exit_code"] == 2 and "is finished" in again.stderr


def test_an_interrupted_launcher_is_ended_and_waited_for(monkeypatch):
    process = Launched(interrupted=True)
    monkeypatch.setattr(subprocess, "Popen", process)
    with pytest.raises(KeyboardInterrupt):
        launch_module.launch(["sft"], [])
    assert process.said == ["wait", "terminate", "wait"]
