"""`omnivision bench`: what it counts by hand, and that it measures what it says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import train_world
from safetensors.torch import load_file

from omnivision import OmniVisionForConditionalGeneration
from omnivision.early_exit import Speculated
from omnivision.errors import ConfigError, DataError
from omnivision.model.checkpoints import load_checkpoint
from omnivision.model.layouts import TILES
from omnivision_cli import bench, bench_early_exit
from omnivision_cli.main import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return train_world.road(tmp_path_factory)["sft"]


def test_two_models_are_measured_in_turn(checkpoint, monkeypatch, capsys):
    order = []
    original = bench._timed

    def timed(one, *rest):
        order.append(one.name)
        return original(one, *rest)

    monkeypatch.setattr(bench, "_timed", timed)
    subjects = [bench.load(str(checkpoint)), bench.load(str(checkpoint.parent))]
    found = bench.measure(subjects, rounds=2, new_tokens=3)
    assert order[:4] == [str(checkpoint), str(checkpoint.parent)] * 2 and len(order) == 2 * 3 * 3
    for one in found.values():
        assert one["image_tokens"] == 9 and one["first_token_ms"] > 0 and one["tokens_per_second"] > 0
        assert one["bytes"] == sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        assert one["parameters"] == sum(weight.numel() for weight in OmniVisionForConditionalGeneration.from_pretrained(checkpoint).parameters())


def test_times_by_a_fake_clock(monkeypatch):
    """Prepared at 2 s, the prompt read at 2.5, the first token at 5, the last of 10 more at 15."""
    clock = iter([0.0, 2.0, 2.5, *range(5, 16)])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    asked = []

    class Silent:
        def generate(self, **settings):
            asked.append((settings["max_new_tokens"], settings["min_new_tokens"]))
            for _ in range(1 + 11):
                settings["streamer"].put(None)

    class Subject(bench.Subject):
        def inputs(self, picture, prompt):
            return {}

    assert bench._timed(Subject("x", None, Silent(), None), None, "?", 10) == (2.0, 3.0, 1.0)
    assert asked == [(11, 11)]


def test_fewer_tokens_of_a_picture(checkpoint, tmp_path, capsys, monkeypatch):
    assert main(["bench", "--model", str(checkpoint), "--image-tokens", "81,27,9", "--rounds", "1", "--new-tokens", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["image_tokens"] for one in found.values()] == [81, 27, 9] and [*found] == ["81 tokens", "27 tokens", "9 tokens"]
    assert all(one["peak_memory_gib"] > 0.1 for one in found.values())
    made = bench.with_image_tokens(str(checkpoint), 27, tmp_path / "made")
    one, other = (OmniVisionForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (checkpoint, made))
    assert all(torch.equal(one[name], other[name]) for name in one if ".projector." not in name)
    monkeypatch.delitem(TILES, 27)  # as 243 is none: 3 tokens of 729 patches
    for tokens in (10, 3):
        with pytest.raises(ConfigError, match=f"81 patches do not divide into {tokens} tokens.*some of 81, 27, 9, 1"):
            bench.with_image_tokens(str(checkpoint), tokens, tmp_path / "none")


def test_what_is_measured_takes_as_much_of_the_disk_as_its_source(checkpoint, tmp_path):
    model, processor = load_checkpoint(checkpoint)
    for part in (model.half(), processor):
        part.save_pretrained(tmp_path / "half")
    made = bench.with_image_tokens(str(tmp_path / "half"), 27, tmp_path / "made")
    assert {values.dtype for values in load_file(made / "model.safetensors").values()} == {torch.float16}


def test_a_model_that_takes_no_picture_is_refused(checkpoint, tmp_path, capsys):
    assert main(["bench", "--model", str(tmp_path)]) == 2
    assert main(["bench", "--model", str(checkpoint), "--image-tokens", "x"]) == 2
    one = bench.load(str(checkpoint))
    one.model.config.image_token_id = 1
    with pytest.raises(ConfigError, match="holds no image token"):
        one.image_tokens(bench.sample_picture())


def test_the_table():
    found = {"m": {"image_tokens": 81, "prepare_ms": 1.25, "first_token_ms": 20.0, "tokens_per_second": 99.5, "bytes": 2_500_000, "parameters": 1234567,
                   "peak_memory_gib": 0.5}}
    assert bench.table(found).splitlines()[-1] == "| m | 81 | 1.2 | 20.0 | 99.5 | 0.50 | 2.5 | 1,234,567 |"


def test_early_exits_against_plain_decoding(checkpoint, tmp_path, monkeypatch, capsys):
    """The tests' language model has one layer, so one is asked for that does not exist; then one of four that does."""
    assert main(["bench", "--model", str(checkpoint), "--early-exit", "1", "--json"]) == 2
    assert "no early exit of 1 layers" in json.loads(capsys.readouterr().out)["error"]["what"]
    from test_early_exit import deep_model, make_processor

    model = deep_model(1)
    model.config.early_exit_layer = 3
    model.save_pretrained(tmp_path)
    make_processor(model).save_pretrained(tmp_path)
    assert main(["bench", "--model", str(tmp_path), "--early-exit", "--rounds", "2", "--new-tokens", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_answers"] == found["questions"] == 3 and (found["layer"], found["layers"]) == (3, 4)
    assert 0 <= found["accepted"] <= 1 and found["least"] <= found["times_plain"] <= found["most"]


@pytest.mark.parametrize("words, message", [
    (["--questions", "q.jsonl"], "go with --early-exit"), (["--early-exit", "--image-tokens", "9"], "two measurements"),
    (["--early-exit", "--count", "0"], "--count has to be at least 1")])
def test_options_that_would_be_passed_over_are_refused(words, message, capsys):
    assert main(["bench", "--model", "m", *words]) == 2
    assert message in "".join(capsys.readouterr())


def test_questions_without_a_picture_are_refused(tmp_path, capsys):
    questions = train_world.write_lines(tmp_path / "questions.jsonl", [{"text": "What is two and two?"}])
    assert main(["bench", "--model", "m", "--early-exit", "--questions", str(questions), "--json"]) == DataError.exit_code
    assert "No question has a picture" in capsys.readouterr().out


def test_each_way_of_decoding_is_counted_by_its_own_tokens(monkeypatch):
    from test_early_exit import deep_model, prompt

    model, clock = deep_model(1), iter(range(100))
    monkeypatch.setattr("omnivision.early_exit.generate_speculatively", lambda *_, draft=4: Speculated([7], draft, draft // 4) if draft else Speculated([1, 2, 3], 0, 0))
    monkeypatch.setattr(bench_early_exit.time, "perf_counter", lambda: next(clock))
    subject = SimpleNamespace(model=model, name="m", inputs=lambda picture, text: prompt(model, text, picture))
    found = bench_early_exit.measure(subject, [(0, "two"), (1, "one")], rounds=1, new_tokens=9, layer=2)
    assert found["early_tokens_per_second"] == 2 and found["plain_tokens_per_second"] == 6
    assert (found["same_answers"], found["accepted"]) == (0, 0.25)
