"""What a run tells while it runs and when it stops: held-out loss, speed, dashboards, settings that need less memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import train_world
import workers
from omnivision_train import meters, run_data, throughput
from omnivision_train import trainer as trainer_module
from omnivision_train.config import SftConfig
from omnivision_train.run_folder import Run
from omnivision_train.fit import out_of_memory
from omnivision_train.trainer_arguments import check_dashboard

from omnivision.errors import ConfigError, DataError, PlanError
from omnivision.export.model_card import add_card


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def held_out(world):
    """Files of rows that do not train, by stage."""
    return {stage: str(train_world.write_lines(world.folder / f"{stage}-held-out.jsonl", [
        {**row, "id": f"h{number}"} for number, row in enumerate(train_world.read_lines(world.file(stage))[:5])])) for stage in train_world.STAGES}


@pytest.mark.parametrize("stage", train_world.STAGES)
def test_every_stage_tells_its_held_out_loss_and_lowers_it(world, held_out, tmp_path, stage):
    settings = train_world.settings(world, tmp_path, stage, held_out=[held_out[stage]], max_steps=12, schedule="constant")
    final = train_world.train(settings, stage)  # the held-out rows are among those that train: the loss has to fall
    told = json.loads((final.parent / "held_out.json").read_text())
    assert told["rows"] == 5 and 0 < told["after"] < told["before"]


def test_the_held_out_loss_is_per_supervised_token_on_any_number_of_processes(world, held_out, tmp_path):
    settings = train_world.settings(world, tmp_path / "one" / "out", "sft", held_out=[held_out["sft"]], max_steps=1, batch_size=2)
    one = json.loads((workers.run(settings, "sft").parent / "held_out.json").read_text())
    import dataclasses

    two = workers.run(dataclasses.replace(settings, out=str(tmp_path / "two" / "out"), batch_size=1, zero_stage=3), "sft", 2)
    assert json.loads((two.parent / "held_out.json").read_text())["before"] == pytest.approx(one["before"], abs=1e-5)
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.data.rows import read_rows
    from omnivision_train.data import Collator, Conversations

    model = OmniVisionForConditionalGeneration.from_pretrained(world.start("sft"), attn_implementation="eager").eval()
    processor = OmniVisionProcessor.from_pretrained(world.start("sft"))
    batch = Collator(processor)([*Conversations(read_rows(held_out["sft"]), processor, world.folder, 256).samples])
    with torch.no_grad():  # all rows in one batch: the mean over all their tokens
        loss = model(**{key: value for key, value in batch.items() if key not in ("row_ids", "num_tokens")}).loss.item()
    assert one["before"] == pytest.approx(loss, abs=1e-5)


def test_a_file_cannot_train_and_be_held_out(world, tmp_path):
    with pytest.raises(DataError, match="The same file is to train and to be held out"):
        train_world.train(train_world.settings(world, tmp_path, "sft", held_out=[f"{world.folder}/./sft.jsonl"]), "sft")
    copied = shutil.copy(world.file("sft"), tmp_path / "copy.jsonl")
    with pytest.raises(DataError, match="The same file is to train and to be held out.*copy.jsonl"):
        train_world.train(train_world.settings(world, tmp_path, "sft", held_out=[str(copied)]), "sft")
    mixed = {"replay": [world.file("sft")], "held_out": [world.file("sft")]}
    with pytest.raises(DataError, match="The same file is to train and to be held out"):
        train_world.train(train_world.settings(world, tmp_path, "functions", **mixed), "functions")


@pytest.mark.parametrize("stage, there, absent", [
    ("functions", ("- functions: `functions.json`, SHA-256 `", "- data: `functions.jsonl`, 12 rows"), "?"),
    ("align", ("- vision: `model.safetensors`, SHA-256 `", "- language: `tokenizer.json`, SHA-256 `"), "- functions")])
def test_the_card_names_what_a_model_was_made_from(world, tmp_path, stage, there, absent):
    final = train_world.train(train_world.settings(world, tmp_path, stage), stage)
    (tmp_path / "card").mkdir()
    add_card(tmp_path / "card", {"sha256": {}}, final, "apache-2.0", [])
    card = (tmp_path / "card" / "README.md").read_text()
    assert all(one in card for one in there) and absent not in card


def test_processes_share_the_hashing_of_files(world, tmp_path, monkeypatch):
    files, asked, runs = [world.file(stage) for stage in train_world.STAGES], [], [Run("sft", tmp_path, rank == 0, None) for rank in (0, 1, 2)]
    monkeypatch.setattr(run_data, "source_hash", lambda file: asked.append(file) or f"hash of {file}")
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    monkeypatch.setattr(run_data, "gathered", lambda share: shares.append(share) or [])
    for rank, run in enumerate(runs):
        monkeypatch.setenv("RANK", str(rank))
        run_data.known_hashes(run, files)
    assert sorted(asked) == sorted(files) and all(shares)
    monkeypatch.setattr(run_data, "gathered", lambda share: shares)
    assert run_data.known_hashes(runs[1], files) == {file: f"hash of {file}" for file in files}
    asked.clear()
    run_data.known_hashes(runs[1], files)
    assert not asked


def test_the_manifest_and_the_card_name_what_trained(world, held_out, tmp_path):
    """A start that ended before its first checkpoint leaves nothing behind of the files that it had."""
    config = train_world.settings(world, tmp_path, "sft", held_out=[held_out["sft"]])
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "data_manifest.json").write_text(json.dumps({"earlier.jsonl": {"rows": 1, "sha256": "0"}}))
    final = train_world.train(config, "sft")
    read = json.loads((final.parent / "data_manifest.json").read_text())
    assert {name for name, one in read.items() if "sha256" in one} == {world.file("sft"), held_out["sft"]}
    assert read[held_out["sft"]]["held_out"] and "held_out" not in read[world.file("sft")]
    (tmp_path / "card").mkdir()
    add_card(tmp_path / "card", {"sha256": {}}, final, "apache-2.0", [])
    assert "`sft.jsonl`" in (card := (tmp_path / "card" / "README.md").read_text()) and Path(held_out["sft"]).name not in card


def test_operations_by_hand(world):
    model, _ = train_world.build(world)
    model.requires_grad_(False)
    model.model.projector.requires_grad_(True)
    text, tower = model.config.text_config, model.config.vision_config
    head_size = text.hidden_size // text.num_attention_heads
    layer = text.hidden_size * head_size * (2 * text.num_attention_heads + 2 * text.num_key_value_heads) + 3 * text.hidden_size * text.intermediate_size
    language, head = layer * text.num_hidden_layers, text.vocab_size * text.hidden_size
    patches, tokens = model.config.patch_grid**2, model.config.image_seq_length
    projector = sum(p.numel() for p in model.model.projector.parameters() if p.dim() > 1)
    flops = throughput.Flops(model, encoded=True)
    assert flops.of(tokens=10) == 10 * 4 * language  # forward, and backward through it
    assert flops.of(supervised=3) == 3 * 4 * head  # the head, tied or not, sees what is supervised
    assert flops.of(pictures=2) == 2 * 6 * projector * tokens
    block = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size
    patch = 3 * tower.patch_size**2 * tower.hidden_size
    seen = throughput.Flops(model, encoded=False).of(pictures=1) - flops.of(pictures=1)
    assert seen == 2 * patches * (block * tower.num_hidden_layers + patch) == flops.of(uncached=1)
    model.requires_grad_(True)
    assert throughput.Flops(model, encoded=True).per_token == 6 * language
    assert throughput.Flops(model, encoded=True, reference=True).per_token == 8 * language


def test_peaks_are_found_by_the_devices_name():
    assert throughput.peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and throughput.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert throughput.peak_flops("NVIDIA L40S") == 362e12 and throughput.peak_flops("NVIDIA L4") == 121e12
    assert throughput.peak_flops("NVIDIA A10") == 125e12
    assert all(throughput.peak_flops(name) is None for name in ("Radeon", "NVIDIA A10G", "NVIDIA H100 NVL", "NVIDIA RTX A1000"))


def test_speed_is_tokens_of_all_rows_since_the_last_line(world, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(meters.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(meters, "device_peak", lambda: 1e6)
    final = train_world.train(train_world.settings(world, tmp_path, "sft", batch_size=12, max_steps=2, log_steps=1), "sft")
    from omnivision import OmniVisionProcessor
    from omnivision_train.data import Conversations

    rows = Conversations(world.rows("sft"), OmniVisionProcessor.from_pretrained(final), world.folder, 256)
    for line in train_world.read_lines(final.parent / "metrics.jsonl"):
        assert line["tokens_per_second"] == sum(rows.lengths()) / 30 and line["peak_share"] > 0  # the clock ticks before and after data, and here
        assert line["data_wait"] == round(10 / 30, 4)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_as_many_pictures_are_counted_as_run(world, tmp_path, monkeypatch, stage):
    """Also the blank one that a batch of texts runs."""
    from omnivision.model.modeling import OmniVisionModel

    rows = [{**row, "images": row["images"] if number % 3 == 0 else []} for number, row in enumerate(train_world.read_lines(world.file(stage))[:6])]
    changes = {"data": [str(train_world.write_lines(tmp_path / "rows.jsonl", rows))], "batch_size": 1, "max_steps": 6}
    counted, run = [], []
    encode, of = OmniVisionModel.get_vision_features, throughput.Flops.of
    monkeypatch.setattr(OmniVisionModel, "get_vision_features", lambda self, pixels: (run.append(len(pixels)) if self.training else None) or encode(self, pixels))
    monkeypatch.setattr(throughput.Flops, "of", lambda self, **seen: counted.append(seen["pictures"]) or of(self, **seen))
    monkeypatch.setattr(meters, "device_peak", lambda: 1e6)
    train_world.train(train_world.settings(world, tmp_path, stage, **changes), stage)
    assert counted == run == [1] * 6


def test_tensorboard_shows_what_metrics_say(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    final = train_world.train(train_world.settings(world, tmp_path, "sft", report_to="tensorboard"), "sft")
    shown = EventAccumulator(str(final.parent / "tensorboard")).Reload()
    assert [round(event.value, 4) for event in shown.Scalars("train/loss")] == [round(loss, 4) for loss in train_world.losses(final)]


def test_the_last_steps_are_logged_too_and_a_resumed_run_shows_no_step_twice(world, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from test_train_resume import Killed, die, interrupt

    changes = {"report_to": "tensorboard", "max_steps": 7, "log_steps": 2, "save_steps": 3}
    whole = train_world.train(train_world.settings(world, tmp_path / "whole", "sft", **changes), "sft")
    config = train_world.settings(world, tmp_path / "killed", "sft", **changes)
    with monkeypatch.context() as patch:
        interrupt(patch, 4, die)  # step 3 is saved, in the middle of a window
        with pytest.raises(Killed):
            train_world.train(config, "sft")
    final = train_world.train(config, "sft")
    lines, expected = (train_world.read_lines(one.parent / "metrics.jsonl") for one in (final, whole))
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert [(line["loss"], line["teraflop"]) for line in lines] == [(line["loss"], line["teraflop"]) for line in expected]  # of whole windows
    shown = EventAccumulator(str(final.parent / "tensorboard")).Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == [2, 4, 6, 7]


def test_a_dashboard_needs_its_package(monkeypatch):
    check_dashboard(SftConfig())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="The package wandb is not installed.*pip install wandb"):
        check_dashboard(SftConfig(report_to="wandb"))


def test_no_memory_names_settings_that_need_less(world, tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(trainer_module.StageMixin, "compute_loss", full)
    with pytest.raises(PlanError, match="batch_size=1 accumulation=2 .the same global batch., or gradient_checkpointing=true, or zero_stage=2") as raised:
        train_world.train(train_world.settings(world, tmp_path, "sft"), "sft")
    assert raised.value.exit_code == 4
    assert "zero_stage" not in out_of_memory(SftConfig(optimizer="muon", zero_stage=0), "sft").remedy  # Muon knows no ZeRO
    smallest = out_of_memory(SftConfig(batch_size=1, gradient_checkpointing=True, zero_stage=3, offload_optimizer=True), "sft")
    assert "a smaller preset" in smallest.remedy
