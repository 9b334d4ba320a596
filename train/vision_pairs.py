"""Image-text pairs for the vision tower: windows of the world's pictures with the words of their regions.

A window is a square block of patches of one picture; its pairs are (patches inside a region, words of that
region). Windows of 13x13 patches carry one or two objects at a quarter of a whole picture's attention cost;
the last part of the training sees whole pictures with their captions.

Shapes: B windows, R regions, T patches of a window, C channels, H height, W width.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from omnivision.model.tower import TRUNK_SHAPE
from omnivision.world.art import TRAIN_STYLES
from omnivision.world.captions import caption
from omnivision.world.chart import draw_chart, make_chart
from omnivision.world.scene import draw_scene, make_scene
from omnivision.world.sign import NAMES, draw_sign, make_sign
from omnivision.world.truth import Chart, Scene, Sign

PATCH = TRUNK_SHAPE["patch_size"]
SIDE = TRUNK_SHAPE["image_size"] // PATCH
STRIP = 9  # consecutive patches that one token of the raster projector sees
SQUARES = 9  # a picture's squares along each side, as on a chessboard
THIRD, FINE = 0.5, 0.5  # weights of what says where a strip's content lies, for each axis: its third, its square
PLACES = 2 * (3 + SQUARES)
STRIP_SHARE = 0.7  # share of the pairs whose picture side is one strip of the region
SIGN_IN_SCENE, NAME_ON_SIGN = 0.5, 0.75  # shares: of scenes with a sign, of their signs with a name; at 0.25 and 0.5 no strip told a name


@dataclass(frozen=True)
class Window:
    """One training window: pixels, where it lies, and which of its patches each text names."""

    pixels_CHW: np.ndarray  # uint8
    row: int  # first patch row and column in the whole picture
    column: int
    regions: list[tuple[np.ndarray, str]]  # (indices of patches in the window, words)
    bare: list[int]  # patches that no region covers, nor a part of one that lies mostly outside
    caption: str | None = None  # only for whole pictures


def picture(rng: random.Random, split: str):
    """One random picture: (image, regions, truth)."""
    kind = rng.random()
    language = "zh" if rng.random() < 0.2 else "en"
    if kind < 0.68:
        scene = make_scene(rng, rng.choice(TRAIN_STYLES), min_kinds=3, max_kinds=6, max_items=8, with_sign=rng.random() < SIGN_IN_SCENE)
        if scene.sign and rng.random() < NAME_ON_SIGN:
            scene = replace(scene, sign=rng.choice(NAMES))
        return *draw_scene(scene), scene
    if kind < 0.9:
        chart = make_chart(rng, split, language)
        return *draw_chart(chart), chart
    sign = make_sign(rng, language)
    return *draw_sign(sign), sign


def words_of(truth: Scene | Chart | Sign) -> str:
    """The caption of a whole picture."""
    if isinstance(truth, Scene):
        return caption(truth, "en")
    if isinstance(truth, Chart):
        return f"{truth.title}: {', '.join(truth.labels)}"
    return f'A sign that says "{truth.text}".'


def covered_patches(box: tuple[int, int, int, int], row: int, column: int, side: int) -> np.ndarray:
    """Indices (row-major in the window) of the patches that a box covers by at least a third of their side.

    Args:
        box: x0, y0, x1, y1 in pixels of the whole picture.
        row, column: first patch of the window; side: its patches a side.
    """
    first, last = (lambda a: int(np.floor(a / PATCH + 0.66))), (lambda a: int(np.ceil(a / PATCH - 0.66)))
    columns = range(max(first(box[0]), column), min(max(last(box[2]), first(box[0]) + 1), column + side))
    rows = range(max(first(box[1]), row), min(max(last(box[3]), first(box[1]) + 1), row + side))
    return np.array([(r - row) * side + (c - column) for r in rows for c in columns], dtype=np.int64)


def windows_of(rng: random.Random, split: str, side: int, count: int) -> list[Window]:
    """Up to `count` windows of one random picture, each around a region (whole pictures: one)."""
    image, regions, truth = picture(rng, split)
    pixels = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
    if side == SIDE:
        return [Window(pixels, 0, 0, _named(regions, 0, 0, side), _bare(regions, 0, 0, side), words_of(truth))]
    found = []
    for region in rng.sample(regions, min(count, len(regions))):
        x = (region.box[0] + region.box[2]) / 2 / PATCH - side / 2 + rng.uniform(-2.5, 2.5)
        y = (region.box[1] + region.box[3]) / 2 / PATCH - side / 2 + rng.uniform(-2.5, 2.5)
        row, column = (int(min(max(round(v), 0), SIDE - side)) for v in (y, x))
        crop = pixels[:, row * PATCH : (row + side) * PATCH, column * PATCH : (column + side) * PATCH]
        found.append(Window(crop, row, column, _named(regions, row, column, side), _bare(regions, row, column, side)))
    return found


def _named(regions, row: int, column: int, side: int) -> list[tuple[np.ndarray, str]]:
    """The regions of which at least half the patches lie inside the window."""
    named = []
    for region in regions:
        inside = covered_patches(region.box, row, column, side)
        whole = len(covered_patches(region.box, 0, 0, SIDE))
        if len(inside) and 2 * len(inside) >= whole:
            named.append((inside, region.label))
    return named


def _bare(regions, row: int, column: int, side: int) -> list[int]:
    return sorted(set(range(side**2)).difference(*(covered_patches(region.box, row, column, side).tolist() for region in regions)))


def part_of(rng: random.Random, patches: np.ndarray, window: Window, side: int) -> list[int]:
    """Some of a region's patches, so that every part learns to tell what it belongs to.

    Mostly what one strip of the raster projector holds of the region, else a random third.
    """
    if rng.random() < STRIP_SHARE:
        in_picture = (patches // side + window.row) * SIDE + patches % side + window.column
        strips = in_picture // STRIP
        return patches[strips == rng.choice(strips.tolist())].tolist()
    return rng.sample(patches.tolist(), max(1, (len(patches) + 2) // 3))


def place_of(patches: np.ndarray, window: Window, side: int) -> np.ndarray:
    """Where some patches of a window lie in the picture, as a plan says it: the weight of each of its words. Shape (PLACES,)."""
    x, y = ((patches % side).mean() + window.column + 0.5) / SIDE, ((patches // side).mean() + window.row + 0.5) / SIDE
    return np.concatenate([axis_weights(at) for at in (x, y)])


def axis_weights(at: float) -> np.ndarray:
    """Weights of a place along one axis, 0 to 1: of the third it lies in, then of its nearest squares of SQUARES. Shape (3 + SQUARES,)."""
    weights = np.zeros(3 + SQUARES, dtype=np.float32)
    weights[min(2, int(3 * at))] = THIRD
    first, rest = divmod(min(max(SQUARES * at - 0.5, 0.0), SQUARES - 1.0), 1)
    weights[3 + int(first)] += FINE * (1 - rest)
    weights[3 + min(int(first) + 1, SQUARES - 1)] += FINE * rest
    return weights


class WindowBatches(Dataset):
    """Batches of windows, each drawn from a seed of its own: any of them can be the first, in any process.

    Args:
        seed: of them all. split: which tables charts may use. side: patches a side of a window.
        batch: windows a batch. count: of batches. per_picture: windows cut from one picture.
    """

    def __init__(self, seed: int, split: str, side: int, batch: int, count: int, per_picture: int = 4) -> None:
        self.seed, self.split, self.side, self.batch, self.count, self.per_picture = seed, split, side, batch, count, per_picture

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        rng = random.Random(f"{self.seed}/{self.split}/{self.side}/{index}")
        windows: list[Window] = []
        while len(windows) < self.batch:
            windows += windows_of(rng, self.split, self.side, self.per_picture)
        return self.collate(rng, windows[: self.batch])

    def collate(self, rng: random.Random, windows: list[Window]) -> dict:
        """Tensors of a batch; of several regions with the same words only one is kept (SigLIP's loss is diagonal).

        Of each window some patches outside of all regions come last, which have no words and no place.
        """
        texts: list[str] = []
        parts: list[tuple[int, list[int]]] = []  # window, patches
        for index, window in enumerate(windows):
            for patches, words in window.regions:
                if words not in texts:
                    texts.append(words)
                    parts.append((index, part_of(rng, patches, window, self.side)))
        places = [place_of(np.array(kept), windows[index], self.side) for index, kept in parts]
        for index, window in enumerate(windows):
            if window.bare:
                parts.append((index, rng.sample(window.bare, min(STRIP, len(window.bare)))))
                places.append(np.zeros(PLACES, dtype=np.float32))
        weights = []
        for index, kept in parts:
            row = torch.zeros(len(windows) * self.side**2)
            row[[index * self.side**2 + int(p) for p in kept]] = 1 / len(kept)
            weights.append(row.to_sparse())
        return {
            "pixels_BCHW": torch.from_numpy(np.stack([w.pixels_CHW for w in windows])),
            "corner_B2": torch.tensor([(w.row, w.column) for w in windows]),
            "pool_RT": torch.stack(weights).coalesce(),
            "place_RK": torch.from_numpy(np.stack(places)),
            "texts": texts,
            "captions": [w.caption for w in windows],
        }
