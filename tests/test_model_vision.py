"""The same features from open_clip's trunk, transformers' tower and ours, on the same random weights."""

from __future__ import annotations

import omnivision  # noqa: F401, I001  first: timm imports torchvision, which may need the remedy
import json

import pytest
import timm
import torch
from export_parts import stored
from model_parts import SHAPE, make_config, make_model, save_open_clip
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from omnivision.errors import ConfigError
from omnivision.model.processing import siglip_image_processor
from omnivision.model.tower import TRUNK_NAME, model_config, register
from omnivision.model.vision import KNOWN_TRUNKS, load_tower, timm_to_transformers, trunk_config

# so400m's proportions: 16 heads, mlp ratio 3.7362, patches of 14 px that leave a rest (384 = 27 * 14 + 6)
SHRUNK = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 16, "intermediate_size": int(64 * 3.7362),
          "image_size": 62, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6}


def _trunk(shape: dict, seed: int = 0) -> timm.models.VisionTransformer:
    torch.manual_seed(seed)
    trunk = timm.models.VisionTransformer(
        img_size=shape["image_size"], patch_size=shape["patch_size"], embed_dim=shape["hidden_size"],
        depth=shape["num_hidden_layers"], num_heads=shape["num_attention_heads"],
        mlp_ratio=shape["intermediate_size"] / shape["hidden_size"] + 1e-6, class_token=False, global_pool="map", num_classes=0)
    for parameter in trunk.parameters():  # also biases and norms: zeros would hide a wrong name
        torch.nn.init.normal_(parameter, std=0.1)
    return trunk.eval()


@pytest.mark.parametrize("shape", [SHAPE, SHRUNK], ids=["square", "so400m-shrunk"])
def test_features_and_pooling_equal_timms_trunk(shape, tmp_path):
    trunk = _trunk(shape)
    folder = save_open_clip(tmp_path / "clip", shape, trunk.state_dict())
    tower, _ = load_tower(str(folder))
    pixels = torch.randn(2, 3, shape["image_size"], shape["image_size"])
    with torch.no_grad():
        out = tower(pixels)
        torch.testing.assert_close(out.last_hidden_state, trunk.forward_features(pixels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.pooler_output, trunk(pixels), atol=1e-5, rtol=1e-5)


def test_features_equal_open_clips_own_model(tmp_path):
    import open_clip
    from open_clip.model import CustomTextCLIP

    register()
    torch.manual_seed(0)
    config = model_config(vocab_size=64, context_length=8)
    config["text_cfg"].pop("hf_tokenizer_name")
    clip = CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], init_logit_bias=-10).eval()
    for parameter in clip.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    from omnivision.model.tower import write_config

    write_config(tmp_path, 64, 8)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    tower, image_processor = load_tower(str(tmp_path))
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["timm_model_name"] == TRUNK_NAME
    assert image_processor.size["height"] == 216 and open_clip.__version__
    pixels = torch.randn(2, 3, 216, 216)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels).last_hidden_state, clip.visual.trunk.forward_features(pixels), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tower(pixels).pooler_output, clip.encode_image(pixels), atol=1e-4, rtol=1e-4)


def test_our_features_equal_transformers_tower_at_every_layer():
    model = make_model()
    reference = SiglipVisionModel(model.config.vision_config).eval()
    reference.load_state_dict(model.model.vision_tower.state_dict())
    pixels = torch.randn(2, 3, 54, 54)
    with torch.no_grad():
        expected = reference(pixels, output_hidden_states=True)
        torch.testing.assert_close(model.model.get_vision_features(pixels), expected.last_hidden_state)
        for layer in (-1, -2, -3):
            for post in (True, False):
                model.config.vision_feature_layer, model.config.vision_post_layernorm = layer, post
                hidden = expected.hidden_states[layer]
                hidden = reference.post_layernorm(hidden) if post else hidden
                torch.testing.assert_close(model.model.get_vision_features(pixels), hidden)


def test_the_real_so400m_trunk_maps_onto_the_968m_tower():
    with torch.device("meta"):
        trunk = timm.create_model("vit_so400m_patch14_siglip_384", num_classes=0)
        state = trunk.state_dict()
        description = {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_so400m_patch14_siglip_384", "image_size": 384}}}
        config = trunk_config(description, state)
        tower = SiglipVisionModel(config)
    ours = {name: tensor.shape for name, tensor in timm_to_transformers(state).items()}
    assert ours == {name: tensor.shape for name, tensor in tower.state_dict().items()}
    assert sum(p.numel() for p in tower.parameters()) == 428_225_600
    default = type(make_config())().vision_config
    for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act", "image_size"):
        assert getattr(config, key) == getattr(default, key), key


def test_known_trunks_are_timms():
    for name, (heads, activation) in KNOWN_TRUNKS.items():
        with torch.device("meta"):
            block = timm.create_model(name, num_classes=0).blocks[0]
        exact = getattr(block.mlp.act, "approximate", None) in (None, "none") and not type(block.mlp.act).__name__.endswith("Tanh")
        assert (block.attn.num_heads, exact) == (heads, activation == "gelu"), name


@pytest.mark.parametrize("whole", [True, False], ids=["pair", "vision-only"])
def test_transformers_folders_load(whole, tmp_path):
    torch.manual_seed(0)
    if whole:
        text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        saved = SiglipModel(SiglipConfig(vision_config=SHAPE, text_config=text))
        reference = saved.vision_model
    else:
        saved = reference = SiglipVisionModel(SiglipVisionConfig(**SHAPE))
    saved.save_pretrained(tmp_path)
    tower, _ = load_tower(str(tmp_path))
    pixels = torch.randn(1, 3, 54, 54)
    with torch.no_grad():
        assert torch.equal(tower(pixels).last_hidden_state, reference.eval()(pixels).last_hidden_state)


def test_transformers_folders_have_their_own_preprocessing(tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**SHAPE)).save_pretrained(tmp_path)
    assert list(load_tower(str(tmp_path))[1].image_mean) == [0.5, 0.5, 0.5]  # saved without: SigLIP's
    theirs = siglip_image_processor(54, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    theirs.save_pretrained(tmp_path)
    found = load_tower(str(tmp_path))[1]
    assert (list(found.image_mean), list(found.image_std), found.resample) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 3)
    file = tmp_path / "preprocessor_config.json"
    for change in ({"resample": 2}, {"size": [54, 54]}, {"image_mean": 0.5}, {"rescale_factor": 0.003921569}, {"do_pad": None}):  # SigLIP 2 is bilinear
        file.write_text(json.dumps({**theirs.to_dict(), **change}))
        found = load_tower(str(tmp_path))[1]
        assert found.resample == change.get("resample", 3) and found.size["height"] == found.size["width"] == 54
        assert list(found.image_mean) == ([0.5] * 3 if "image_mean" in change else [0.1, 0.2, 0.3])
    for change, said in (({"resample": 0}, "resample 0"), ({"do_center_crop": True}, "do_center_crop"), ({"size": {"shortest_edge": 54}}, "size"), ({"size": 54}, "size 54"), ({"do_resize": False}, "do_resize"),
                         ({"size": {"height": 60, "width": 60}}, "60 px wide, and the tower's are 54"), ({"rescale_factor": 1.0}, "rescale_factor"), ({"size": "wide"}, "read")):
        file.write_text(json.dumps({**theirs.to_dict(), **change}))
        with pytest.raises(ConfigError, match=f"preprocessing cannot be taken.*{said}"):
            load_tower(str(tmp_path))
    for broken in ("[]", '{"size": '):
        file.write_text(broken)
        with pytest.raises(ConfigError, match="preprocessing cannot be taken"):
            load_tower(str(tmp_path))


def test_a_tower_may_come_without_the_head_that_nothing_reads(tmp_path):
    whole = SiglipVisionModel(SiglipVisionConfig(**SHAPE)).eval()
    whole.save_pretrained(tmp_path)
    stored(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("head.")])(tmp_path)
    tower, _ = load_tower(str(tmp_path))
    pixels = torch.randn(1, 3, 54, 54)
    with torch.no_grad():
        assert torch.equal(tower(pixels).last_hidden_state, whole(pixels).last_hidden_state)
    assert not tower.config.vision_use_head and not any(name.startswith("head.") for name in tower.state_dict())


def test_a_tensor_without_a_place_is_not_dropped():
    state = _trunk(SHAPE).state_dict()
    with pytest.raises(ValueError, match="cls_token"):
        timm_to_transformers({**state, "cls_token": torch.zeros(1, 1, 32)})


def test_missing_things_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="timm/ViT-SO400M-14-SigLIP-384.*local folder"):
        load_tower("webli")
    with pytest.raises(ConfigError, match="no/such-tower"):
        load_tower("no/such-tower")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither open_clip_config.json nor config.json"):
        load_tower(str(tmp_path / "empty"))
    folder = save_open_clip(tmp_path / "clip", SHAPE, _trunk(SHAPE).state_dict())
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")  # never read
    with pytest.raises(ConfigError, match="open_clip_model.safetensors is missing.*safetensors only"):
        load_tower(str(folder))


def test_unknown_heads_and_wrong_sizes_are_refused(tmp_path):
    state = _trunk(SHAPE).state_dict()
    with pytest.raises(ConfigError, match="heads of vit_of_the_test is not known"):
        load_tower(str(save_open_clip(tmp_path / "a", SHAPE, state, described=False)))
    with pytest.raises(ConfigError, match="81 places.*60 px.*100"):
        load_tower(str(save_open_clip(tmp_path / "b", {**SHAPE, "image_size": 60}, state)))
    folder = save_open_clip(tmp_path / "c", SHAPE, state)
    (folder / "open_clip_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tower(str(folder))


def test_pickles_of_transformers_are_refused(tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**SHAPE)).save_pretrained(tmp_path)
    state = SiglipVisionModel.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_tower(str(tmp_path))
