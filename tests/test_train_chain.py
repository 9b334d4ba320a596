"""A chain: all stages in one file, each from the verified result of the one before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import train_world
import yaml
from omnivision_train import chain as chain_module
from omnivision_train.chain import ChainConfig, chain, read_links
from omnivision_train.config import SftConfig
from omnivision_train.main import main

from omnivision.errors import ConfigError

STEPS = {"preset": "tiny", "batch_size": 2, "max_steps": 2, "precision": "fp32", "max_length": 256}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture
def ran(monkeypatch):
    """The commands that a chain ran, each done here instead of in a process of its own."""
    commands = []

    def run(command):
        commands.append(command[4])
        with train_world.one_process():
            assert main(command[4:]) == 0

    monkeypatch.setattr(chain_module, "_run", run)
    return commands


def write(folder: Path, world, **changes) -> str:
    """A chain's file: align, sft and dpo of the tests' world."""
    (folder / "sft.yaml").write_text(yaml.safe_dump({"lr": 0.001}))
    tree = {
        "out": str(folder / "run"), "shared": {**STEPS, "vision": world.vision, "language": world.language, "image_root": str(world.folder)},
        "stages": [{"stage": "align", "data": [world.file("align")]}, {"stage": "sft", "config": "sft.yaml", "data": [world.file("sft")]},
                   {"stage": "dpo", "data": [world.file("dpo")]}],
    } | changes
    (folder / "chain.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / "chain.yaml")


def test_every_stage_runs_once_and_starts_from_the_one_before(world, tmp_path, ran, capsys):
    path = write(tmp_path, world)
    assert chain(path, [], []) == tmp_path / "run" / "dpo" / "final" and ran == ["align", "sft", "dpo"]
    notes = {stage: json.loads((tmp_path / "run" / stage / "final" / "omnivision.json").read_text()) for stage in ran}
    assert {stage: note["stage"] for stage, note in notes.items()} == {"align": "align", "sft": "sft", "dpo": "dpo"}
    settings = yaml.safe_load((tmp_path / "run" / "sft" / "config.resolved.yaml").read_text())
    assert settings["lr"] == 0.001 and settings["start"] == str(tmp_path / "run" / "align" / "final")
    del ran[:]
    chain(path, [], [])  # again: nothing is left to do
    assert not ran and capsys.readouterr().err.count("is finished") == 3
    chain(path, ["sft.log_steps=3", "align.batch_size=1", "align.accumulation=2"], [])  # where and how fast it ran may differ
    with pytest.raises(ConfigError, match="`align` has run with another batch_size, accumulation, processes"):  # other rows a step are another training
        chain(path, ["align.batch_size=64", "align.accumulation=2"], [])
    with pytest.raises(ConfigError, match="`sft` has run with another lr"):
        chain(path, ["sft.lr=0.002"], [])
    (tmp_path / "run" / "align" / "final" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="changed after its stage ended: config.json"):
        chain(path, [], [])


def test_a_finished_stage_has_read_the_data_that_are_there_now(world, tmp_path, ran):
    rows = tmp_path / "align.jsonl"
    rows.write_text(Path(world.file("align")).read_text())
    path = write(tmp_path, world, stages=[{"stage": "align", "data": [str(rows)]}])
    chain(path, [], [])
    rows.write_text("".join(reversed(rows.read_text().splitlines(keepends=True))))
    with pytest.raises(ConfigError, match="`align` has run on what .*align.jsonl held before.*remove the folder"):
        chain(path, [], [])
    rows.unlink()
    chain(path, [], [])  # it was trained, whatever became of the rows
    assert ran == ["align"]


def test_a_finished_align_was_made_from_the_tower_that_is_there_now(world, tmp_path, ran):
    import shutil

    shutil.copytree(world.vision, tmp_path / "vision")
    path = write(tmp_path, world, stages=[{"stage": "align", "data": [world.file("align")], "vision": str(tmp_path / "vision")}])
    chain(path, [], [])
    with (tmp_path / "vision" / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="`align` has run on what .*vision/config.json held before"):
        chain(path, [], [])


def test_a_stage_made_from_another_model_is_refused(world, tmp_path, ran):
    path = write(tmp_path, world)
    tree = yaml.safe_load(Path(path).read_text())
    write(tmp_path, world, stages=tree["stages"][:2])
    chain(path, [], [])
    note = tmp_path / "run" / "align" / "final" / "omnivision.json"
    note.write_text(note.read_text() + "\n")  # as a second align would leave another note
    with pytest.raises(ConfigError, match="`sft` was made from another model than"):
        chain(path, [], [])


@pytest.mark.parametrize("stages, message", [
    (["align", "sft", "sft"], "'sft' cannot follow sft"),
    (["sft"], "'sft' cannot follow nothing"), (["align", "dpo"], "'dpo' cannot follow align"), (["align", "align"], "'align' cannot follow align"),
    (["align", "chatter"], "'chatter' cannot follow align"), (["align", "pairs"], "`pairs` is not behind `sft`"),
    (["align", "sft", "pairs"], "data.*pairs of the chain"), ([], "no stages"),
])  # fmt: skip
def test_an_order_that_stages_cannot_have_is_refused(tmp_path, stages, message):
    with pytest.raises(ConfigError, match=message):
        read_links(ChainConfig(str(tmp_path), [{"stage": stage} for stage in stages]), tmp_path, [], [])


def test_a_misspelt_key_of_any_stage_is_found_before_the_first_runs(world, tmp_path, ran):
    path = write(tmp_path, world)
    for words, message in ((["dpo.betta=1"], "betta.*dpo of the chain.*beta"), (["stf.lr=1"], "`stf.lr=1` is no key of the chain"),
                           (["functions.lr=1"], "`functions.lr=1` is no key of the chain")):  # the chain has no such stage
        with pytest.raises(ConfigError, match=message):
            chain(path, words, [])
    assert not ran and not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage, key, remedy", [
    *[(stage, "out", "give out=") for stage in ("align", "sft", "shared", "pairs")], *[(stage, "start", "starts from the one before") for stage in ("align", "dpo")]])
def test_where_a_stage_writes_and_starts_is_the_chains_to_say(tmp_path, ran, stage, key, remedy):
    stages = [{"stage": "align", "config": "align.yaml"}, {"stage": "sft"}, {"stage": "pairs", "data": "rows.jsonl"}, {"stage": "dpo"}]
    (tmp_path / "align.yaml").write_text("out: of_its_own")  # for a run of the stage alone
    file, own = tmp_path / "chain.yaml", str(tmp_path / "run")
    file.write_text(yaml.safe_dump({"out": own, "stages": stages}))
    assert [link.config.out for link in chain_module.open_chain(str(file), [], []) if link.config] == [own] * 3
    with pytest.raises(ConfigError, match=rf"`{key}` is set for {stage}, and the chain sets it.*{remedy}"):
        chain(str(file), [f"{stage}.{key}=elsewhere"], [])
    marked = [entry | ({key: "elsewhere"} if entry["stage"] == stage else {}) for entry in stages]
    file.write_text(yaml.safe_dump({"out": own, "stages": marked, "shared": {key: "elsewhere"} if stage == "shared" else {}}))
    with pytest.raises(ConfigError, match=rf"`{key}` is set for {stage}, and the chain sets it.*{remedy}"):
        chain(str(file), [], [])
    assert not ran and not Path(own).exists()


def test_a_chain_where_no_folder_can_be_is_refused(world, tmp_path, ran):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="The run's folder cannot be made"):
        chain(write(tmp_path, world), [f"out={tmp_path / 'file' / 'x'}"], [])
    assert not ran


def test_pairs_stand_between_sft_and_dpo_and_flags_go_to_every_stage(tmp_path):
    entries = [{"stage": "align"}, {"stage": "sft"}, {"stage": "pairs", "data": "world/dpo.jsonl"}, {"stage": "dpo"}]
    links = read_links(ChainConfig("runs/x", entries, {"feature_cache": "cache", "cache_gib": 5.0}), tmp_path, ["sft.lr=3e-6", "pairs.limit=7"], ["--num_gpus", "8"])
    assert [link.stage for link in links] == ["align", "sft", "pairs", "dpo"]
    assert links[2].command[3:] == ["data", "pairs", "--model", "runs/x/sft/final", "--data", "world/dpo.jsonl", "--image-root", ".",
                                    "--feature-cache", "cache", "--cache-gib", "5.0", "--limit", "7", "--out", "runs/x/pairs.jsonl"]
    assert links[3].config.data == ["runs/x/pairs.jsonl"] and links[3].config.start == "runs/x/sft/final" and links[3].before is links[1]
    assert links[1].config.lr == 3e-6 and links[1].command[-3:] == ["--", "--num_gpus", "8"]


def test_the_shipped_chains_are_whole(root):
    for file in (root / "train" / "configs").rglob("chain.yaml"):
        text = file.read_text()
        assert text.startswith(f"# omnivision train chain --config {file.relative_to(root)}")
        links = read_links(ChainConfig(**yaml.safe_load(text)), file.parent, [], [])
        assert [link.stage for link in links if link.config] == ["align", "sft", "dpo", "functions"]


def test_a_number_that_pairs_cannot_have_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="5.0 cannot be used.*--most-edited"):
        read_links(ChainConfig("runs/x", [{"stage": "align"}, {"stage": "sft"}, {"stage": "pairs", "data": "a.jsonl", "most_edited": 5.0}]), tmp_path, [], [])


def test_pairs_of_another_model_are_made_again(tmp_path):
    final = tmp_path / "sft" / "final"
    final.mkdir(parents=True)
    (final / "omnivision.json").write_text("one")
    sft = chain_module.Link("sft", [], SftConfig(), final, None)
    (rows := tmp_path / "rows.jsonl").write_text("{}\n")
    link = chain_module._pairs_link({"data": str(rows)}, {}, [], sft, tmp_path / "pairs.jsonl")
    assert not chain_module.is_finished(link)
    link.result.write_text("{}\n")
    assert not chain_module.is_finished(link)  # nobody knows what made it
    chain_module.write_json(chain_module.pairs_note(link), chain_module.made_from(link))
    assert chain_module.is_finished(link)
    assert "--cache-gib" in (more := chain_module._pairs_link({"data": str(rows), "cache_gib": 5.0}, {}, [], sft, link.result)).command
    assert chain_module.is_finished(more)  # how much a cache may hold changes no answer
    taught = {"data": str(rows), "teacher": "https://x/v1", "teacher_model": "m"}
    assert not chain_module.is_finished(chain_module._pairs_link(taught, {}, [], sft, link.result))
    assert chain_module.made_from(chain_module._pairs_link(taught | {"max_cost": 3.0, "key_variable": "KEY"}, {}, [], sft, link.result)) == (
        chain_module.made_from(chain_module._pairs_link(taught, {}, [], sft, link.result)))
    assert not chain_module.is_finished(chain_module._pairs_link({"data": str(rows), "limit": 5}, {}, [], sft, link.result))
    rows.write_text("{}\n{}\n")
    assert not chain_module.is_finished(link)
    rows.write_text("{}\n")
    assert chain_module.is_finished(link)
    (final / "omnivision.json").write_text("another")
    assert not chain_module.is_finished(link)


def test_the_chains_result_stands_alone_on_stdout(tmp_path, capfd):
    chain_module._run([sys.executable, "-c", "print('noise')"])
    assert capfd.readouterr().out == ""
