"""Building from folders in the hub's layouts, and what is said when a part is missing."""

from __future__ import annotations

import omnivision  # noqa: F401, I001  first: timm imports torchvision, which may need the remedy
import pytest
import timm
import torch
from export_parts import stored
from model_parts import CONTROL, SHAPE, make_config, make_image, make_tokenizer, save_open_clip
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, OPTConfig, OPTForCausalLM, Qwen2Config, SiglipVisionConfig, SiglipVisionModel

from omnivision.errors import ConfigError, DataError
from omnivision.generation import generate_ids
from omnivision.model.build import build_model, load_tokenizer


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A tower as open_clip stores it and a language model as the hub stores it."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    trunk = timm.models.VisionTransformer(img_size=54, patch_size=6, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2,
                                          class_token=False, global_pool="map", num_classes=0)
    save_open_clip(folder / "vision", SHAPE, trunk.state_dict())
    language = AutoModelForCausalLM.from_config(make_config().text_config)
    language.save_pretrained(folder / "language")
    make_tokenizer().save_pretrained(folder / "language")
    return folder, trunk, language


def test_parts_keep_their_weights_and_the_projector_is_new(sources):
    folder, trunk, language = sources
    model, processor = build_model("tiny", str(folder / "vision"), str(folder / "language"))
    for name, tensor in language.state_dict().items():
        if name.startswith("model."):
            assert torch.equal(model.model.language_model.state_dict()[name.removeprefix("model.")], tensor)
    with torch.no_grad():
        pixels = torch.randn(1, 3, 54, 54)
        torch.testing.assert_close(model.model.get_vision_features(pixels), trunk.eval().forward_features(pixels), atol=1e-5, rtol=1e-5)
        ids = torch.arange(9)[None]
        assert torch.equal(model(input_ids=ids).logits, language.eval()(input_ids=ids).logits)
        tokens = model.get_image_features(torch.randn(1, 3, 54, 54))
    assert 0.3 < tokens.std() / model.get_input_embeddings().weight.std() < 3  # starts at the words' scale
    assert model.config.text_config is model.model.language_model.config and not model.training
    assert model.config.vision_config is model.model.vision_tower.config
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())
    assert (model.config.image_token_id, processor.image_seq_length) == (processor.image_token_id, 9)
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def test_a_built_model_answers_saves_and_loads(sources, tmp_path):
    folder = sources[0]
    model, processor = build_model("tiny", str(folder / "vision"), str(folder / "language"))
    answer = generate_ids(model, processor, ["How many?"], [make_image(1)], 5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert generate_ids(again, processor, ["How many?"], [make_image(1)], 5) == answer


def test_projector_settings_come_from_the_config(sources):
    folder = sources[0]
    config = make_config(projector_layout="pool", projector_group=3, projector_gelu="tanh")
    model, processor = build_model(config, str(folder / "vision"), str(folder / "language"))
    assert (model.config.projector_layout, processor.image_seq_length, model.config.projector_gelu) == ("pool", 27, "tanh")


def test_random_parts_and_a_tokenizer_of_ones_own():
    model, processor = build_model(make_config(), tokenizer=make_tokenizer())
    assert model.model.vision_tower.embeddings.position_ids.tolist() == [list(range(81))]
    assert generate_ids(model, processor, ["two"], [make_image(0)], 3) is not None
    assert build_model(make_config())[1] is None
    with pytest.raises(ConfigError, match="tokens but the config only 100 rows"):
        build_model(make_config(text_config={**make_config().text_config.to_dict(), "vocab_size": 100}), tokenizer=make_tokenizer())


def test_missing_control_tokens_are_added_and_rows_only_grow(tmp_path):
    bare = make_tokenizer(["<|endoftext|>", "<|im_end|>"])
    rows = len(bare)
    shape = Qwen2Config(**{**make_config().text_config.to_dict(), "vocab_size": rows})
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    bare.save_pretrained(tmp_path)
    model, processor = build_model(make_config(), language=str(tmp_path))
    assert processor.image_token_id >= rows and model.config.text_config.vocab_size == len(processor.tokenizer) > rows
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert all(token in processor.tokenizer.get_vocab() for token in CONTROL[:6])


def test_a_table_of_another_width_than_the_layers_is_refused(tmp_path):
    OPTForCausalLM(OPTConfig(vocab_size=64, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="table is 16 wide and its layers 32"):
        build_model("tiny", language=str(tmp_path))


def test_control_tokens_that_are_known_and_not_special_become_special():
    """Or what a user types would be read as them."""
    words = make_tokenizer(["<|endoftext|>"])
    words.add_tokens(["<|im_end|>", "<|image_pad|>"])
    ids = words.convert_tokens_to_ids(["<|im_end|>", "<|image_pad|>"])
    made = load_tokenizer(words)
    assert made.convert_tokens_to_ids(["<|im_end|>", "<|image_pad|>"]) == ids
    assert not {*ids} & {*made("say <|im_end|> or <|image_pad|>", split_special_tokens=True).input_ids}
    assert {*ids} < {*made("say <|im_end|> or <|image_pad|>").input_ids}


def test_spare_rows_are_not_cut(sources):
    model, processor = build_model("tiny", language=str(sources[0] / "language"))
    assert len(processor.tokenizer) < model.config.text_config.vocab_size == 448


def test_dtype_of_every_part(sources):
    folder = sources[0]
    model, _ = build_model("tiny", str(folder / "vision"), str(folder / "language"), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_missing_parts_are_named(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="no/such-model.*existing folder"):
        build_model("tiny", language="no/such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no config.json.*empty"):
        build_model("tiny", language=str(tmp_path / "empty"))
    sources[2].save_pretrained(tmp_path / "no-words")
    with pytest.raises(ConfigError, match="tokenizer"):
        build_model("tiny", language=str(tmp_path / "no-words"))
    (tmp_path / "no-words" / "model.safetensors").unlink()
    torch.save(sources[2].state_dict(), tmp_path / "no-words" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        build_model("tiny", language=str(tmp_path / "no-words"))


@pytest.mark.parametrize("part, gone", [("vision", "encoder.layers.1.mlp.fc1.bias"), ("language", "model.layers.1.mlp.up_proj.weight")])
def test_a_part_whose_weights_are_not_all_there_is_refused(sources, tmp_path, part, gone):
    whole = SiglipVisionModel(SiglipVisionConfig(**SHAPE)) if part == "vision" else sources[2]
    whole.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    build_model("tiny", **{part: str(tmp_path)})
    stored(lambda tensors: tensors.pop(gone))(tmp_path)
    with pytest.raises(DataError, match=f"1 of the model's tensors are not in the weights, the first is {gone}"):
        build_model("tiny", **{part: str(tmp_path)})


def test_a_head_that_is_more_than_a_matrix_is_refused(tmp_path):
    from transformers import Gemma2Config

    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "head_dim": 8}
    AutoModelForCausalLM.from_config(Gemma2Config(**shape)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        build_model("tiny", language=str(tmp_path))


def test_a_tower_that_does_not_tile_is_refused(sources, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**{**SHAPE, "image_size": 60})).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="10 x 10 patches"):
        build_model("tiny", str(tmp_path), str(sources[0] / "language"))
