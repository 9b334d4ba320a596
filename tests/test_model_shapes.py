"""Parameter counts, image-token layouts, presets."""

from __future__ import annotations

import pytest
import torch

from omnivision import OmniVisionConfig, OmniVisionForConditionalGeneration
from omnivision.errors import ConfigError
from omnivision.model.layouts import LAYOUTS, TILES, membership
from omnivision.model.projector import Projector
from omnivision.presets import preset_config


def _parameters(config: OmniVisionConfig) -> int:
    with torch.device("meta"):
        model = OmniVisionForConditionalGeneration(config)
    return sum(p.numel() for p in model.parameters())


def test_default_config_has_omnivisions_parameters():
    assert _parameters(OmniVisionConfig()) == 968_400_704
    without = preset_config("968m")
    without.vision_config.vision_use_head = False
    assert _parameters(without) == 953_162_352


def test_parts_of_the_968m_preset():
    with torch.device("meta"):
        model = OmniVisionForConditionalGeneration(OmniVisionConfig())
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(model.model.vision_tower) == 428_225_600
    assert count(model.model.projector) == 46_142_336
    assert count(model.model.language_model) == 494_032_768
    assert model.model.projector.linear_1.weight.shape == (4096, 10368)


@pytest.mark.parametrize("name", ["968m", "small", "tiny"])
def test_every_preset_has_729_patches_and_81_tokens(name):
    config = preset_config(name)
    assert (config.num_patches, config.image_seq_length) == (729, 81)
    assert OmniVisionConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_tiny_and_small_shapes():
    tiny, small = preset_config("tiny"), preset_config("small")
    assert (tiny.vision_config.hidden_size, tiny.text_config.hidden_size, tiny.text_config.vocab_size) == (128, 256, 4096)
    assert (tiny.vision_config.image_size, tiny.vision_config.patch_size, tiny.projector_hidden_size) == (216, 8, 512)
    assert (small.vision_config.hidden_size, small.text_config.model_type, small.text_config.hidden_size) == (384, "llama", 576)


def test_raster_tokens_are_strips_of_nine_patches():
    patches = membership("raster", 9, 27)
    assert patches.shape == (81, 9)
    for token in range(81):
        row, third = divmod(token, 3)
        assert patches[token].tolist() == [27 * row + 9 * third + i for i in range(9)]


def test_block_tokens_are_squares_of_nine_patches():
    patches = membership("block", 9, 27)
    for token in range(81):
        top, left = 3 * (token // 9), 3 * (token % 9)
        assert patches[token].tolist() == [27 * (top + r) + left + c for r in range(3) for c in range(3)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("group", "tokens"), [(1, 729), (3, 243), (9, 81), (27, 27), (81, 9)])
def test_token_counts_of_every_layout(layout, group, tokens):
    if layout == "identity" and group > 1:
        with pytest.raises(ValueError, match="identity.*1"):
            preset_config("tiny").__class__(projector_layout=layout, projector_group=group)
        return
    projector = Projector(layout, group, 27, 4, 8, 6, "erf")
    assert projector(torch.randn(2, 729, 4)).shape == (2, tokens, 6)
    if layout != "conv":
        assert preset_config("tiny", projector_layout=layout, projector_group=group).image_seq_length == tokens


@pytest.mark.parametrize("group", TILES)
def test_conv_and_pool_mix_exactly_the_tile_of_block(group):
    grid = 27
    tiles = membership("block", group, grid)
    features = torch.randn(1, grid * grid, 3)
    pooled = LAYOUTS["pool"](group, grid, 3)(features)
    torch.testing.assert_close(pooled[0], features[0][tiles].mean(1))
    conv = LAYOUTS["conv"](group, grid, 3)
    moved = features.clone()
    moved[0, tiles[0]] += 1
    changed = (conv(moved) - conv(features)).abs().sum(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [0]


def test_every_patch_is_in_exactly_one_token():
    for layout in ("raster", "block"):
        for group in TILES:
            assert sorted(membership(layout, group, 27).flatten().tolist()) == list(range(729))


def test_projector_arithmetic_and_gelu():
    projector = Projector("raster", 9, 27, 2, 4, 3, "erf")
    features = torch.randn(1, 729, 2)
    first = features[0, :9].flatten() @ projector.linear_1.weight.T + projector.linear_1.bias
    by_hand = (0.5 * first * (1 + torch.erf(first / 2**0.5))) @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features)[0, 0], by_hand)
    tanh = Projector("raster", 9, 27, 2, 4, 3, "tanh")
    assert tanh.act.approximate == "tanh" and projector.act.approximate == "none"


@pytest.mark.parametrize(("overrides", "words"), [
    ({"projector_layout": "rastre"}, "raster"),
    ({"projector_group": 10}, "10.*81"),
    ({"projector_gelu": "relu"}, "erf"),
    ({"vision_feature_layer": -5}, "-5.*4 blocks"),
    ({"projector_layuot": "raster"}, "did you mean projector_layout"),
])
def test_wrong_settings_name_value_and_choice(overrides, words):
    with pytest.raises(ConfigError, match=words):
        preset_config("tiny", **overrides)


def test_a_group_that_would_drop_patches_is_refused():
    with pytest.raises(ValueError, match="3 x 3.*16 x 16"):
        OmniVisionConfig(vision_config={"image_size": 224, "patch_size": 14}, projector_layout="block")
    with pytest.raises(ConfigError, match="did you mean tiny"):
        preset_config("tinny")
