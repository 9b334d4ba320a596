"""The reference's log-probs on disk: what names them, damage, several processes, and runs that go on."""

from __future__ import annotations

import copy
import multiprocessing
import shutil
from dataclasses import replace

import pytest
import torch
import train_world
from omnivision_train import reference_log_probs
from omnivision_train.callbacks import Log
from omnivision_train.config import DpoConfig
from omnivision_train.memory import REFERENCE, Part, held_by_parts
from omnivision_train.pair_loss import token_log_probs
from omnivision_train.pairs import PairCollator, Pairs
from omnivision_train.reference_log_probs import ReferenceFile, add_reference, in_bf16, model_hash, pair_keys

from omnivision.data.rows import read_rows

STEPS = {"max_steps": 6, "save_steps": 2, "batch_size": 4, "edit_weight": 2.0, "sft_weight": 0.1}
VALUES = ([-1.5, -0.1], [-2.25])  # fp32 holds the first and third exactly


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    return train_world.train(train_world.settings(world, tmp_path_factory.mktemp("whole"), "dpo", **STEPS), "dpo")


def same_weights(one, other):
    one, other = train_world.weights(one), train_world.weights(other)
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_written_is_read(tmp_path):
    file = ReferenceFile(tmp_path / "deep" / "a.jsonl")
    file.add({"k": VALUES})
    file.add({"k": ([0.0], [0.0]), "l": VALUES})  # the first holds
    again = ReferenceFile(file.path).known
    assert again == file.known or again == {key: tuple(torch.tensor(side).tolist() for side in values) for key, values in file.known.items()}
    assert set(again) == {"k", "l"} and again["k"][0] == torch.tensor(VALUES[0]).tolist()


@pytest.mark.parametrize("damage", ["flipped", "half a line", "no line", "another key"])
def test_damaged_lines_are_missing_and_the_others_stay(tmp_path, damage):
    file = ReferenceFile(tmp_path / "a.jsonl")
    file.add({"first": VALUES, "second": VALUES})
    whole = file.path.read_bytes()
    first, second = whole.splitlines(keepends=True)
    place = second.index(b'", "') + 6
    spoiled = {"flipped": second[:place] + bytes([second[place] ^ 1]) + second[place + 1 :], "half a line": second[: len(second) // 2],
               "no line": b"\xff\xfe\n", "another key": second.replace(b"second", b"secand")}[damage]
    file.path.write_bytes(first + spoiled)
    again = ReferenceFile(file.path)
    assert set(again.known) == {"first"}
    again.add({"second": VALUES})
    assert set(ReferenceFile(file.path).known) == {"first", "second"}


def test_many_processes_write_one_file(tmp_path):
    def write(number: int) -> None:
        file = ReferenceFile(tmp_path / "a.jsonl")
        for at in range(20):
            file.add({f"{number}-{at}": VALUES, f"shared-{at}": ([float(number)], [float(at)])})

    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(ReferenceFile(tmp_path / "a.jsonl").known) == 80 == len((tmp_path / "a.jsonl").read_text().splitlines())


def test_a_key_changes_with_all_that_counts(world, tmp_path):
    model, processor = train_world.build(world)
    shutil.copytree(world.folder / "images", tmp_path / "images")
    rows = read_rows(world.file("dpo"))[:2]
    pairs = Pairs(rows, processor, tmp_path, 256).samples
    (key, other), reworded = pair_keys(pairs, "fp32"), replace(pairs[0], prompt=pairs[0].prompt[:-1])
    assert key != other and key != pair_keys([reworded], "fp32")[0] and key != pair_keys(pairs, "bf16")[0]
    assert key == pair_keys([replace(pairs[0], id="renamed", part=3, reference=VALUES)], "fp32")[0]
    shutil.copy(tmp_path / "images" / "5.png", pairs[0].images[0])
    assert pair_keys(pairs, "fp32")[0] != key and pair_keys(pairs, "fp32")[1] == other
    name = model_hash(model)
    assert name == model_hash(copy.deepcopy(model))
    with torch.no_grad():
        model.model.projector.linear_2.bias[0] += 1e-6
    assert model_hash(model) != name
    model.config.vision_feature_layer, changed = -2, model_hash(model)
    assert model_hash(model) != changed


def test_a_bf16_copy_keeps_its_rotary_frequencies(world):
    """DeepSpeed casts parameters and leaves buffers; rounded frequencies would turn positions of the reference by other angles than the policy's."""
    model, _ = train_world.build(world)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    made = in_bf16(model)
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in made.named_buffers():
        assert name not in buffers or torch.equal(buffer, buffers[name]) and buffer.dtype == torch.float32
    assert {weight.dtype for weight in made.parameters()} == {torch.bfloat16} and {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert made.lm_head.weight is made.get_input_embeddings().weight  # tied as before


def test_values_are_the_models_own_and_are_computed_once(world, tmp_path, monkeypatch, capsys):
    model, processor = train_world.build(world)
    config, collator = train_world.settings(world, tmp_path, "dpo", batch_size=5), PairCollator(processor)
    rows = world.rows("dpo")

    def ask(rows):
        pairs = Pairs(rows, processor, world.folder, 256)
        add_reference(config, tmp_path / "kept", model, collator, (pairs,), torch.device("cpu"))
        return pairs.samples

    first = ask(rows[:7])
    assert "7 of 7 pairs computed" in capsys.readouterr().err
    for pair in first:  # alone, and not in a batch of others
        with torch.no_grad():
            batch = collator([pair])
            found = token_log_probs(model, batch, "edit")
        for side in (0, 1):
            assert torch.allclose(found[batch["slots"] == side], torch.tensor(pair.reference[side]), atol=1e-5)
    again = ask(rows)
    assert "5 of 12 pairs computed" in capsys.readouterr().err
    assert [pair.reference for pair in again[:7]] == [pair.reference for pair in first]
    monkeypatch.setattr(reference_log_probs, "AT_ONCE", 2)  # in parts they are the same
    parts = Pairs(rows, processor, world.folder, 256)
    add_reference(config, tmp_path / "parts", model, collator, (parts,), torch.device("cpu"))
    for one, other in zip(parts.samples, again, strict=True):
        assert all(torch.allclose(torch.tensor(one.reference[side]), torch.tensor(other.reference[side]), atol=1e-5) for side in (0, 1))
    monkeypatch.setattr(reference_log_probs, "token_log_probs", lambda *_: pytest.fail("computed again"))
    assert [pair.reference for pair in ask(rows)] == [pair.reference for pair in again]


def test_weighted_sums_of_a_batch(world):
    _, processor = train_world.build(world)
    pair = replace(Pairs(world.rows("dpo")[:1], processor, world.folder, 256)[0], prompt=[1, 2], chosen=[5, 6, 9], rejected=[5, 7, 8, 9],
                   reference=([-1.0, -2.0], [-3.0, -4.0, -5.0]))
    other = replace(pair, reference=([-10.0, -20.0], [-30.0, -40.0, -50.0]))
    batch = PairCollator(processor, edit_weight=3.0, whole_chosen=True)([pair, other])
    assert batch["reference"].tolist() == [-5.0, -50.0, -26.0, -260.0]
    assert "reference" not in PairCollator(processor)([pair, replace(other, reference=None)])


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "deleted"])
def test_a_killed_run_ends_as_if_nothing_had_happened(world, uninterrupted, tmp_path, monkeypatch, lost):
    class Killed(BaseException):
        pass

    config = train_world.settings(world, tmp_path, "dpo", **STEPS)
    original = Log.on_log

    def on_log(self, args, state, control, logs=None, **kwargs):
        original(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == 5 and logs and "loss" in logs:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Log, "on_log", on_log)
        with pytest.raises(Killed):
            train_world.train(config, "dpo")
    if lost:  # the start is still there: its log-probs are computed again, not those of the checkpoint
        shutil.rmtree(tmp_path / "dpo" / "reference")
    final = train_world.train(config, "dpo")
    assert same_weights(final, uninterrupted) and train_world.losses(final) == train_world.losses(uninterrupted)


def test_runs_share_a_folder_and_a_model_in_memory_trains_the_same(world, tmp_path, capsys):
    keys = {"max_steps": 3, "batch_size": 4, "held_out": [str(train_world.write_lines(tmp_path / "held.jsonl", train_world.read_lines(world.file("dpo"))[:3]))]}
    stored, again, other_model = (train_world.train(train_world.settings(world, tmp_path / name, "dpo", **keys, **changes), "dpo") for name, changes in (
        ("one", {"reference_cache": str(tmp_path / "kept")}), ("two", {"reference_cache": str(tmp_path / "kept"), "edit_weight": 1.0}),
        ("three", {"precompute_reference": False})))
    said = capsys.readouterr().err
    assert "of 12 pairs computed" in said and "reference: log-probs of 0 of 12 pairs computed" in said
    assert same_weights(stored, again)
    assert train_world.losses(other_model) == pytest.approx(train_world.losses(stored), abs=1e-4)
    assert not (tmp_path / "three" / "dpo" / "reference").exists()


def test_the_plan_counts_a_second_model_only_where_there_is_one():
    parts = [Part("projector", 10), Part("language model", 100)]
    for stored in (True, False):
        held = held_by_parts(parts, DpoConfig(precompute_reference=stored), "dpo", "fp32", 1)
        assert (REFERENCE in [one.name for one in held]) is not stored
