"""The benchmark of the stages beside TRL: what it compares, counts and refuses, without its processes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_parts import make_image, make_model, make_processor
from omnivision_train.benchmark import arm as arm_module
from omnivision_train.benchmark import measure
from omnivision_train.benchmark.arm import DEFAULTS, LLAVA, OURS, SMOLVLM, STOCK, Arm, Paced
from omnivision_train.benchmark.main import LEVERS, compared, each_stage, fp32, parser, stage_report
from omnivision_train.benchmark.material import prepare, word_list, write_rows
from omnivision_train.benchmark.measure import AGREE, gate, timed
from omnivision_train.benchmark.stock import smolvlm
from transformers import AutoTokenizer, TrainerState

from omnivision.errors import ConfigError
from omnivision.model.build import WEIGHTS
from omnivision.runs import read_json_lines


def options_of(words: list[str]):
    """Of the first stage."""
    return each_stage(parser().parse_args(words))[0]


ARM = Arm(OURS, OURS, "sft", "f", "m", "r", "tiny", 8, "fp32")
ARMS = [ARM, replace(ARM, name=STOCK, trainer=STOCK)]


class Fake:
    """An arm that took these seconds and logged these numbers."""

    def __init__(self, arm: Arm, logged=()) -> None:
        self.arm, self.logged, self.seconds = arm, list(logged), 1.0 if arm.trainer == OURS else 2.0

    def ready(self) -> float:
        return 10.0

    def steps(self, number: int, warm: int = 0) -> dict:
        return {"logged": self.logged, "seconds": self.seconds, "cpu": self.seconds}

    def cpu(self) -> float:
        return 0.0

    def end(self) -> dict:
        return MEMORY[0]


@pytest.mark.parametrize("off, step, agrees", [(0.5, 0, True), (2, 0, False), (2, 1, True), (float("nan"), 0, False)])
def test_arms_that_do_not_train_the_same_are_not_timed(monkeypatch, off, step, agrees):
    line = {"loss": 0.7, "grad_norm": 0.5}
    logged = {STOCK: [line] * 3, OURS: [{**line, "loss": 0.7 + off * AGREE["cpu"] if number == step else 0.7} for number in range(3)]}
    monkeypatch.setattr(measure, "Process", lambda arm: Fake(arm, logged[arm.trainer]))
    if agrees:
        assert [stock for _, stock in gate(*ARMS)] == logged[STOCK]
    else:
        with pytest.raises(SystemExit, match="ours and stock TRL do not train the same: step 1, loss"):
            gate(*ARMS)


MEMORY = [{"peak_gib": 1.0, "imports_gib": 0.5}, {"peak_gib": 2.0, "imports_gib": 0.6}]


def one_round(ours: float, stock: float, others: float) -> dict:
    """A round in which the arms took so many seconds."""
    return {"arms": [{"seconds": seconds, "cpu": seconds, "logged": []} for seconds in (ours, stock)], "others": others}


@pytest.mark.parametrize("others, steady, told", [((0.0, 0.9), "2.00 (2.00 to 2.00)", "1 of 2 rounds were quiet."),
                                                  ((0.9, 0.9), "5.00 (2.00 to 8.00)", "0 of 2 rounds were quiet; none, so all count")])
def test_only_quiet_rounds_count(others, steady, told):
    options = options_of(["--epochs", "3", "--rows", "160", "--steps", "4"])
    found = {"rounds": [one_round(4.0, 8.0, others[0]), one_round(1.0, 8.0, others[1])], "preparation": [20.0, 10.0], "memory": MEMORY}
    said = stage_report("sft", ARMS, found, options)
    assert steady in said and told in said
    if others[0] == 0.0:  # 64 samples a round: 16 and 8 a second, a job of 480 in 20 + 30 and 10 + 60 seconds
        assert "| ours | 16.00 | 20.0 | 50.0 | 1.00 | 0.50 | 1 |" in said
        assert "| stock TRL | 8.00 | 10.0 | 70.0 | 2.00 | 0.60 | 2.00 (2.00 to 2.00) | 2.00 | 1.40 | 2.00 | 2.80 |" in said


def test_arms_take_turns_and_a_machine_that_does_not_tell_its_load_is_not_called_quiet(monkeypatch):
    monkeypatch.setattr(measure, "Process", Fake)
    monkeypatch.setattr(Path, "read_text", lambda self: (_ for _ in ()).throw(OSError()))
    found = timed(ARMS, rounds=2, steps=4)
    assert [[arm["seconds"] for arm in one["arms"]] for one in found["rounds"]] == [[2.0, 4.0]] * 2  # two turns each
    assert "0 of 2 rounds were quiet" in stage_report("sft", ARMS, found, options_of([]))


def test_an_arm_steps_when_it_is_told_to(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("3 1\n"))
    monkeypatch.setattr(arm_module.time, "perf_counter", iter([0.0, 10.0, 16.0]).__next__)
    paced = Paced(said)
    paced.on_step_begin(None, TrainerState(global_step=0), None)
    paced.on_step_end(None, TrainerState(global_step=1), None)  # the one that does not count
    paced.on_step_begin(None, TrainerState(global_step=1), None)
    paced.on_step_end(None, TrainerState(global_step=2), None)
    paced.on_log(None, TrainerState(global_step=2), None, {"loss": 0.7, "teraflop": 2.0, "epoch": 1.0})  # a log line covers two steps
    with pytest.raises(SystemExit):  # its input ends
        paced.on_log(None, TrainerState(global_step=4), None, {"loss": 0.6, "epoch": 1.0})
    ready, steps, end = map(json.loads, said.getvalue().splitlines())
    assert ready == {"ready": True} and steps["logged"] == [{"loss": 0.7, "teraflop": 2.0}, {"loss": 0.6}] and steps["seconds"] == 6.0 and end["peak_gib"] > end["imports_gib"] == 0


def test_what_a_loaders_processes_compute_counts_while_they_run_and_after():
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = arm_module.cpu_seconds()
    loader = subprocess.Popen([sys.executable, "-S", "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    loader.stdout.readline()
    assert arm_module.cpu_seconds() - before >= 0.45
    loader.communicate("\n")
    assert arm_module.cpu_seconds() - before >= 0.45


def test_an_arm_that_cannot_run_is_left_out_where_the_others_do_without(monkeypatch):
    class Broken(Fake):
        def ready(self) -> float:
            if self.arm.name == "ours, loss_kernel=liger":
                raise SystemExit("no module named liger_kernel")
            return super().ready()

    monkeypatch.setattr(measure, "Process", Broken)
    extra = replace(ARMS[0], name="ours, loss_kernel=liger", optional=True)
    for together in (False, True):
        found = timed([ARMS[0], extra, ARMS[1]], rounds=1, steps=4, together=together)
        assert found["left_out"] == {extra.name: "no module named liger_kernel"} and len(found["rounds"][0]["arms"]) == len(found["memory"]) == 2
    with pytest.raises(SystemExit):
        timed([replace(extra, optional=False)], rounds=1, steps=4)


def test_what_arms_compute_while_they_wait_is_not_others(monkeypatch):
    class Reading(Fake):
        used = 0.0

        def cpu(self) -> float:
            Reading.used += 3.0  # of both arms, before and after
            return Reading.used

    monkeypatch.setattr(measure, "Process", Reading)
    monkeypatch.setattr(measure, "busy_seconds", lambda: 0.0)
    found = timed(ARMS, rounds=1, steps=4)["rounds"][0]
    assert found["waiting"] > 0 and found["others"] < 0


def test_what_a_device_reaches_is_told_beside_its_own_product():
    found = {"rounds": [one_round(4.0, 8.0, 0.0)], "preparation": [20.0, 10.0], "memory": MEMORY}
    found["rounds"][0]["arms"][0]["logged"] = [{"teraflop": 750.0}, {"teraflop": 750.0}]  # of twice five steps, four of which counted
    said = stage_report("sft", ARMS, found, options_of(["--steps", "4"]), products=600.0)
    assert "share of the device's own |" in said and "| ours | 16.00 |" in said and "| 300 | 50.0% |" in said and "| – | – |" in said
    assert "share" not in stage_report("sft", ARMS, found, options_of([]))


def test_where_arms_prepare_together_no_job_is_told():
    found = {"rounds": [one_round(4.0, 8.0, 0.0)], "preparation": [20.0, 10.0], "memory": MEMORY}
    said = stage_report("sft", ARMS, found, options_of(["--together", "--steps", "4"]))
    assert "| stock TRL | 8.00 | – | – | 2.00 | 0.60 | 2.00 (2.00 to 2.00) | 2.00 | – | 2.00 | 2.80 |" in said and "whole job is" not in said


def test_loaders_that_read_ahead_are_told():
    found = {"rounds": [one_round(4.0, 8.0, 0.0)], "preparation": [20.0, 10.0], "memory": MEMORY}
    said = [stage_report("sft", ARMS, found, options_of(words)) for words in ([], ["--workers", "2"])]
    assert ["Loaders read on while an arm waits" in one for one in said] == [False, True]


@pytest.mark.parametrize("stage", ["align", "sft", "dpo"])
def test_every_arm_has_a_folder_of_its_own_and_settings_that_the_stage_knows(tmp_path, stage):
    for words in ([], ["--levers"], ["--also", "compile=true", "feature_cache=null"]):
        arms = compared(tmp_path, tmp_path / "rows", tmp_path / "arms-0", stage, options_of(words))
        every = [*arms, *map(fp32, arms)]
        assert arms[0].name == OURS and len({arm.folder for arm in every}) == len(every)
        for arm in every:
            arm.config()
        if words == ["--levers"]:
            assert all(arm.config() != replace(arms[0].config(), out=arm.folder) for arm in arms[1:]) and len(arms) == 1 + len(LEVERS[stage])
        else:
            assert [arm.trainer for arm in arms if arm.trainer != OURS] == [STOCK, SMOLVLM, DEFAULTS] + [LLAVA] * (stage == "sft")
    assert arms[1].config().compile and arms[2].config().feature_cache is None


@pytest.mark.parametrize("stage", ["align", "sft"])
def test_the_smolvlm_class_has_our_tower_and_language_model_and_as_many_image_tokens(stage):
    ours = make_model()
    processor = make_processor(ours)
    theirs, one_picture = smolvlm(ours, processor, stage)
    inputs = one_picture(images=[[make_image(0)], [make_image(1)]], text=["<|image_pad|>Yes", "<|image_pad|>No"], padding=True, return_tensors="pt")
    pixels_BCHW = inputs["pixel_values"].squeeze(1)
    with torch.no_grad():
        tower = ours.model.vision_tower(pixel_values=pixels_BCHW).last_hidden_state
        torch.testing.assert_close(theirs.model.vision_model(pixels_BCHW).last_hidden_state, tower)
    assert (inputs["input_ids"] == ours.config.image_token_id).sum(1).tolist() == [ours.config.image_seq_length] * 2
    theirs(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = {name for name, weight in theirs.named_parameters() if weight.grad is not None}
    assert trained == {name for name, weight in theirs.named_parameters() if weight.requires_grad}
    assert {name.split(".")[1] for name in trained} == ({"connector"} if stage == "align" else {"connector", "text_model"})


def test_stages_have_numbers_of_their_own():
    one = each_stage(parser().parse_args(["--stages", "sft", "dpo", "--batch-size", "8", "4", "--words", "9"]))
    assert [(options.batch_size, options.words, options.rows) for options in one] == [(8, 9, 160), (4, 9, 160)]
    one = each_stage(parser().parse_args(["--stages", "sft", "dpo", "--rows", "12", "40"]))
    assert [(options.rows, options.photos) for options in one] == [(12, 40), (40, 40)]  # one material serves both
    with pytest.raises(SystemExit, match="--batch-size: give one number, or one for each of sft, dpo"):
        each_stage(parser().parse_args(["--stages", "sft", "dpo", "--batch-size", "8", "4", "2"]))


def test_the_gate_reads_the_first_rows_alone(tmp_path):
    (tmp_path / "language").mkdir()
    AutoTokenizer.from_pretrained(WEIGHTS / "tiny-language").save_pretrained(tmp_path / "language")
    (tmp_path / "material.json").write_text(json.dumps({"preset": "tiny", "photos": 160}))
    rows = prepare(tmp_path, options_of([]))
    arm = fp32(replace(ARM, rows=str(rows)))
    assert read_json_lines(Path(arm.config().data[0])) == read_json_lines(rows / "rows.jsonl")[:24]


def test_pairs_differ_in_one_word_and_rows_in_length(tmp_path):
    words = word_list(AutoTokenizer.from_pretrained(WEIGHTS / "tiny-language"))
    write_rows(tmp_path, 40, 20, words, 40)
    rows, pairs = read_json_lines(tmp_path / "rows.jsonl"), read_json_lines(tmp_path / "pairs.jsonl")
    lengths = {len(row["turns"][1]["text"].split()) for row in rows}
    assert min(lengths) >= 10 and max(lengths) <= 30 and len(lengths) > 10
    for row, pair in zip(rows, pairs, strict=True):
        chosen, rejected = pair["chosen"].split(), pair["rejected"].split()
        assert row["turns"][1]["text"] == pair["chosen"] and row["images"] == pair["images"]
        assert sum(one != other for one, other in zip(chosen, rejected, strict=True)) == 1


def test_material_is_used_again_for_other_rows_and_not_for_other_photos(tmp_path):
    out = tmp_path / "out"
    AutoTokenizer.from_pretrained(WEIGHTS / "tiny-language").save_pretrained(out / "language")
    (out / "material.json").write_text(json.dumps({"preset": "tiny", "photos": 10}))
    folders = [prepare(out, options_of(["--photos", "10", *words])) for words in ([], ["--words", "9"], ["--words", "9"], ["--rows", "12"])]
    assert [len(read_json_lines(folder / "rows.jsonl")) for folder in folders] == [160, 160, 160, 12] and len(set(folders)) == 3
    assert {path.name for path in out.iterdir()} == {"language", "material.json", *(folder.name for folder in folders)}  # the rest is used as it is
    with pytest.raises(ConfigError, match="another shape, or other photos"):
        prepare(out, options_of([]))
