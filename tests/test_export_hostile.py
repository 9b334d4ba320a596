"""What a user or a bad disk can hand to an export: one clear error, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys

import export_parts
import pytest
import torch
from model_parts import CONTROL, make_model, make_tokenizer
from safetensors.torch import load_file, save_file

from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.export.checkpoint import open_checkpoint
from omnivision.export.folder import hashes_of
from omnivision.export.fp16 import export_fp16
from omnivision.export.gguf.export import export_gguf
from omnivision.export.onnx_files import writing
from omnivision.export.onnx_files.target import export_onnx
from omnivision.export.report import report
from omnivision.export.verify import verify_folder
from omnivision.functions import Function, FunctionSet

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 54, "patch_size": 2,
          "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # what every target can express
BIAS = "model.projector.linear_1.bias"
HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    functions = FunctionSet((Function("order", "Order a cat."),))
    text = {**make_model().config.text_config.to_dict(), "hidden_size": 64, "intermediate_size": 96}
    return export_parts.save_checkpoint(tmp_path_factory.mktemp("run") / "final", functions, CONTROL[:6], vision_config=VISION, text_config=text,
                                        projector_gelu="tanh")


@pytest.fixture
def checkpoint(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "final")


def edited(name, change):
    """Changes a JSON file."""
    def edit(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content) or content))
    return edit


def in_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + (number % 2)}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in tensors if names[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def without_a_shard(folder):
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_a_cut_shard(folder):
    in_shards(folder)
    os.truncate(folder / "model-00002-of-00002.safetensors", 900)


def with_an_index_of(content):
    def edit(folder):
        in_shards(folder)
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return edit


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def other_tokenizer(folder):
    words = make_tokenizer(CONTROL[:6])
    words.add_tokens([f"word{number}" for number in range(300)])
    words.save_pretrained(folder)


@pytest.mark.parametrize("damage, message", [
    (without_a_shard, "1 of 2 weight files are missing"),
    (with_a_cut_shard, "weights cannot be read"),
    (lambda folder: os.truncate(folder / "model.safetensors", 5), "weights cannot be read"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "weights cannot be read"),
    (export_parts.stored(lambda tensors: tensors.update({BIAS: tensors[BIAS].long()})), f"{BIAS} is stored as I64"),
    (export_parts.stored(lambda tensors: tensors.update({BIAS: tensors[BIAS].to(torch.float8_e4m3fn)})), f"{BIAS} is stored as F8_E4M3"),
    (export_parts.stored(lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS] + 1})), f"the weights hold another {HEAD}"),
    (export_parts.stored(lambda tensors: tensors.update({f"{BIAS}.lora_A": torch.zeros(3)})), f"1 tensors have no place .* the first is {BIAS}.lora_A"),
    (edited("config.json", lambda config: [config]), "config.json"),
    (edited("config.json", lambda config: config.pop("model_type") and None), "config.json"),
    (edited("config.json", lambda config: config.pop("text_config") and None), "tensors are missing"),
    (edited("config.json", lambda config: config["text_config"].pop("hidden_size") and None), "config.json"),
    (edited("config.json", lambda config: config["text_config"].update(hidden_size="many")), "config.json"),
    (edited("config.json", lambda config: config["text_config"].update(hidden_size=-64)), "config.json"),
    (edited("config.json", lambda config: config["text_config"].update(num_attention_heads=0)), "config.json"),
    (edited("config.json", lambda config: config["vision_config"].update(patch_size=0)), "config.json"),
    (edited("config.json", lambda config: config.update(projector_layout="swirl")), "config.json"),
    (edited("tokenizer.json", lambda words: words.pop("model") and None), "processor cannot be loaded"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "processor cannot be loaded"),
    (lambda folder: (folder / "processor_config.json").unlink(), "processor"),
    (edited("processor_config.json", lambda said: said.update(image_seq_length=9)), "image tokens: 9 in the processor's files, 81"),
    (edited("config.json", lambda config: config.update(image_token_id=3)), "id of the image token"),
    (edited("generation_config.json", lambda said: [said]), "generation_config.json"),
    (other_tokenizer, "ids of the tokenizer: "),
    (with_an_index_of({"weight_map": {"a": 5}}), "index.json is broken"),
    (with_an_index_of({"weight_map": {"a": "x", "b": ["x"]}}), "index.json is broken"),
    (edited("config.json", lambda config: config.update(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})), "weights are quantised"),
    (edited("generation_config.json", lambda said: said.update(eos_token_id="abc")), "eos_token_id is 'abc'.*generation_config.json"),
    (edited("generation_config.json", lambda said: said.update(eos_token_id=[["a"]])), "eos_token_id is .*generation_config.json"),
    (edited("processor_config.json", lambda said: said["image_processor"].update(image_mean=[0.5])), "image_mean is .*processor_config.json"),
    (edited("processor_config.json", lambda said: said["image_processor"].update(image_mean=["a", "b", "c"])), "image_mean is .*processor_config.json"),
    (edited("processor_config.json", lambda said: said["image_processor"].update(image_std=[0.5, 0.5, float("inf")])), "image_std is .*processor_config.json"),
    (template("{% if %}"), "chat template cannot be used: .*chat_template.jinja"),
    (template("{{ messages[0].foo.bar }}"), "chat template cannot be used: .*chat_template.jinja"),
    (template("{{ messages[0].content[0].text }}"), "chat template cannot be used: .*chat_template.jinja"),  # drops the question beside a picture
])
def test_broken_checkpoints_are_named(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        open_checkpoint(checkpoint).hollow_model()
    assert caught.value.remedy


def test_a_checkpoint_in_shards_is_whole(checkpoint, whole):
    in_shards(checkpoint)
    expected = dict(open_checkpoint(whole).tensors())
    assert all(torch.equal(values, expected[name]) for name, values in open_checkpoint(checkpoint).tensors())


def test_one_file_is_taken_before_shards_as_everywhere_else(checkpoint, whole):
    export_parts.stored(lambda tensors: tensors[BIAS].add_(1))(checkpoint)
    in_shards(checkpoint)
    shutil.copy(whole / "model.safetensors", checkpoint)  # saving one file leaves an older index where it is
    assert torch.equal(open_checkpoint(checkpoint).load(BIAS), load_file(whole / "model.safetensors")[BIAS])


def test_a_stored_head_that_is_the_embeddings_is_tied(checkpoint):
    export_parts.stored(lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS].clone()}))(checkpoint)
    assert HEAD not in open_checkpoint(checkpoint).shapes


TARGETS = {"fp16": lambda source, out: export_fp16(source, out, count=1, scan_pictures=0),
           "gguf": lambda source, out: export_gguf(source, out, ["f16"], count=1, new_tokens=2),
           "onnx": lambda source, out: export_onnx(source, out, ["fp32"], count=1, new_tokens=2)}


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_that_are_not_finite_are_refused(checkpoint, tmp_path, monkeypatch, target):
    monkeypatch.setattr(writing, "graphs", lambda checkpoint: [])  # tracing takes seconds and sees no numbers
    export_parts.stored(lambda tensors: tensors["model.projector.linear_2.weight"].fill_(float("nan")))(checkpoint)
    with pytest.raises(DataError, match="not finite"):
        TARGETS[target](checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_of_embeddings_that_no_question_reads_must_be_finite_too(checkpoint, tmp_path, target):
    def one_nan(tensors):
        tensors[EMBEDDINGS][200, 3] = float("nan")

    export_parts.stored(one_nan)(checkpoint)
    edited("config.json", lambda config: config["text_config"].update(tie_word_embeddings=False))(checkpoint)
    export_parts.stored(lambda tensors: tensors.update({HEAD: torch.zeros_like(tensors[EMBEDDINGS])}))(checkpoint)
    with pytest.raises(DataError, match="not finite.*before it diverged") as caught:
        TARGETS[target](checkpoint, tmp_path / "out")
    assert "--keep-fp32" not in caught.value.remedy


@pytest.mark.parametrize("target", TARGETS)
def test_an_export_neither_changes_its_checkpoint_nor_follows_a_link(checkpoint, tmp_path, target):
    before = sorted(checkpoint.iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, message in ((checkpoint / "phone", "lies in .*final, which it would change"), (tmp_path / "link", "exists already")):
        with pytest.raises(ConfigError, match=message):
            TARGETS[target](checkpoint, out)
    assert sorted(checkpoint.iterdir()) == before and sorted(path.name for path in tmp_path.iterdir()) == ["final", "link"]


@pytest.mark.parametrize("target", TARGETS)
def test_files_that_may_not_grow_leave_nothing(whole, tmp_path, monkeypatch, target):
    """A limit on the size of files fails in the middle of a write, as a full disk does."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave what it compiles of a package cut short, for all processes after it
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(ResumableError, match="disk is full"):
            TARGETS[target](whole, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manifest", [{"format": "gguf"}, {"format": "onnx"}, {"format": ["gguf"]}, {"format": "gguf", "files": {"f99": ["a"]}, "picture": {}, "parts": {}}, {}])
def test_manifests_that_lack_things_are_refused(tmp_path, manifest):
    (tmp_path / "reference.jsonl").write_text(json.dumps({"text": "a", "input_ids": [1], "top_ids": [1], "top_logprobs": [0.0], "steps": []}) + "\n")
    (tmp_path / "export.json").write_text(json.dumps({**manifest, "sha256": hashes_of(tmp_path)}))
    for read in (verify_folder, report):
        with pytest.raises((ConfigError, DataError)):
            read(tmp_path)


PAIR = {"format": "gguf", "files": {"f16": ["a", "b"]}, "picture": {"image_size": 54, "patch_size": 2, "raster": True}, "parts": {"a": {"blocks": 5}}}


@pytest.mark.parametrize("manifest, message", [
    (PAIR, "no reference answers"),  # the pair itself is whole
    ({"format": "fp16 safetensors", "kept_in_fp32": 5}, "kept_in_fp32 is 5"),
    ({"format": "fp16 safetensors", "kept_in_fp32": None}, "kept_in_fp32 is None"),
    ({"format": "onnx", "not_applied": []}, r"not_applied is \[\]"),
    ({**PAIR, "stop_token_ids": 5}, "stop_token_ids is 5"),
    ({**PAIR, "stop_token_ids": ["a"]}, "stop_token_ids is "),
    ({**PAIR, "picture": {**PAIR["picture"], "image_size": "a"}}, "how pictures are prepared"),
    ({**PAIR, "picture": {**PAIR["picture"], "patch_size": 0}}, "how pictures are prepared"),
    ({**PAIR, "picture": {**PAIR["picture"], "image_size": 56}}, "how pictures are prepared"),  # 28 patches a side are no blocks of 3
    ({**PAIR, "parts": {"a": 5}}, "which files make a pair"),
])
def test_values_of_other_types_in_a_manifest_are_named(tmp_path, manifest, message):
    for name in "ab":
        (tmp_path / name).touch()
    (tmp_path / "export.json").write_text(json.dumps({**manifest, "sha256": hashes_of(tmp_path)}))
    with pytest.raises(DataError, match=message) as caught:
        verify_folder(tmp_path)
    assert caught.value.remedy
