"""Which patches become one image token: an explicit table of five layouts and their groups.

Legend: B images, P patches (grid x grid, row by row), C vision width, T image tokens, G patches of a token (P = T*G).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Patches of a token -> rows and columns of its tile. On a 27 x 27 grid: 729, 243, 81, 27 and 9 tokens.
TILES = {1: (1, 1), 3: (1, 3), 9: (3, 3), 27: (3, 9), 81: (9, 9)}


class Raster(nn.Module):
    """OmniVision's reshape: G consecutive patches of the raster; on 27 columns and G = 9 a token is a 1 x 9 strip."""

    def __init__(self, group: int, grid: int, width: int) -> None:
        super().__init__()
        self.group, self.out_width = group, group * width

    def forward(self, features_BPC: Tensor) -> Tensor:
        images, patches, width = features_BPC.shape
        return features_BPC.reshape(images, patches // self.group, self.group * width)


class Block(nn.Module):
    """Tiles of neighbouring rows and columns (3 x 3 for G = 9), each flattened row by row."""

    def __init__(self, group: int, grid: int, width: int) -> None:
        super().__init__()
        self.tile, self.grid, self.out_width = TILES[group], grid, group * width

    def forward(self, features_BPC: Tensor) -> Tensor:
        (rows, cols), grid = self.tile, self.grid
        images, _, width = features_BPC.shape
        tiles = features_BPC.reshape(images, grid // rows, rows, grid // cols, cols, width)
        return tiles.transpose(2, 3).reshape(images, -1, self.out_width)


class Conv(nn.Module):
    """A learned 2-D convolution whose kernel and stride are the tile."""

    def __init__(self, group: int, grid: int, width: int) -> None:
        super().__init__()
        self.grid, self.out_width = grid, width
        self.conv = nn.Conv2d(width, width, kernel_size=TILES[group], stride=TILES[group])

    def forward(self, features_BPC: Tensor) -> Tensor:
        map_BCHW = features_BPC.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.conv(map_BCHW).flatten(2).transpose(1, 2)


class Pool(nn.Module):
    """The mean of each tile."""

    def __init__(self, group: int, grid: int, width: int) -> None:
        super().__init__()
        self.block, self.group, self.out_width = Block(group, grid, width), group, width

    def forward(self, features_BPC: Tensor) -> Tensor:
        return self.block(features_BPC).unflatten(2, (self.group, -1)).mean(2)


class Identity(Raster):
    """Every patch is a token."""


LAYOUTS: dict[str, type[nn.Module]] = {
    "raster": Raster,
    "block": Block,
    "conv": Conv,
    "pool": Pool,
    "identity": Identity,
}


def check_layout(layout: str, group: int, grid: int) -> None:
    """Raises where the layout is unknown or its group does not tile the grid.

    Args:
        layout: a key of LAYOUTS.
        group: patches of one token.
        grid: patches along one side of the image.

    Raises:
        ValueError: the group would drop patches silently, or the name is unknown.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"projector_layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}.")
    if group not in TILES:
        raise ValueError(f"projector_group is {group}; it must be one of {', '.join(map(str, TILES))}.")
    if layout == "identity" and group != 1:
        raise ValueError(f"projector_layout 'identity' keeps every patch, but projector_group is {group}: set it to 1.")
    rows, cols = (1, group) if layout in ("raster", "identity") else TILES[group]
    whole = grid**2 % group == 0 if layout in ("raster", "identity") else not (grid % rows or grid % cols)
    if not whole:
        raise ValueError(f"{layout} tokens of {rows} x {cols} patches do not tile a grid of {grid} x {grid} patches; "
                         f"choose another projector_group, or an image_size / patch_size that divides.")


def membership(layout: str, group: int, grid: int) -> Tensor:
    """The patches of every token, found by sending the patch indices through the layout itself.

    Args:
        layout: raster, block or identity (conv and pool mix their tile, which is block's).
        group: patches of one token.
        grid: patches along one side.

    Returns:
        Long tensor (tokens, group) of raster indices, in the order in which the projector reads them.
    """
    check_layout(layout, group, grid)
    indices_BPC = torch.arange(grid * grid).reshape(1, -1, 1)
    return LAYOUTS[layout](group, grid, 1)(indices_BPC)[0]
