"""A pair of GGUF files, named and shaped as the released OmniVLM's, becomes a checkpoint with the same numbers."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from model_parts import CONTROL, SHAPE, make_image, make_model, make_tokenizer
from omnivision_train.config import FOLLOWS
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoProcessor

from omnivision import OmniVisionConfig
from omnivision.constants import IMAGE_TOKEN
from omnivision.errors import ConfigError, DataError
from omnivision.export.gguf.importing import import_pair
from omnivision.export.gguf.vocabulary import vocabulary
from omnivision.export.main import main
from omnivision.model.layouts import membership
from omnivision.runs import read_hand_over

TYPES = gguf.GGMLQuantizationType
TEXT = {"model_type": "qwen2", "vocab_size": 448, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "initializer_range": 0.1}
# written out here, not taken from the importer: what the released files call things
TEXT_BLOCK = {"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
              "attn_output.weight": "self_attn.o_proj.weight", "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight",
              "ffn_down.weight": "mlp.down_proj.weight",
              **{f"attn_{one}.{kind}": f"self_attn.{one}_proj.{kind}" for one in "qkv" for kind in ("weight", "bias")}}
PICTURE_BLOCK = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_out": "self_attn.out_proj",
                 "ln1": "layer_norm1", "ln2": "layer_norm2", "ffn_down": "mlp.fc1", "ffn_up": "mlp.fc2"}


@pytest.fixture(scope="module")
def model():
    vision = {**SHAPE, "vision_use_head": False}
    made = make_model(vision_config=vision, text_config=TEXT, image_token_id=make_tokenizer(CONTROL[:6]).convert_tokens_to_ids(IMAGE_TOKEN))
    with torch.no_grad():
        for values in made.parameters():
            values.copy_(values.half())  # what an F16 file can hold
    return made


def write(writer, tensors, quantized=False):
    for name, values in tensors.items():
        kind = TYPES.F32 if values.ndim == 1 else TYPES.Q8_0 if quantized and values.shape[-1] % 32 == 0 else TYPES.F16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text_file(folder, model, quantized=False, leave_out=(), more=(), settings=None, width=64, blocks=2, heads=4, **said):
    """`said` is of the vocabulary."""
    state = {name: values.detach().numpy() for name, values in model.state_dict().items()}
    inner = "model.language_model."
    tensors = {"token_embd.weight": state[f"{inner}embed_tokens.weight"], "output_norm.weight": state[f"{inner}norm.weight"]}
    for block in range(2):
        tensors.update({f"blk.{block}.{ours}": state[f"{inner}layers.{block}.{theirs}"] for ours, theirs in TEXT_BLOCK.items()})
    writer = gguf.GGUFWriter(folder / "text.gguf", "qwen2")
    writer.add_name("Nano-Llm-494M")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(96)
    writer.add_block_count(blocks)
    writer.add_head_count(heads)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    for key, value in (settings or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"qwen2.rope.{key}", value)
    tokenizer = make_tokenizer(CONTROL[:6])
    tokenizer.add_tokens(list(more))
    words = replace(vocabulary(tokenizer, 448), **{"pre": "qwen2", **said})
    words.describe(writer)
    write(writer, {name: values for name, values in tensors.items() if name not in leave_out}, quantized)
    return folder / "text.gguf"


def picture_file(folder, model, more=None, arch="siglip", settings=None):
    state = {name: values.detach().numpy() for name, values in model.state_dict().items()}
    tower = "model.vision_tower."
    tensors = {"v.patch_embd.weight": state[f"{tower}embeddings.patch_embedding.weight"], "v.patch_embd.bias": state[f"{tower}embeddings.patch_embedding.bias"],
               "v.position_embd.weight": state[f"{tower}embeddings.position_embedding.weight"], "v.post_ln.weight": state[f"{tower}post_layernorm.weight"],
               "v.post_ln.bias": state[f"{tower}post_layernorm.bias"]}
    for block in range(3):
        for ours, theirs in PICTURE_BLOCK.items():
            tensors.update({f"v.blk.{block}.{ours}.{kind}": state[f"{tower}encoder.layers.{block}.{theirs}.{kind}"] for kind in ("weight", "bias")})
    for number, layer in ((0, "linear_1"), (2, "linear_2")):
        tensors.update({f"mm.{number}.{kind}": state[f"model.projector.{layer}.{kind}"] for kind in ("weight", "bias")})
    tensors.update({"v.head.probe": np.zeros((1, 32), np.float32), **(more or {})})
    writer = gguf.GGUFWriter(folder / "mmproj.gguf", arch)
    for key, value in {"image_size": 54, "patch_size": 6, "block_count": 3, "attention.head_count": 4, "projection_dim": 64, **(settings or {})}.items():
        writer.add_uint32(f"siglip.vision.{key}", value)
    writer.add_float32("siglip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("siglip.vision.image_mean", [0.5] * 3)
    writer.add_array("siglip.vision.image_std", [0.5] * 3)
    write(writer, tensors)
    return folder / "mmproj.gguf"


def test_an_f16_pair_becomes_the_same_model(model, tmp_path):
    result = import_pair(text_file(tmp_path, model), picture_file(tmp_path, model), tmp_path / "out")
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    state = model.state_dict()
    assert {name: True for name in state} == {name: torch.equal(values, state[name]) for name, values in found.state_dict().items()}
    assert result["left_out"] == ["v.head.probe"] and result["parameters"] == sum(one.numel() for one in found.parameters())
    config: OmniVisionConfig = found.config
    assert (config.projector_layout, config.projector_group, config.projector_gelu) == ("raster", 9, "erf")
    assert config.text_config.rope_parameters["rope_theta"] == 1e6 and config.text_config.rms_norm_eps == 1e-6


def test_stages_may_start_from_the_imported_model(model, tmp_path):
    import_pair(text_file(tmp_path, model), picture_file(tmp_path, model), tmp_path / "out")
    for stage in ("sft", "dpo", "functions"):
        assert read_hand_over(tmp_path / "out", FOLLOWS[stage], stage)["stage"] == "imported"


def test_the_imported_model_answers(model, tmp_path):
    import_pair(text_file(tmp_path, model), picture_file(tmp_path, model), tmp_path / "out")
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": make_image(1)}, {"type": "text", "text": "Is there a cat?"}]}],
                                           tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    assert int((inputs["input_ids"] == found.config.image_token_id).sum()) == len(membership("raster", 9, 9))
    with torch.no_grad():
        assert torch.equal(found(**inputs).logits, model(**inputs).logits)
    words = make_tokenizer(CONTROL[:6])
    for token in CONTROL[:6]:
        assert processor.tokenizer.convert_tokens_to_ids(token) == words.convert_tokens_to_ids(token)
    assert processor.tokenizer.decode(processor.tokenizer.encode("a cat 图 12")) == "a cat 图 12"
    assert set(found.generation_config.eos_token_id) == set(words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def test_only_control_tokens_are_special(model, tmp_path):
    more = [AddedToken("<tool_call>", normalized=False), AddedToken("<late>", special=True), AddedToken("</tool_call>", normalized=False)]
    import_pair(text_file(tmp_path, model, more=more), picture_file(tmp_path, model), tmp_path / "out")
    words, own = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer, make_tokenizer(CONTROL[:6])
    own.add_tokens(more)
    text = "<tool_call>red cat</tool_call><late>"
    ids = words.encode(text)
    assert ids == own.encode(text) and words.decode(ids, skip_special_tokens=True) == "<tool_call>red cat</tool_call>"
    assert {str(token) for token in words.added_tokens_decoder.values() if not token.special} == {"<tool_call>", "</tool_call>"}


def test_positions_that_are_turned_as_qwen2s_pass(model, tmp_path):
    text = text_file(tmp_path, model, settings={"scaling.type": "none", "dimension_count": 16})
    assert import_pair(text, picture_file(tmp_path, model), tmp_path / "out")["parameters"]


@pytest.mark.parametrize("settings, message", [({"scaling.type": "linear", "scaling.factor": 4.0}, "scaling.type is linear, qwen2.rope.scaling.factor is 4.0"),
                                               ({"dimension_count": 8}, "dimension_count is 8"), ({"scale_linear": 4.0}, "scale_linear is 4.0")])
def test_positions_that_are_turned_otherwise_are_refused(model, tmp_path, settings, message):
    refused(tmp_path / "out", DataError, message, text_file(tmp_path, model, settings=settings), picture_file(tmp_path, model))


def test_q8_0_is_unpacked(model, tmp_path):
    import_pair(text_file(tmp_path, model, quantized=True), picture_file(tmp_path, model), tmp_path / "out")
    name = "model.language_model.layers.1.mlp.gate_proj.weight"
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()[name]
    expected = gguf.quants.dequantize(gguf.quants.quantize(model.state_dict()[name].numpy(), TYPES.Q8_0), TYPES.Q8_0)
    assert np.array_equal(found.numpy(), expected) and not torch.equal(found, model.state_dict()[name])


def refused(out, error, message, *files):
    with pytest.raises(error, match=message):
        import_pair(*files, out)
    assert not out.exists() and list(out.parent.glob(".*")) == []


def test_what_is_no_such_pair_is_refused(model, tmp_path):
    text, picture = text_file(tmp_path, model), picture_file(tmp_path, model)
    out = tmp_path / "out"
    refused(out, ConfigError, "no such file", tmp_path / "none.gguf", picture)
    refused(out, ConfigError, "it is a folder", tmp_path, picture)
    refused(out, ConfigError, "architecture is 'siglip', not 'qwen2'", picture, text)
    body = text.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(body[: len(body) // 2])
    refused(out, DataError, "no whole GGUF file", tmp_path / "cut.gguf", picture)
    (tmp_path / "words.gguf").write_text("hello")
    refused(out, DataError, "no whole GGUF file", tmp_path / "words.gguf", picture)
    refused(out, DataError, "v.blk.0.ls1.weight", text, picture_file(tmp_path, model, {"v.blk.0.ls1.weight": np.ones(32, np.float32)}))
    refused(out, DataError, "projector reads 100", text, picture_file(tmp_path, model, {"mm.0.weight": np.zeros((64, 100), np.float32)}))
    refused(out, DataError, "cuts texts as 'gpt-2'", text_file(tmp_path, model, pre="gpt-2"), picture)
    refused(out, DataError, "blk.1.attn_q.weight is missing", text_file(tmp_path, model, leave_out=("blk.1.attn_q.weight",)), picture_file(tmp_path, model))


@pytest.mark.parametrize("damage, message", [
    ({"merges": ["a"]}, "1 merges join no tokens to a token, the first is 'a'"),
    ({"merges": ["a zzz"]}, "the first is 'a zzz'"),
    ({"merges": ["a a", "猫 a"]}, "2 merges join no tokens"),  # "aa" is no token
    ({"heads": 0}, "make no model"),
    ({"heads": 5}, "make no model|dimension|has shape"),
    ({"width": 2**31 + 4}, "make no model|has shape"),
    ({"blocks": 2**31}, "block_count is 2147483648, and the file holds 26 tensors"),
    ({"blocks": 0}, "block_count is 0"),
])
def test_numbers_of_no_model_in_the_text_file_are_refused(model, tmp_path, damage, message):
    refused(tmp_path / "out", DataError, message, text_file(tmp_path, model, **damage), picture_file(tmp_path, model))


@pytest.mark.parametrize("settings, message", [
    ({"attention.head_count": 0}, "make no model: integer division"),
    ({"attention.head_count": 5}, "make no model: .*divisible"),
    ({"block_count": 2**31}, "block_count is 2147483648"),
    ({"image_size": 0}, "position_embedding.weight has shape"),
    ({"image_size": 2**31}, "make no model|has shape"),
])
def test_numbers_of_no_model_in_the_picture_file_are_refused(model, tmp_path, settings, message):
    refused(tmp_path / "out", DataError, message, text_file(tmp_path, model), picture_file(tmp_path, model, settings=settings))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.language_model.layers.1.mlp.up_proj.weight", "model.projector.linear_2.bias"])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, name, value):
    broken = deepcopy(model)
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[3] = value
    refused(tmp_path / "out", DataError, f"{name} holds numbers that are not finite", text_file(tmp_path, broken), picture_file(tmp_path, broken))


def test_import_is_a_command(model, tmp_path, capsys):
    files = ["--text", str(text_file(tmp_path, model)), "--mmproj", str(picture_file(tmp_path, model)), "--out", str(tmp_path / "out")]
    assert main(["import", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == ["v.head.probe"]
