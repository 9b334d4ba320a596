"""Vision tower and projector as an mmproj file of the projector type lfm2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from omnivision.export.gguf.names import picture_names
from omnivision.export.stored import StoredTensors
from omnivision.export.gguf.tiles import BLOCK, raster_order
from omnivision.export.gguf.types import FILE_TYPES, type_of
from omnivision.export.gguf.writing import Planned, write_gguf
from omnivision.model.configuration import OmniVisionConfig

ARCH = "clip"
POSITIONS = "v.position_embd.weight"


def write_picture(file: Path, config: OmniVisionConfig, stored: StoredTensors, quantization: str, name: str, mean: list[float],
                  std: list[float], keep: frozenset[str] = frozenset(), raster: bool | None = None) -> list[Planned]:
    """Write the file; returns what stands in it.

    Args:
        file: the new file. config, stored: of the checkpoint.
        quantization: see types.py.
        name: general.name.
        mean, std: of the image processor, one number a channel.
        keep: checkpoint names of tensors that stay in fp32.
        raster: whether the position table's rows are moved as tiles.py moves patches; None is as the projector needs it.
    """
    vision, grid = config.vision_config, config.patch_grid
    raster = config.projector_layout == "raster" if raster is None else raster
    blocks = vision.num_hidden_layers + 1 + config.vision_feature_layer  # later ones have no part in the answer
    width = _padded(vision.intermediate_size)
    plan = []
    for ours, theirs in picture_names(blocks, config.vision_post_layernorm).items():
        load, shape = partial(stored.load, theirs), stored.shapes[theirs]
        if ours == POSITIONS and raster:
            load = partial(_moved, load, grid)
        if "ffn" in ours and width != vision.intermediate_size and shape != (vision.hidden_size,):
            axis = 1 if "ffn_down" in ours else 0
            load, shape = partial(_zero_padded, load, axis, width), tuple(width if at == axis else one for at, one in enumerate(shape))
        plan.append(Planned(ours, shape, type_of(ours, shape, quantization, blocks, theirs in keep), load))

    def describe(writer) -> None:
        writer.add_type("mmproj")
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[quantization])
        writer.add_clip_has_vision_encoder(True)
        writer.add_clip_projector_type("lfm2")
        writer.add_vision_use_gelu(True)
        writer.add_vision_image_size(grid * vision.patch_size)
        writer.add_vision_patch_size(vision.patch_size)
        writer.add_vision_embedding_length(vision.hidden_size)
        writer.add_vision_feed_forward_length(width)
        writer.add_vision_block_count(blocks)
        writer.add_vision_head_count(vision.num_attention_heads)
        writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
        writer.add_vision_projection_dim(config.text_config.hidden_size)
        writer.add_vision_image_mean(mean)
        writer.add_vision_image_std(std)
        writer.add_vision_projector_scale_factor(BLOCK)

    write_gguf(file, ARCH, describe, plan)
    return plan


def _moved(load: Callable[[], np.ndarray], grid: int) -> np.ndarray:
    return load()[raster_order(grid)]


def _padded(width: int) -> int:
    """The tower's inner width, grown to blocks of 32: so400m's 4304 could not be quantised.

    Exact: the new rows of fc1 and its bias are zero, gelu(0) is 0, and 0 meets the new columns of fc2.
    """
    return -(-width // 32) * 32


def _zero_padded(load: Callable[[], np.ndarray], axis: int, width: int) -> np.ndarray:
    values = load()
    more = [(0, width - size if at == axis else 0) for at, size in enumerate(values.shape)]
    return np.pad(values, more)
