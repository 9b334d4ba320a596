"""Runs that are killed, or find no room, at every write of a checkpoint and at random: they end as if nothing had happened.

The short versions run by default; the long ones (every write, a hundred random kills) are slow, and docs/reliability.md has
what they found.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_world
import workers

from omnivision.runs import newest_checkpoint, read_json, verifies

# A log line spans a checkpoint, and the last step lies within an epoch (of 3 steps).
STEPS = {"max_steps": 7, "save_steps": 2, "keep_checkpoints": 1, "log_steps": 3, "batch_size": 4}
LONG = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """Uninterrupted runs, by stage and changes: made when first asked for."""
    made = {}

    def run(stage="sft", **changes):
        key = (stage, *sorted(changes.items()))
        if key not in made:
            made[key] = workers.run(settings(world, tmp_path_factory.mktemp("whole"), stage, **changes), stage)
        return made[key]

    return run


def settings(world, folder, stage="sft", **changes):
    return train_world.settings(world, folder / "out", stage, **{**STEPS, **changes})


def numbers(final: Path) -> list[dict]:
    """What was logged, but for times."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "tokens_per_second", "data_wait", "peak_memory_gib")}
            for line in train_world.read_lines(final.parent / "metrics.jsonl")]


def same(final: Path, whole: Path) -> None:
    """Bit for bit: weights and every logged number."""
    one, other = train_world.weights(final), train_world.weights(whole)
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
    assert numbers(final) == numbers(whole)
    assert not [path for path in final.parent.rglob("*") if "partial" in path.name or "removed" in path.name]


def writes(config, below: Path, log: Path) -> list[str]:
    """Every write of an uninterrupted run below a folder, in order."""
    workers.run(config, "sft", sabotage=workers.Sabotage("count", below, 0, log))
    return log.read_text().splitlines()


def second_save(found: list[str]) -> list[int]:
    """Numbers of the writes from the second checkpoint's first to the end of the run."""
    first = next(number for number, line in enumerate(found) if ".step-4.partial" in line)
    return list(range(first, len(found)))


def turning_points(found: list[str]) -> list[int]:
    """Of these, the ones before and after each rename, which decide what a resumed run sees, and the first of a removal."""
    chosen = []
    for number in second_save(found):
        name = found[number].split(" ", 1)[1]
        if found[number].startswith("os.rename") and name in ("checkpoints/.step-4.partial", "latest.partial", "checkpoints/step-2", "final.partial"):
            chosen += [number, number + 1]
    return chosen


@pytest.fixture(scope="module")
def counted(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted")
    config = settings(world, folder)
    return writes(config, Path(config.out) / "sft", folder / "writes")


@pytest.fixture(scope="module")
def saves(world, tmp_path_factory):
    """The same below checkpoints/ alone."""
    folder = tmp_path_factory.mktemp("saves")
    config = settings(world, folder)
    return writes(config, Path(config.out) / "sft" / "checkpoints", folder / "writes")


def killed_at(world, whole, folder, number) -> None:
    config = settings(world, folder)
    sabotage = workers.Sabotage("kill", Path(config.out) / "sft", number, folder / "unused")
    assert workers.finish(workers.start(config, "sft", sabotage=sabotage)) == [-signal.SIGKILL]
    if (folder / "out" / "sft" / "final").is_dir():  # killed behind the last rename: the next start says so, and tidies up
        assert workers.finish(workers.start(config, "sft")) == [2]
    else:
        workers.run(config, "sft")
    assert not (folder / "out" / "sft" / "checkpoints").exists()
    assert json.loads((folder / "out" / "sft" / "latest").read_text()) == {"checkpoint": "final"}
    same(folder / "out" / "sft" / "final", whole())


def test_a_kill_around_every_rename_loses_nothing(world, whole, counted, tmp_path):
    points = turning_points(counted)
    assert len(points) >= 8, counted
    for number in points[::3]:
        (tmp_path / str(number)).mkdir()
        killed_at(world, whole, tmp_path / str(number), number)


@LONG
@pytest.mark.slow
def test_a_kill_at_every_write_loses_nothing(world, whole, counted, tmp_path):
    points = second_save(counted)
    for number in points:
        (tmp_path / str(number)).mkdir()
        killed_at(world, whole, tmp_path / str(number), number)
    print(f"killed at each of {len(points)} writes")


def full_at(world, whole, folder, number) -> bool:
    """A run whose disk is full from this write on; returns whether that stopped it."""
    config = settings(world, folder)
    sabotage = workers.Sabotage("full", Path(config.out) / "sft" / "checkpoints", number, folder / "unused")
    code = workers.finish(workers.start(config, "sft", sabotage=sabotage))
    if code == [0]:
        return False
    checkpoints = folder / "out" / "sft" / "checkpoints"
    said = (folder / "workers.log").read_text()
    assert code == [6] and "could not be written: " in said and "Make room" in said, (code, said[-2000:])
    assert [path.name for path in checkpoints.iterdir() if path.name != "step-2"] == [] and verifies(checkpoints / "step-2")
    same(workers.run(config, "sft"), whole())
    return True


def test_a_full_disk_keeps_the_checkpoint_before(world, whole, saves, tmp_path):
    first = next(number for number, line in enumerate(saves) if ".step-4.partial" in line)
    middle = next(n for n, line in enumerate(saves) if line.startswith("tests.save") and ".step-4.partial/optimizer" in line)
    for number in (first, middle):
        (tmp_path / str(number)).mkdir()
        assert full_at(world, whole, tmp_path / str(number), number)


@LONG
@pytest.mark.slow
def test_a_full_disk_at_every_write_keeps_the_checkpoint_before(world, whole, saves, tmp_path):
    numbers = [number for number, line in enumerate(saves) if ".step-4.partial" in line and line.split()[0] in ("open", "tests.save", "os.mkdir")]
    for number in numbers:
        (tmp_path / str(number)).mkdir()
        assert full_at(world, whole, tmp_path / str(number), number)
    print(f"full at each of {len(numbers)} writes")


def kill_at_random(world, whole, folder, stages, kills) -> int:
    """Kills runs of these stages in turn at random times until so many were killed; returns how many runs ended."""
    rng, killed, ended = random.Random(5), 0, 0
    while killed < kills:
        stage = stages[ended % len(stages)]
        config = settings(world, folder / str(ended), stage, save_steps=1, log_steps=2)
        began = time.time()
        whole_run = whole(stage, save_steps=1, log_steps=2)
        lasts = max(2.0, min(8.0, time.time() - began))
        while True:
            process = workers.start(config, stage)
            process[0].join(rng.uniform(0.3, 1.1) * lasts if killed < kills else workers.WATCHDOG)
            if process[0].is_alive():
                process[0].kill()
                killed += 1
            if workers.finish(process) == [0]:
                break
            assert process[0].exitcode == -signal.SIGKILL, (folder / str(ended) / "workers.log").read_text()[-3000:]
        same(folder / str(ended) / "out" / stage / "final", whole_run)
        ended += 1
    return ended


def test_random_kills_lose_nothing(world, whole, tmp_path):
    assert kill_at_random(world, whole, tmp_path, ("sft",), 3) >= 1


@LONG
@pytest.mark.slow
def test_a_hundred_random_kills_over_three_stages_lose_nothing(world, whole, tmp_path):
    print(f"{kill_at_random(world, whole, tmp_path, ('align', 'sft', 'dpo'), 100)} runs ended as the uninterrupted ones")


def test_processes_and_zero_stage_may_change_between_two_starts(world, whole, tmp_path):
    config = settings(world, tmp_path, log_steps=1)
    for ranks, zero_stage, until in ((2, 1, "step-2"), (1, 3, "step-4")):
        now = replace(config, batch_size=4 // ranks, zero_stage=zero_stage)
        processes = workers.start(now, "sft", ranks)
        folder = Path(config.out) / "sft" / "checkpoints" / until
        deadline = time.time() + workers.WATCHDOG
        while not verifies(folder) and processes[0].is_alive() and time.time() < deadline:
            time.sleep(0.02)
        for process in processes:
            process.kill()
        workers.finish(processes)
        assert newest_checkpoint(folder.parent, print) == folder
        assert len({str(one["random"]["torch"]) for one in read_json(folder / "ranks.json")}) == ranks  # each draws its own dropout
    final = workers.run(replace(config, batch_size=2, zero_stage=2), "sft", 2)
    expected = numbers(whole(log_steps=1))
    assert [line["step"] for line in numbers(final)] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["loss"] for line in numbers(final)] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
    one, other = train_world.weights(final), train_world.weights(whole(log_steps=1))
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_weights_that_do_not_divide_by_the_processes_are_restored(world, tmp_path):
    """Three processes: DeepSpeed pads the last part of most weights under ZeRO-3."""
    changes = {"batch_size": 1, "zero_stage": 3, "max_steps": 4}
    expected = workers.run(settings(world, tmp_path / "whole", **changes), "sft", 3)
    config = settings(world, tmp_path / "killed", **changes)
    sabotage = workers.Sabotage("kill", Path(config.out) / "sft" / "checkpoints" / ".step-4", 0, tmp_path / "unused")
    processes = workers.start(config, "sft", 3, sabotage)
    processes[0].join(workers.WATCHDOG)
    for process in processes:
        process.kill()
    workers.finish(processes)
    same(workers.run(config, "sft", 3), expected)


def test_a_damaged_newer_checkpoint_does_not_outlive_a_whole_one(saved, tmp_path):
    import shutil

    from omnivision_train.checkpoint import superseded

    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in (300, 500):
        (tmp_path / f"step-{step}").mkdir()
    names = {path.name for path in superseded(tmp_path, 4, 1)}
    assert names == {"step-500", "step-300", "step-2"}  # what was skipped goes, step-4 stays


def test_a_kill_while_a_run_starts_again_loses_nothing(world, whole, tmp_path):
    config = settings(world, tmp_path)
    folder = Path(config.out) / "sft"
    sabotage = workers.Sabotage("kill", folder / "checkpoints" / ".step-6", 0, tmp_path / "unused")
    assert workers.finish(workers.start(config, "sft", sabotage=sabotage)) == [-signal.SIGKILL]
    for file, number in itertools.product(("config.resolved.yaml", "begun.json", "metrics.jsonl"), range(4)):  # open, flush, rename, and behind it
        again = workers.Sabotage("kill", folder / file, number, tmp_path / "unused")
        workers.finish(workers.start(config, "sft", sabotage=again))
        if (folder / "final").is_dir():
            break
    if not (folder / "final").is_dir():
        workers.run(config, "sft")
    same(folder / "final", whole())


def test_sigterm_to_one_of_two_processes_stops_both_with_a_checkpoint(world, tmp_path):
    config = settings(world, tmp_path, max_steps=2000, save_steps=1000, log_steps=1, batch_size=2)
    processes = workers.start(config, "sft", 2)
    log = Path(config.out) / "sft" / "metrics.jsonl"
    deadline = time.time() + workers.WATCHDOG
    while not (log.is_file() and log.read_text()) and time.time() < deadline:
        time.sleep(0.02)
    processes[1].terminate()
    assert workers.finish(processes) == [143, 143]
    logged = train_world.read_lines(log)[-1]["step"]
    newest = newest_checkpoint(log.parent / "checkpoints", print)
    assert newest and newest.name == f"step-{logged}"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "progress.json", "ranks.json", "trainer_state.json", "manifest.json"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, None, "flip"])
def test_every_damage_to_a_file_is_found(saved, tmp_path, file, share):
    import shutil

    shutil.copytree(saved, tmp_path / "checkpoints", dirs_exist_ok=True)
    victim = tmp_path / "checkpoints" / "step-4" / file
    data = bytearray(victim.read_bytes())
    if share is None:
        victim.unlink()
    elif share == "flip":
        data[random.Random(file).randrange(len(data))] ^= 16
        victim.write_bytes(data)
    else:
        victim.write_bytes(data[: int(share * len(data))])
    said = []
    found = newest_checkpoint(tmp_path / "checkpoints", said.append)
    assert found == tmp_path / "checkpoints" / "step-2" and "step-4 is damaged" in said[0]


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    """The folder of checkpoints of a run that was killed: step-2 and step-4."""
    folder = tmp_path_factory.mktemp("saved")
    config = settings(world, folder, keep_checkpoints=2)
    processes = workers.start(config, "sft", sabotage=workers.Sabotage("kill", Path(config.out) / "sft" / "checkpoints" / ".step-6", 0, folder / "unused"))
    assert workers.finish(processes) == [-signal.SIGKILL]
    return folder / "out" / "sft" / "checkpoints"


def test_a_checkpoint_is_a_model_and_holds_no_pickle(saved):
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor

    model = OmniVisionForConditionalGeneration.from_pretrained(saved / "step-4")
    assert OmniVisionProcessor.from_pretrained(saved / "step-4").image_token_id == model.config.image_token_id
    assert {path.suffix for path in (saved / "step-4").iterdir()} <= {".safetensors", ".json", ".jinja", ".yaml"}
    assert json.loads((saved.parent / "latest").read_text()) == {"checkpoint": "checkpoints/step-4"}
