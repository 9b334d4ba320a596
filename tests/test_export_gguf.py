"""GGUF export: the files run in stock llama.cpp and answer as the checkpoint, and every way it must refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import weakref
from decimal import Decimal
from functools import partial

import export_parts
import gguf
import numpy as np
import pytest
import torch
from model_parts import CONTROL, SHAPE, make_image, make_model, make_tokenizer
from PIL import Image

from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.export import verify
from omnivision.export.checkpoint import Checkpoint
from omnivision.export.folder import hashes_of, read_manifest
from omnivision.export.gguf import export, tiles
from omnivision.export.gguf.check import LIMITS, Agreement, compare
from omnivision.export.gguf.engine import Engine, Reply, _by_step
from omnivision.export.gguf.gbnf import gbnf, whole_numbers
from omnivision.export.gguf.picture_file import write_picture
from omnivision.export.gguf.tiles import main as prepare
from omnivision.export.gguf.tiles import moved_patches, prepared, raster_order
from omnivision.export.gguf.types import type_of
from omnivision.export.gguf.vocabulary import vocabulary
from omnivision.export.main import main
from omnivision.export.reference import Question
from omnivision.export.report import report
from omnivision.export.stored import StoredTensors
from omnivision.functions import Function, FunctionSet, functional_tokens, install_tokens
from omnivision.model.layouts import membership
from omnivision.model.processing import siglip_image_processor

# 27 x 27 patches of 2 px; an inner width that is no multiple of 32 has to be padded
VISION = {**SHAPE, "image_size": 55, "patch_size": 2, "intermediate_size": 72, "num_hidden_layers": 2, "hidden_act": "gelu_pytorch_tanh"}
TEXT = {"model_type": "qwen2", "vocab_size": 448, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None,
        "initializer_range": 0.1}
FUNCTIONS = FunctionSet((Function("order", "Order things.", {"type": "object", "additionalProperties": False, "properties": {
    "count": {"type": "integer", "minimum": 3, "maximum": 250}, "item": {"enum": ["cat", "猫"]}}, "required": ["count", "item"]}),))
QUESTIONS = ["Is there a red cat in the image?", "图中有几只猫？"]


def save_checkpoint(folder, **overrides):
    shape = {"vision_config": VISION, "text_config": TEXT, "projector_gelu": "tanh", **overrides}
    return export_parts.save_checkpoint(folder, FUNCTIONS, CONTROL[:6], **shape)


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("raster") / "final")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rows = [{"text": QUESTIONS[0]}]
    for index in range(3):
        make_image(index).save(folder / f"{index}.png")
        rows += [{"text": text, "image": f"{index}.png"} for text in QUESTIONS]
    (folder / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "ask.jsonl"


@pytest.fixture(scope="module")
def phone(raster, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("phone") / "model"
    return out, export.export_gguf(raster, out, ["f16", "q8_0", "q4_k_m"], questions, count=7, new_tokens=6)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(export, "verify_in_new_process", verify.verify_folder)


def fields(file):
    reader = gguf.GGUFReader(file)
    return {name: field.contents() for name, field in reader.fields.items()}, {tensor.name: tensor for tensor in reader.tensors}


def test_a_raster_model_answers_the_same_in_llama_cpp(phone):
    out, result = phone
    found = result["quantizations"]["f16"]
    assert found["prompts_equal"] == found["questions"] == 7
    assert found["answers_equal"] + found["ties"] == 7 and found["answers_equal"] >= 6
    assert 0 < found["embedding_diff"] < 5e-3 and 0 < found["logprob_diff"] < 5e-2
    differences = [result["quantizations"][one]["mean_logprob_diff"] for one in ("f16", "q8_0", "q4_k_m")]
    assert differences == sorted(differences) and differences[0] < differences[2]
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_answers_end_where_the_checkpoints_do(phone, raster, questions, tmp_path, in_process, monkeypatch):
    """A stop token that llama.cpp does not know by its name, in the middle of what the model would say without it."""
    rows = [json.loads(line) for line in (phone[0] / "reference.jsonl").read_text(encoding="utf-8").splitlines()]
    stop = next(row["steps"][1]["id"] for row in rows if row["image"])
    folder = shutil.copytree(raster, tmp_path / "final")
    said = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**said, "eos_token_id": [*said["eos_token_id"], stop], "repetition_penalty": 1.3}))
    result = export.export_gguf(folder, tmp_path / "out", ["f16"], questions, count=7, new_tokens=6)["quantizations"]["f16"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "reference.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(len(row["steps"]) < 6 and row["steps"][-1]["id"] == stop for row in rows) and result["answers_equal"] + result["ties"] == 7
    assert stop in read_manifest(tmp_path / "out")["stop_token_ids"] and "repetition_penalty 1.3" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr(export, "vocabulary", lambda tokenizer, rows, stops: vocabulary(tokenizer, rows))
    refused(tmp_path / "other", DataError, "goes on behind its end", folder, questions=questions, count=7, new_tokens=6)


def test_more_ends_than_gguf_has_keys_for_are_refused():
    tokenizer = make_tokenizer()
    end, text_end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert vocabulary(tokenizer, 448, [text_end, 7, end, 5]).ends == (end, 5, 7)
    with pytest.raises(ConfigError, match="4 tokens that llama.cpp has to be told of, it can be told of 3"):
        vocabulary(tokenizer, 448, [5, 6, 7, end])


def test_a_question_beyond_the_context_is_not_repeated(phone):
    engine = Engine(phone[0] / "model-f16.gguf", phone[0] / "mmproj-f16.gguf")
    with pytest.raises(DataError, match="exceeds the available context.*Ask a shorter question") as caught:
        engine.ask("cup " * 3000, None, 2)
    assert len(str(caught.value)) < 600


def test_steps_of_which_the_server_tells_nothing_end_inside_a_character(phone):
    engine = Engine(phone[0] / "model-f16.gguf", phone[0] / "mmproj-f16.gguf")
    words = [make_tokenizer(CONTROL[:6]).encode(one) for one in "鱼a"]
    assert len(words[0]) == 3  # a byte each
    reply = engine.ask("?", None, 8, 'root ::= "鱼a"')
    assert reply.ids[:4] == [*words[0], *words[1]] and [bool(one) for one in reply.logprobs[:4]] == [False, False, True, True]
    assert reply.logprobs[:2] == [None, None]
    first, letter = make_tokenizer(CONTROL[:6]).encode("😀")[0], words[1][0]
    assert [engine._inside_a_character([first, *[letter] * more], "?") for more in range(4)] == [True, True, True, False]
    assert engine._inside_a_character(reply.ids[:2], "?") and not engine._inside_a_character(reply.ids[:3], "?")


@pytest.mark.parametrize("ids, told, inside, expected", [
    ([5, 6], [5, 6], [], "56"),
    ([5, 7, 7, 6], [7, 6], [1, 2], "..76"),  # three bytes of a character, the last two alike
    ([7, 5, 7], [7], [2, 3], "7.."),  # an answer that was cut inside a character
    ([7, 7, 6], [7, 7, 6], [1, 2, 3], "776"),  # told all the same
    ([5, 6, 5], [5, 5], [], "5 5"),
    ([5, 6], [], [], "  "),
])
def test_what_the_server_tells_is_given_to_its_step(ids, told, inside, expected):
    rows = [{"id": one, "top_logprobs": [{"id": one, "logprob": -0.5}]} for one in told]
    found = _by_step(ids, rows, lambda some: len(some) in inside)
    assert found == [None if one == "." else {} if one == " " else {int(one): -0.5} for one in expected]


def test_calls_under_the_grammar_are_calls(phone):
    calls = phone[1]["quantizations"]["f16"]["calls"]
    assert calls["asked"] == 4 and calls["valid"] == 4 and calls["wrong"] == 0


def test_the_text_file_is_what_llama_cpp_reads_for_qwen2(phone):
    settings, tensors = fields(phone[0] / "model-f16.gguf")
    tokens, types = settings["tokenizer.ggml.tokens"], settings["tokenizer.ggml.token_type"]
    assert settings["general.architecture"] == "qwen2" and "output.weight" not in tensors
    assert {"<|image_start|>", "<|image_end|>"} <= set(tokens) and "<|vision_start|>" not in tokens
    assert types[tokens.index("<nexa_0>")] == types[tokens.index("<nexa_end>")] == gguf.TokenType.CONTROL
    assert len(tokens) == len(types) == 448 and types[-1] == gguf.TokenType.UNUSED
    assert settings["tokenizer.ggml.add_bos_token"] is False


def test_parts_and_bytes_are_told(phone):
    out, result = phone
    assert set(result["parts"]["model-f16.gguf"]) == {"embeddings", "blocks"} and set(result["parts"]["mmproj-q8_0.gguf"]) == {"tower", "projector"}
    for name, parts in result["parts"].items():
        assert 0 < result["bytes"][name] - sum(parts.values()) < 30_000  # keys, vocabulary and padding
    assert result["bytes"]["mmproj-q8_0.gguf"] < result["bytes"]["mmproj-f16.gguf"] and result["writing_peak_bytes"] > 0


def test_a_block_model_answers_the_same(tmp_path, questions, in_process, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # leads nowhere, and not to the engine
    folder = save_checkpoint(tmp_path / "final", projector_layout="block", text_config={**TEXT, "tie_word_embeddings": False})
    result = export.export_gguf(folder, tmp_path / "out", ["f16"], questions, count=3, new_tokens=4)
    assert result["quantizations"]["f16"]["embedding_diff"] < 5e-3
    assert "output.weight" in fields(tmp_path / "out" / "model-f16.gguf")[1] and json.loads((tmp_path / "out/export.json").read_text())["picture"]["raster"] is False


def refused(out, error, message, *args, **kwargs):
    with pytest.raises(error, match=message):
        export.export_gguf(*args, out_dir=out, **{"quantizations": ["f16"], "count": 2, "new_tokens": 2, **kwargs})
    assert not out.exists() and list(out.parent.glob(".*")) == []


def test_a_raster_model_written_as_blocks_does_not_pass(raster, questions, tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(export, "write_picture", partial(write_picture, raster=False))
    refused(tmp_path / "out", DataError, "image embeddings differ", raster, questions=questions)


@pytest.mark.parametrize("overrides, message", [
    ({"projector_layout": "pool"}, "projector_layout is 'pool'"),
    ({"projector_group": 81}, "projector_group is 81"),
    ({"vision_config": {**VISION, "hidden_act": "quick_gelu"}}, "quick_gelu"),
    ({"vision_config": {**VISION, "image_size": 54, "patch_size": 6}}, "9 tokens"),
    ({"text_config": {**TEXT, "model_type": "llama"}}, "'llama'"),
])
def test_what_llama_cpp_cannot_express_is_refused_by_name(tmp_path, overrides, message):
    refused(tmp_path / "out", ConfigError, message, save_checkpoint(tmp_path / "final", **overrides))


def test_another_chat_template_is_refused(raster, tmp_path):
    """It differs behind the first answer only, where the reference asks nothing."""
    folder = shutil.copytree(raster, tmp_path / "final")
    file = folder / "chat_template.jinja"
    own = file.read_text(encoding="utf-8")
    file.write_text(own.replace("{%- for message in messages", "{%- if messages|length > 2 -%}Be brief. {% endif -%}{%- for message in messages", 1))
    assert file.read_text() != own
    refused(tmp_path / "out", ConfigError, "a chat template of its own.*omnivision export onnx", folder)


def test_questions_with_control_tokens_are_refused_by_name(raster, tmp_path, in_process):
    (asked := tmp_path / "ask.jsonl").write_text(json.dumps({"text": "How <|image_pad|> many?"}))
    message = r"'How <\|image_pad\|> many\?' holds the control token <\|image_pad\|>.*ask.jsonl.*Leave the question out"
    refused(tmp_path / "out", DataError, message, raster, questions=asked)
    asked.write_text(json.dumps({"text": "Is <|vision_start|> red?"}))  # has another name in the file, and is letters there too
    assert export.export_gguf(raster, tmp_path / "out", ["f16"], asked, count=1, new_tokens=2)["quantizations"]["f16"]["prompts_equal"] == 2


def without(file):
    return lambda folder: (folder / file).unlink()


def cut(folder):
    body = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(body[: len(body) // 2])


def broken_config(folder):
    (folder / "config.json").write_text("{")


BIAS = "model.projector.linear_1.bias"


@pytest.mark.parametrize("damage, error, message", [
    (without("config.json"), ConfigError, "no checkpoint"),
    (broken_config, DataError, "config.json"),
    (without("model.safetensors"), ConfigError, "model.safetensors"),
    (without("tokenizer.json"), (ConfigError, DataError), "tokenizer|processor"),
    (cut, DataError, "cannot be read"),
    (export_parts.stored(lambda tensors: tensors.pop(BIAS)), DataError, f"1 tensors are missing.*{BIAS}"),
    (export_parts.stored(lambda tensors: tensors.update({BIAS: torch.zeros(3)})), DataError, rf"{BIAS} has shape \(3,\)"),
    (export_parts.stored(lambda tensors: tensors[BIAS].fill_(float("nan"))), DataError, "mm.1.bias.*not finite"),
    (export_parts.stored(lambda tensors: tensors["model.projector.linear_1.weight"].fill_(1e5)), DataError, "beyond FP16"),
])
def test_broken_checkpoints_are_refused(raster, tmp_path, damage, error, message):
    copy = tmp_path / "final"
    shutil.copytree(raster, copy)
    damage(copy)
    refused(tmp_path / "out", error, message, copy)


def test_a_full_disk_leaves_nothing(raster, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    refused(tmp_path / "out", ResumableError, "disk is full", raster)


def test_one_token_is_no_answer(raster, tmp_path):
    refused(tmp_path / "out", ConfigError, "1 tokens prove nothing", raster, new_tokens=1)


def test_a_changed_file_does_not_verify(phone, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(phone[0], copy)
    body = bytearray((copy / "mmproj-f16.gguf").read_bytes())
    body[-40] ^= 1
    (copy / "mmproj-f16.gguf").write_bytes(body)
    with pytest.raises(DataError, match="mmproj-f16.gguf has changed"):
        verify.verify_folder(copy)


def test_the_picture_file_can_be_smaller(raster, tmp_path, questions, in_process):
    result = export.export_gguf(raster, tmp_path / "out", ["f16", "q4_k_m"], questions, count=3, new_tokens=3, picture_type="q5_0")
    assert set(result["parts"]) == {"model-f16.gguf", "model-q4_k_m.gguf", "mmproj-f16.gguf", "mmproj-q5_0.gguf"}
    tensors = fields(tmp_path / "out" / "mmproj-q5_0.gguf")[1]
    assert {tensors[name].tensor_type.name for name in ("mm.1.weight", "v.blk.0.ffn_down.weight", "v.blk.1.attn_q.weight")} == {"Q5_0"}
    assert 0.01 < result["quantizations"]["q4_k_m"]["embedding_relative"] < 0.2


def test_layers_can_stay_in_fp32(raster, tmp_path, questions, in_process):
    export.export_gguf(raster, tmp_path / "out", ["f16"], questions, count=1, new_tokens=1 + 1, keep=("model.projector.linear_1",))
    tensors = fields(tmp_path / "out" / "mmproj-f16.gguf")[1]
    assert [tensors[f"mm.{one}.weight"].tensor_type.name for one in (1, 2)] == ["F32", "F16"]
    for layer in ("nothing", "lm_head"):  # the head is the embeddings
        refused(tmp_path / "other", ConfigError, f"no layer '{layer}' with weights of its own", raster, keep=(layer,))


def test_only_one_tensor_stands_in_memory(raster, tmp_path, monkeypatch):
    alive, most, load = [], 0, StoredTensors.load

    def counted(self, name):
        nonlocal most
        alive[:] = [one for one in alive if one() is not None]
        most = max(most, len(alive))
        values = load(self, name)
        alive.append(weakref.ref(values))
        return values

    def stop(*args):
        raise KeyboardInterrupt  # the files are written

    monkeypatch.setattr(StoredTensors, "load", counted)
    monkeypatch.setattr(Checkpoint, "running_model", stop)
    refused(tmp_path / "out", KeyboardInterrupt, None, raster)
    assert len(alive) and most == 0  # when one is read, no other is held


def test_moved_patches_make_blocks_of_rows():
    order = torch.from_numpy(raster_order(27))
    blocks = membership("block", 9, 27)  # the places that llama.cpp joins
    assert torch.equal(order[blocks], membership("raster", 9, 27))
    assert sorted(order.tolist()) == list(range(729))


def test_a_picture_is_prepared_without_loss():
    picture = make_image(3, (378, 378))
    moved = np.asarray(moved_patches(picture, 14)).reshape(27, 14, 27, 14, 3).transpose(0, 2, 1, 3, 4).reshape(729, -1)
    true = np.asarray(picture).reshape(27, 14, 27, 14, 3).transpose(0, 2, 1, 3, 4).reshape(729, -1)
    assert np.array_equal(moved, true[raster_order(27)]) and not np.array_equal(moved, true)
    squashed = prepared(make_image(4, (500, 300)), 384, 14, raster=False)
    assert squashed.size == (378, 378)
    processor = siglip_image_processor(384)
    pixels = processor(make_image(4, (500, 300)), return_tensors="np")["pixel_values"][0][:, :378, :378]
    assert np.abs(np.asarray(squashed).transpose(2, 0, 1) / 127.5 - 1 - pixels).max() < 1e-6
    with pytest.raises(ValueError, match="no 3 x 3 blocks"):
        moved_patches(make_image(3, (56, 56)), 14)


def test_the_client_is_a_command(tmp_path):
    make_image(5).save(tmp_path / "in.png")
    assert prepare([str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--size", "216", "--patch", "8", "--raster"]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(prepared(make_image(5), 216, 8, True)))


def test_the_client_says_what_is_wrong_in_one_line(tmp_path):
    make_image(5).save(tmp_path / "in.png")
    shutil.copy(tiles.__file__, tmp_path / "client.py")
    for picture, patch, message in (("none.png", 8, "client.py: .*none.png"), ("in.png", 16, "client.py: .*no 3 x 3 blocks of patches of 16 px"),
                                    ("in.png", 0, "--patch is 0"), ("in.png", 300, "--patch is 300")):
        done = subprocess.run([sys.executable, "-P", str(tmp_path / "client.py"), str(tmp_path / picture), str(tmp_path / "out.png"), "--size", "224",
                               "--patch", str(patch), "--raster"], capture_output=True, text=True)
        assert done.returncode and re.search(message, done.stderr) and "Traceback" not in done.stderr and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("name, shape, quantization, expected", [
    ("token_embd.weight", (151936, 896), "q4_k_m", "Q8_0"),  # 896 is no multiple of 256
    ("blk.0.ffn_down.weight", (896, 4864), "q4_k_m", "Q6_K"),
    ("blk.3.ffn_down.weight", (896, 4864), "q4_k_m", "Q4_K"),
    ("blk.5.ffn_down.weight", (896, 4864), "q4_k_m", "Q6_K"),
    ("blk.3.attn_q.weight", (896, 896), "q4_k_m", "Q5_0"),
    ("v.blk.0.ffn_down.weight", (1152, 4320), "q5_0", "Q5_0"),
    ("mm.1.weight", (4096, 10368), "q4_0", "Q4_0"),
    ("v.blk.0.ffn_down.weight", (1152, 4304), "q8_0", "F16"),
    ("v.position_embd.weight", (729, 1152), "q8_0", "F32"),
    ("blk.0.attn_q.bias", (896,), "f16", "F32"),
])
def test_types_are_llama_cpps_own_choice(name, shape, quantization, expected):
    assert gguf.GGMLQuantizationType(type_of(name, shape, quantization, 24)).name == expected


def test_a_table_that_is_no_head_is_stored_as_any_other():
    shape = (151936, 1024)
    assert [gguf.GGMLQuantizationType(type_of(name, shape, "q4_k_m", 24, tied=tied)).name for name, tied in
            (("token_embd.weight", True), ("token_embd.weight", False), ("output.weight", False))] == ["Q6_K", "Q4_K", "Q6_K"]


@pytest.mark.parametrize("low, high", [(0, 9), (3, 250), (-17, 1003), (-5, -2), (99, 101), (5, 5)])
def test_whole_numbers_of_the_grammar(low, high):
    pattern = re.compile(re.sub(r'"([^"]*)"', r"\1", whole_numbers(Decimal(low), Decimal(high))).replace(" ", ""))
    assert [one for one in range(-1100, 1100) if pattern.fullmatch(str(one))] == list(range(low, high + 1))
    assert not pattern.fullmatch("007") and whole_numbers(Decimal(2), Decimal(1)) is None


def test_the_grammar_names_what_it_cannot_say():
    tokenizer = make_tokenizer(CONTROL[:6])
    functions = FunctionSet((Function("f", "F.", {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}, "b": {"type": "number", "minimum": 1}},
                                                  "required": ["a"]}),))
    install_tokens(make_model(), tokenizer, functions)
    found = gbnf(functions, functional_tokens(tokenizer, functions))
    assert {"pattern", "minimum"} <= set(found.left_out["f"]) and found.never == ()
    assert f"<[{tokenizer.convert_tokens_to_ids('<nexa_0>')}]> f0" in found.text


def test_other_tokenizers_are_refused():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_start|>"]}, replace_extra_special_tokens=False)
    with pytest.raises(ConfigError, match="2 times"):
        vocabulary(tokenizer, 448)


def step(token, *logprobs):
    return {"id": token, "top_ids": list(range(token, token + len(logprobs))), "top_logprobs": list(logprobs)}


def test_answers_are_compared_by_hand():
    row, asked = {"input_ids": [1, 2], "steps": [step(5, -0.1, -3.0), step(7, -0.5, -0.55)]}, Question("?", None)
    found = Agreement()
    reply = partial(Reply, text="", around=([1], [2]))
    compare(reply(2, [5, 7], [{5: -0.12, 6: -3.0}, {7: -0.5, 8: -0.55}]), row, LIMITS["f16"], found, asked)
    compare(reply(3, [5, 8], [{5: -0.1, 6: -3.0}, {7: -0.5, 8: -0.55}]), row, LIMITS["f16"], found, asked)  # a tie
    compare(reply(2, [6], [{5: -0.1, 6: -3.0}]), row, LIMITS["f16"], found, asked)
    assert (found.questions, found.prompts_equal, found.answers_equal, found.ties, found.apart) == (3, 2, 1, 1, 1)
    assert found.logprob_diff == pytest.approx(0.02) and "token 0: [6] in place of 5" in found.first_apart
    loose = Agreement()
    compare(reply(2, [6], [{5: -0.1, 6: -3.0}]), row, LIMITS["q4_k_m"], loose, asked)  # 2.9 apart: no tie, and allowed
    assert (loose.ties, loose.apart, loose.first_apart) == (0, 1, "")
    silent = Agreement()
    compare(reply(2, [5, 7], [None, {7: -0.5, 8: -0.55}]), row, LIMITS["f16"], silent, asked)  # ends inside a character
    assert (silent.answers_equal, silent.logprob_diff) == (1, 0)
    for told in ([{}, {7: -0.5, 8: -0.55}], [{5: -0.1, 6: -3.0}]):
        silent = Agreement()
        compare(reply(2, [5, 7], told), row, LIMITS["q4_k_m"], silent, asked)
        assert (silent.answers_equal, silent.logprob_diff) == (1, float("inf"))
    compare(reply(2, [5], [{5: float("nan"), 6: -3.0}]), row, LIMITS["f16"], found, asked)
    assert found.logprob_diff != found.logprob_diff
    other = Agreement()
    for around in (([3], [2]), ([1], [3]), ([1, 3], [])):  # as many tokens, and others
        compare(reply(2, [5, 7], [], around=around), row, LIMITS["q4_k_m"], other, asked)
    assert (other.prompts_equal, other.answers_equal, other.first_apart) == (0, 3, "")
    compare(reply(2, [5, 7, 8], []), row, LIMITS["q4_k_m"], other, asked)
    assert (other.prompts_equal, other.answers_equal, other.apart) == (1, 3, 1) and "goes on behind its end" in other.first_apart


# -- report


def test_a_report_measures_every_type_in_a_process_of_its_own(phone, capsys):
    out, _ = phone
    assert main(["report", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "gguf" and list(found["types"]) == ["f16", "q8_0", "q4_k_m"]
    for name, one in found["types"].items():
        assert one["disk_bytes"] == sum(one["files"].values()) == sum((out / file).stat().st_size for file in one["files"])
        assert f"model-{name}.gguf" in one["files"] and len(one["files"]) == 2
        assert one["seconds_to_first_token"] > 0 and one["tokens_per_second"] > 0
        assert 20e6 < one["peak_bytes"] < 250e6  # this process has torch, and holds more than that


def test_a_report_says_what_it_cannot_measure(phone, tmp_path):
    with pytest.raises(ConfigError, match="no export"):
        report(tmp_path)
    shutil.copy(phone[0] / "reference.jsonl", tmp_path)
    shutil.copytree(phone[0] / "reference", tmp_path / "reference")
    manifest = {"sha256": hashes_of(tmp_path), "format": "fp16 safetensors"}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="no engine of its own"):
        report(tmp_path)
    files = {"f16": ["model-f16.gguf", "mmproj-f16.gguf"]}
    (tmp_path / "export.json").write_text(json.dumps({**manifest, "format": "gguf", "files": files, "parts": {}, "picture": read_manifest(phone[0])["picture"]}))
    for name in files["f16"]:
        (tmp_path / name).write_bytes(b"no GGUF")
    with pytest.raises(DataError, match="model-f16.gguf is no part of the export|mmproj-f16.gguf is no part of the export"):
        report(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({**read_manifest(tmp_path), "sha256": hashes_of(tmp_path)}))
    with pytest.raises(DataError, match="The engine did not answer"):
        report(tmp_path)
