"""What each stage trains and leaves behind: real steps on DeepSpeed in this process."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import train_world
from export_parts import stored
from omnivision_train import stages
from omnivision_train.config import FOLLOWS, TRAINS
from train_world import STAGES

from omnivision.errors import ConfigError, DataError
from omnivision.runs import file_hash, write_hand_over

UNTOUCHED = "k_proj.bias"  # softmax is blind to it: its gradient is zero but for rounding


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    return train_world.road(tmp_path_factory)


def start_of(world, road, stage):
    """The weights that a stage began with, and those that it ended with."""
    if stage == "align":
        model, _ = stages.open_model(train_world.settings(world, road["align"].parent.parent, "align"), "align")
        state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    else:
        state = train_world.weights(road[STAGES[STAGES.index(stage) - 1]])
    return state, train_world.weights(road[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_parts_are_bit_equal_and_trained_parts_change(world, road, stage):
    before, after = start_of(world, road, stage)
    assert set(before) == set(after)
    for part, prefix in stages.PARTS.items():
        names = [name for name in after if name.startswith(prefix + ".")]
        same = [name for name in names if torch.equal(before[name], after[name])]
        if part in TRAINS[stage]:
            assert names and all(UNTOUCHED in name for name in same), f"{stage} left {same} as they were"
        else:
            assert names and same == names, f"{stage} changed {sorted(set(names) - set(same))}"


@pytest.mark.parametrize("stage", STAGES)
def test_zero_three_trains_every_stage_to_the_same_weights(world, road, tmp_path, stage):
    before = {"align": None}.get(stage, road[STAGES[STAGES.index(stage) - 1]])
    config = train_world.settings(world, tmp_path, stage, before, zero_stage=3, feature_cache=str(tmp_path / "features"))
    final = train_world.train(config, stage)
    assert train_world.losses(final) == pytest.approx(train_world.losses(road[stage]), abs=1e-4)
    one, two = train_world.weights(road[stage]), train_world.weights(final)
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one if UNTOUCHED not in name)


def test_the_table_of_what_trains_is_complete():
    assert set(TRAINS) == set(FOLLOWS) == set(STAGES)
    assert TRAINS["align"] == ("projector",) and all("vision_tower" not in parts for parts in TRAINS.values())


def test_what_trains_is_printed_with_its_size(world, capsys):
    model, _ = train_world.build(world)
    table = stages.set_trainable(model, "align")
    said = capsys.readouterr().err
    for part, (trains, count) in table.items():
        assert f"{count:,} parameters  {'trains' if trains else 'frozen'}" in said and part in said
        assert all(p.requires_grad == trains for p in model.get_submodule(stages.PARTS[part]).parameters())
    assert not model.lm_head.weight.requires_grad
    assert sum(count for _, count in table.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_the_head_stays_tied(road, stage):
    from transformers import AutoModelForImageTextToText

    import omnivision  # noqa: F401 - registers the model

    assert "lm_head.weight" not in train_world.weights(road[stage])
    model = AutoModelForImageTextToText.from_pretrained(road[stage])
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    saved = train_world.weights(road[stage])["model.language_model.embed_tokens.weight"]
    assert torch.equal(model.lm_head.weight, saved)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_what_the_design_says(world, road, stage):
    run, final = road[stage].parent, road[stage]
    assert [line["step"] for line in train_world.read_lines(run / "metrics.jsonl")] == [1, 2, 3]
    assert all(line["loss"] > 0 and "learning_rate" in line and "seconds" in line
               for line in train_world.read_lines(run / "metrics.jsonl"))
    assert "max_steps: 3" in (run / "config.resolved.yaml").read_text()
    environment = json.loads((run / "env.json").read_text())
    assert environment["packages"]["torch"] and environment["packages"]["deepspeed"]
    manifest = json.loads((run / "data_manifest.json").read_text())
    assert manifest[world.file(stage)] == {"rows": 12, "sha256": file_hash(train_world.Path(world.file(stage)))}
    assert json.loads((run / "latest").read_text()) == {"checkpoint": "final"}
    assert not (run / "checkpoints").exists() and not (run / "final.partial").exists()
    pickles = [p.name for p in final.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
    assert not pickles and list(final.glob("*.safetensors"))
    hand_over = json.loads((final / "omnivision.json").read_text())
    before = {"align": None}.get(stage, road[STAGES[STAGES.index(stage) - 1]])
    assert hand_over["stage"] == stage and hand_over["parent"] == (before and file_hash(before / "omnivision.json"))


def test_functions_travel_with_their_checkpoint(road):
    assert {stage: (road[stage] / "functions.json").is_file() for stage in STAGES} == {
        "align": False, "sft": False, "dpo": False, "functions": True}


def test_a_saved_config_starts_the_same_run(world, road):
    from omnivision.config_files import load_config
    from omnivision_train.config import SftConfig

    read = load_config(SftConfig, road["sft"].parent / "config.resolved.yaml")
    assert read == train_world.settings(world, road["sft"].parent.parent, "sft", road["align"],
                                        feature_cache=str(road["sft"].parent.parent / "features"))


@pytest.mark.parametrize("stage, start", [("dpo", "align"), ("dpo", "functions"), ("sft", "dpo"), ("functions", "align")])
def test_a_checkpoint_of_another_stage_is_refused(world, road, tmp_path, stage, start):
    with pytest.raises(ConfigError, match=f"comes from the stage `{start}`, but `{stage}` starts from"):
        stages.open_model(train_world.settings(world, tmp_path, stage, road[start]), stage)


def test_sft_goes_on_with_other_data(world, road, tmp_path):
    before, after = road["sft"], train_world.train(train_world.settings(world, tmp_path, "sft", road["sft"]), "sft")
    old, new = train_world.weights(before), train_world.weights(after)
    assert any(not torch.equal(old[name], new[name]) for name in old if "language_model" in name)
    assert json.loads((after / "omnivision.json").read_text())["parent"] == file_hash(before / "omnivision.json")


def test_a_start_whose_weights_are_not_all_there_is_refused(world, road, tmp_path):
    shutil.copytree(road["align"], tmp_path / "final")
    stored(lambda tensors: tensors.pop("model.projector.linear_2.bias"))(tmp_path / "final")
    write_hand_over(tmp_path / "final", "align", None)  # as if the stage had written it so
    with pytest.raises(DataError, match="1 of the model's tensors are not in the weights, the first is model.projector.linear_2.bias"):
        stages.open_model(train_world.settings(world, tmp_path, "sft", tmp_path / "final"), "sft")


def test_a_missing_start_names_the_stages_to_run_first(world, tmp_path):
    with pytest.raises(ConfigError, match=f"no finished stage to start `functions` from.*{tmp_path.name}.*sft, dpo"):
        stages.open_model(train_world.settings(world, tmp_path, "functions", tmp_path / "none"), "functions")


def test_only_the_first_stage_starts_from_parts(world, road, tmp_path):
    config = replace(train_world.settings(world, tmp_path, "sft"), start=None)
    with pytest.raises(ConfigError, match=r"`sft` starts from a finished stage \(align or sft\), and none is given"):
        stages.open_model(config, "sft")
    with pytest.raises(ConfigError, match="`align` is the first stage"):
        stages.open_model(train_world.settings(world, tmp_path, "align", road["align"]), "align")


def test_a_finished_stage_is_not_run_again(world, road):
    before = train_world.weights(road["align"])
    with pytest.raises(ConfigError, match="finished.*another `out`"):
        train_world.train(train_world.settings(world, road["align"].parent.parent, "align"), "align")
    assert all(torch.equal(tensor, before[name]) for name, tensor in train_world.weights(road["align"]).items())


def test_no_data_is_an_error(world, tmp_path):
    with pytest.raises(DataError, match="names no data"):
        train_world.train(train_world.settings(world, tmp_path, "sft", data=[]), "sft")


def test_the_shipped_configs_fit_their_stages(root):
    from omnivision_train.main import RECIPES, _load

    from omnivision.config_files import load_config

    for name, (config_class, target) in RECIPES.items():
        assert callable(_load(target))
        for file in (root / "train" / "configs").rglob(f"{name}.yaml"):
            load_config(_load(config_class), file)
            assert file.read_text().startswith(f"# omnivision train {name} --config {file.relative_to(root)}")


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_tower_trains_at_its_own_rate_if_asked(world, tmp_path, zero_stage):
    settings = train_world.settings(world, tmp_path, "sft", vision_lr=1e-3, lr=1e-7, zero_stage=zero_stage, schedule="constant", max_steps=2)
    before, after = train_world.weights(world.start("sft")), train_world.weights(train_world.train(settings, "sft"))
    moved = {name: (after[name] - before[name]).abs().max().item() for name in after}
    tower = {name: change for name, change in moved.items() if "vision_tower" in name and ".head." not in name}
    rest = [change for name, change in moved.items() if "vision_tower" not in name and UNTOUCHED not in name]
    assert sum(change > 1e-4 for change in tower.values()) > 0.8 * len(tower)  # AdamW moves a weight by its rate a step
    assert rest and max(rest) < 1e-6 and all(not change for name, change in moved.items() if ".head." in name)


def test_the_tower_does_not_train_on_cached_features(world, tmp_path):
    with pytest.raises(ConfigError, match="its features are cached.*feature_cache"):
        train_world.train(train_world.settings(world, tmp_path, "sft", vision_lr=1e-5, feature_cache=str(tmp_path / "cache")), "sft")


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_process_alone_adds_its_gradients_with_nobody(world, tmp_path, monkeypatch, zero_stage):
    """Under ZeRO 0 DeepSpeed would copy them to a buffer and back; ZeRO's own buffers are its optimizer's."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    added, original = [], DeepSpeedEngine.allreduce_gradients
    monkeypatch.setattr(DeepSpeedEngine, "allreduce_gradients", lambda self, *args, **more: added.append(1) or original(self, *args, **more))
    train_world.train(train_world.settings(world, tmp_path, "sft", zero_stage=zero_stage, max_steps=2), "sft")
    assert bool(added) == (zero_stage == 1)
