"""Steps whose loss or gradient is not finite: left out on every process and counted; five in a row end the run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import train_world
from omnivision_train import trainer as trainer_module
from omnivision_train.callbacks import Log

from omnivision.errors import DivergedError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def spoil(monkeypatch, steps, value=float("nan"), every_loss=True) -> None:
    """The loss (or only its gradient) of these optimizer steps becomes this value."""
    original = trainer_module.StageMixin.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        if self.state.global_step + 1 not in steps:
            return loss
        if every_loss:
            return loss * value
        loss.register_hook(lambda gradient: gradient * value)
        return loss

    monkeypatch.setattr(trainer_module.StageMixin, "compute_loss", compute_loss)


def settings(world, folder, stage="sft", **changes):
    return train_world.settings(world, folder, stage, **{"schedule": "constant", "log_steps": 1, **changes})


@pytest.mark.parametrize("value, every_loss", [(float("nan"), True), (float("inf"), False)])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_step_changes_nothing_and_is_counted(world, tmp_path, monkeypatch, capsys, zero_stage, value, every_loss):
    one = train_world.train(settings(world, tmp_path / "one", max_steps=1, zero_stage=zero_stage), "sft")
    spoil(monkeypatch, {2}, value, every_loss)
    two = train_world.train(settings(world, tmp_path / "two", max_steps=2, zero_stage=zero_stage), "sft")
    before, after = train_world.weights(one), train_world.weights(two)
    assert all(torch.equal(before[name], after[name]) for name in before)
    first, second = train_world.read_lines(two.parent / "metrics.jsonl")
    assert first["loss"] > 0 and "skipped" not in first and second["loss"] is None and second["skipped"] == 1
    assert "step 2: loss or gradient is not finite; the step is skipped (rows s" in capsys.readouterr().err


@pytest.mark.parametrize("most", [0.0, 0.1])
def test_every_engine_tells_and_clips_the_same_norm(world, tmp_path, most):
    runs = [train_world.train(settings(world, tmp_path / str(zero), max_steps=4, zero_stage=zero, max_grad_norm=most), "sft") for zero in (0, 1)]
    torchs, deepspeeds = (train_world.read_lines(final.parent / "metrics.jsonl") for final in runs)
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in torchs] == pytest.approx([line[key] for line in deepspeeds], rel=1e-4)
    assert all(line["grad_norm"] > 0.1 for line in torchs)


@pytest.mark.parametrize("stage", ["align", "dpo"])
def test_a_mean_leaves_the_step_out(world, tmp_path, monkeypatch, stage):
    each = train_world.losses(train_world.train(settings(world, tmp_path / "each", stage, max_steps=2, accumulation=2), stage))
    spoil(monkeypatch, {3})
    final = train_world.train(settings(world, tmp_path / "mean", stage, max_steps=3, log_steps=3, accumulation=2), stage)
    (line,) = train_world.read_lines(final.parent / "metrics.jsonl")
    assert line["loss"] == pytest.approx(sum(each) / 2, rel=1e-5) and line["skipped"] == 1
    for key in (key for key in line if key.startswith(("rewards/", "logps/"))):  # TRL's means
        two = [one[key] for one in train_world.read_lines(tmp_path / "each" / stage / "metrics.jsonl")]
        assert line[key] == pytest.approx(sum(two) / 2, rel=1e-5), key


def test_five_in_a_row_end_the_run_with_their_rows(world, tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 3, 5, 6, 7, 8, 9})  # four would not: step 4 is fine
    with pytest.raises(DivergedError, match=r"5 steps in a row \(step 9, rows s\d+, s\d+\)\. Look at these rows"):
        train_world.train(settings(world, tmp_path, max_steps=12), "sft")
    assert [line["step"] for line in train_world.read_lines(tmp_path / "sft" / "metrics.jsonl")] == list(range(1, 9))


def test_a_skipped_step_is_remembered_by_a_checkpoint(world, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    spoil(monkeypatch, {2, 3, 4, 5, 6})
    config = settings(world, tmp_path, max_steps=8, save_steps=1)
    with monkeypatch.context() as patch:
        original = Log.on_log

        def on_log(self, args, state, control, logs=None, **kwargs):
            original(self, args, state, control, logs=logs, **kwargs)
            if state.global_step == 4:
                raise Killed

        patch.setattr(Log, "on_log", on_log)
        with pytest.raises(Killed):
            train_world.train(config, "sft")
    with pytest.raises(DivergedError, match="step 6"):  # 2 and 3 before the kill, 4 to 6 after it
        train_world.train(config, "sft")


@pytest.mark.parametrize("size", [0.0, 0.3, 0.9999985, 0.9999995, 1.0, 1.0000005, 2.0, 1e6])
def test_gradients_are_clipped_as_torch_does_bit_for_bit(size):
    ours, theirs = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    for weight in (ours, theirs):
        weight.grad = torch.tensor([0.6, 0.8]) * size
    engine = SimpleNamespace(optimizer=torch.optim.SGD([ours], lr=0.0), gradient_clipping=lambda: 1.0)
    trainer_module.clip_or_skip(engine)
    engine.optimizer.step()
    norm = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    assert torch.equal(ours.grad, theirs.grad) and engine.optimizer._global_grad_norm == norm
