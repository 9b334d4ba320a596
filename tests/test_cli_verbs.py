"""chat, config and plan: what they answer, and what they say to bad input."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from export_parts import stored
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.constants import END_OF_TEXT, IMAGE_TOKEN, TURN_END, TURN_START, VISION_END, VISION_START
from omnivision.functions import FunctionalTokens, FunctionSet, install_tokens
from omnivision.model.checkpoints import load_checkpoint
from omnivision.model.processing import siglip_image_processor
from omnivision.presets import preset_config
from omnivision_cli import chat
from omnivision_cli.main import main
from omnivision_cli.terminal import for_terminal
from omnivision_train.config import AlignConfig, DpoConfig, StageConfig
from omnivision_train.memory import Part, check_memory, count_parts, held_by_parts, on_meta

SPECIAL = [END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_TOKEN]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of two small blocks, with a tokenizer of bytes."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=TURN_END, pad_token=END_OF_TEXT)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tiny = preset_config("tiny").to_dict()
    tiny["text_config"].pop("layer_types")  # as many as layers: derived again
    config = preset_config("tiny", vision_config={**tiny["vision_config"], "num_hidden_layers": 1},
                           text_config={**tiny["text_config"], "num_hidden_layers": 1, "vocab_size": len(tokenizer)},
                           image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run") / "final"
    OmniVisionForConditionalGeneration(config).save_pretrained(folder)
    OmniVisionProcessor(siglip_image_processor(216), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def ask(model, image, question="What is it?", *more) -> int:
    return main(["chat", "--model", str(model), "--image", str(image), question, "--max-new-tokens", "6", *more])


def test_chat_streams_what_it_answers(checkpoint, picture, capsys):
    assert ask(checkpoint, picture) == 0
    streamed = capsys.readouterr().out
    assert ask(checkpoint.parent, picture, "What is it?", "--json") == 0  # the run's folder does as well
    answer = json.loads(capsys.readouterr().out)
    assert 0 < answer["tokens"] <= 6
    assert streamed.strip() == for_terminal(answer["answer"])


ATTACK = "Yes\u3000猫 \x1b]0;title\x07\x1b[2J\u202eab\x9b"
HARMLESS = "Yes\u3000猫 \\x1b]0;title\\x07\\x1b[2J\\u202eab\\x9b"


@pytest.mark.parametrize("called", [True, False])
def test_an_answer_cannot_steer_the_terminal(checkpoint, picture, capsys, monkeypatch, called):
    """A byte-level model can write any byte; shown at once or word by word."""
    _, processor = load_checkpoint(checkpoint)
    ids = torch.tensor([processor.tokenizer.encode(ATTACK, add_special_tokens=False)])
    if called:
        monkeypatch.setattr(chat, "answer_ids", lambda *given, stream: ids[0].tolist())
        monkeypatch.setattr(FunctionSet, "beside", lambda folder: FunctionSet(()))
        monkeypatch.setattr("omnivision.functions.functional_tokens", lambda *given: FunctionalTokens((-2,), -1))
    else:

        def generate(self, input_ids, streamer, **more):
            streamer.put(input_ids)
            streamer.put(ids[0])
            streamer.end()
            return torch.cat([input_ids, ids], 1)

        monkeypatch.setattr(OmniVisionForConditionalGeneration, "generate", generate)
    assert ask(checkpoint, picture) == 0 and capsys.readouterr().out.strip() == HARMLESS


def test_an_answer_ends_where_the_model_says(checkpoint, picture):
    model, processor = load_checkpoint(checkpoint)
    model.generation_config.eos_token_id = [processor.tokenizer.convert_tokens_to_ids(TURN_END)]
    ids = chat.answer_ids(model, processor, Image.open(picture), "What is it?", 6, stream=False)
    model.generation_config.eos_token_id = [ids[3]]
    assert chat.answer_ids(model, processor, Image.open(picture), "What is it?", 6, stream=False) == ids[:ids.index(ids[3])]


def test_chat_names_the_functions_that_an_answer_calls(checkpoint, tmp_path, picture, capsys, monkeypatch):
    shutil.copytree(checkpoint, tmp_path / "final")
    model, processor = load_checkpoint(tmp_path / "final")
    functions = FunctionSet.from_json([{"type": "function", "function": {"name": "order", "description": "Order a thing", "parameters": {"type": "object", "properties": {}}}}])
    tokens = install_tokens(model, processor.tokenizer, functions).tokens
    for part in (model, processor):
        part.save_pretrained(tmp_path / "final")
    functions.save(tmp_path / "final")
    letters = processor.tokenizer("(x)", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(chat, "answer_ids", lambda *given, stream: [tokens.functions[0], *letters, tokens.end])
    for more in ((), ("--json",)):
        assert ask(tmp_path, picture, "Get it.", *more) == 0
        said = capsys.readouterr()
        assert (json.loads(said.out)["answer"] if more else said.out.strip()) == "order(x)" and "omnivision call" in said.err


def test_control_tokens_in_a_question_stay_letters(checkpoint, picture, capsys):
    assert ask(checkpoint, picture, f"{IMAGE_TOKEN}{TURN_END}", "--json") == 0


@pytest.mark.parametrize(("content", "said"), [(None, "does not exist"), (b"no picture", "looks like text")])
def test_chat_bad_image(checkpoint, tmp_path, capsys, content, said):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    assert ask(checkpoint, path) == 3
    captured = capsys.readouterr()
    assert said in captured.err and str(path) in captured.err and captured.out == ""


@pytest.mark.parametrize("question", ["", " ", "\u200b"])
def test_chat_refuses_an_empty_question_before_anything_loads(checkpoint, picture, capsys, monkeypatch, question):
    monkeypatch.setattr("omnivision.model.checkpoints.load_checkpoint", lambda *given: pytest.fail("it loaded the model"))
    assert ask(checkpoint, picture, question) == 2 and "the question is empty" in capsys.readouterr().err


def test_chat_missing_or_broken_checkpoint(tmp_path, picture, capsys):
    assert ask(tmp_path / "none", picture) == 2
    assert "does not exist" in capsys.readouterr().err
    assert ask(tmp_path, picture) == 2
    assert "no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert ask(tmp_path, picture) == 2
    assert "'qwen2'" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "omnivision"}')
    assert ask(tmp_path, picture) == 2
    assert "no weights" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert ask(tmp_path, picture) == 3


def test_chat_broken_weights(checkpoint, tmp_path, picture, capsys):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    assert ask(tmp_path, picture) == 3
    assert "weights cannot be read" in capsys.readouterr().err


def test_chat_does_not_answer_with_random_numbers_for_weights_that_are_missing(checkpoint, tmp_path, picture, capsys):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    stored(lambda tensors: tensors.pop("model.projector.linear_1.weight"))(tmp_path)
    assert ask(tmp_path, picture) == 3
    captured = capsys.readouterr()
    assert "1 of the model's tensors are not in the weights, the first is model.projector.linear_1.weight" in captured.err and captured.out == ""


def test_config_show_and_its_mistakes(root, capsys):
    file = str(root / "train" / "configs" / "vision.yaml")
    assert main(["config", "show", "--config", file, "seed=9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["seed"] == 9
    assert main(["config", "show", "--config", file, "sede=9"]) == 2
    assert "Did you mean `seed`?" in capsys.readouterr().err
    assert main(["config", "show"]) == 2
    assert main(["config", "schema", "--recipe", "vision", "--json"]) == 0
    assert "seed" in json.loads(capsys.readouterr().out.splitlines()[-1])["vision"]["properties"]


def test_plan_counts_the_published_model(capsys):
    assert main(["plan", "--preset", "968m", "--stage", "align", "--precision", "fp32", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["total"] == 968_400_704
    assert plan["parameters"]["projector"] == 81 * 128 * 4096 + 4096 + 4096 * 896 + 896
    assert plan["bytes"]["bf16"] == 2 * 968_400_704
    activations = sum(part["activations"] for part in plan["training_bytes"].values())
    assert plan["training_total"] - activations == 4 * 968_400_704 + 12 * plan["parameters"]["projector"]


def test_plan_divides_state_among_ranks():
    parts = [Part("vision tower", 100), Part("projector", 40)]
    totals = {zero: sum(one.total for one in held_by_parts(parts, AlignConfig(zero_stage=zero), "align", "bf16", ranks=4)) for zero in range(4)}
    # by hand: weights 2 x 140; the projector's gradients 2 x 40, at ZeRO 1 their sums 4 x 40, and optimizer 12 x 40
    assert totals == {0: 280 + 80 + 480, 1: 280 + (80 + 160) + 120, 2: 280 + 20 + 120, 3: 70 + 20 + 120}
    own = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}  # a user's JSON counts, not the keys it replaces
    assert sum(one.total for one in held_by_parts(parts, AlignConfig(zero_stage=0, deepspeed=own), "align", "bf16", ranks=4)) == 280 + 20


def test_plan_is_for_the_files_optimizer_processes_and_stage(capsys, tmp_path):
    (tmp_path / "sft-mine.yaml").write_text("preset: tiny\noptimizer: muon\nzero_stage: 0\nprocesses: 2\nbatch_size: 4\n")
    assert main(["plan", "--config", str(tmp_path / "sft-mine.yaml"), "--rows", "100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["stage"], plan["precision"], plan["ranks"], plan["steps"]["global_batch"], plan["steps"]["steps"]) == ("sft", "fp32", 2, 8, 13)
    rest = 4096 * 256 + 4 * (2 * 256 + 256 + 2 * 128) + 256  # the table, norms and of queries, keys and values; its matrices are Muon's
    language = plan["training_bytes"]["language model"]
    assert language["optimizer"] == 4 * (plan["parameters"]["language model"] - rest) + 8 * rest and language["weights"] == 4 * plan["parameters"]["language model"]
    (tmp_path / "mine.yaml").write_text("preset: tiny\n")
    assert main(["plan", "--config", str(tmp_path / "mine.yaml")]) == 2 and "Add --stage align|" in capsys.readouterr().err


def test_plan_that_cannot_fit(capsys, tmp_path):
    assert main(["plan", "--preset", "tiny", "--memory", "0.01"]) == 4
    assert "GiB a device" in capsys.readouterr().err
    assert main(["plan", "--preset", "tiny", "--memory", "0.01", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert main(["plan", "--preset", "tini"]) == 2
    (tmp_path / "sft.yaml").write_text("preset: tiny\nstage: sfft\n")
    assert main(["plan", "--config", str(tmp_path / "sft.yaml")]) == 2


def test_plan_tells_steps_and_time(capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "What?", "answer": "A cat"}\n' * 1000 + "\n")
    (tmp_path / "sft.yaml").write_text(f"preset: tiny\ndata: [{tmp_path / 'rows.jsonl'}]\nbatch_size: 8\naccumulation: 4\nepochs: 2.0\nzero_stage: 2\n")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "seconds": 9 + 0.5 * step}) + "\n" for step in (10, 20, 30)))
    command = ["plan", "--config", str(tmp_path / "sft.yaml"), "--ranks", "2", "--metrics", str(tmp_path / "metrics.jsonl")]
    assert main([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["zero"] == 2 and plan["steps"] == {"rows": 1000, "missing": [], "global_batch": 64, "epochs": 2.0, "steps": 32,
                                                   "seconds_per_step": 0.5, "seconds": 16.0, "grounding_steps": 0}
    assert main(command) == 0
    assert "steps: 32 (1,000 rows, 64 a step, 2 epochs)\ntime: 0 h 00 min 16 s at 0.5 s a step" in capsys.readouterr().out
    (tmp_path / "rows.jsonl").unlink()
    assert main(command[:3]) == 0
    assert "unknown, since" in capsys.readouterr().out
    assert main([*command[:3], "--rows", "64", "--seconds-per-step", "100"]) == 0
    assert "steps: 4 (64 rows, 32 a step, 2 epochs)\ntime: 0 h 06 min 40 s" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert main(command) == 2
    capsys.readouterr()
    assert main(["plan", "--preset", "tiny", "--rows", "10", "--json"]) == 0 and json.loads(capsys.readouterr().out)["steps"]["steps"] > 0


@pytest.mark.parametrize("stage, changes, ranks, memory, message", [
    ("sft", {}, 1, 8, r"take 8\.8 GiB .* the device has 8\.0.*more processes with zero_stage=3"),
    ("sft", {"zero_stage": 1}, 8, 3, r"zero_stage=2, zero_stage=3, offload_optimizer=true"),
    ("dpo", {"precompute_reference": False}, 1, 10, r"take 10\.[67] GiB"), ("dpo", {}, 1, 10, None),
    ("sft", {}, 1, 10, None), ("sft", {"zero_stage": 1, "offload_optimizer": True}, 1, 4, None), ("align", {}, 1, 3, None),
])  # fmt: skip
def test_a_stage_that_cannot_fit_is_refused_before_anything_loads(stage, changes, ranks, memory, message):
    from omnivision import OmniVisionConfig
    from omnivision.errors import PlanError

    def check():
        config = (DpoConfig if stage == "dpo" else StageConfig)(**{"zero_stage": 0, **changes})
        check_memory(held_by_parts(count_parts(on_meta(OmniVisionConfig())), config, stage, "bf16", ranks), config, stage, ranks, memory * 2**30)

    if message is None:
        check()
    else:
        with pytest.raises(PlanError, match=message):
            check()
