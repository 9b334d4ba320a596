"""What a picture's strips of patches show, in words: the text twin of its 81 image tokens.

For each strip a plan has the words of what lies there and where that is. The tiny language model learns to read the weighted
sum of their embeddings, and a projector to say it.

Shapes: S strips of a picture (81), K words of a strip.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from omnivision.world.sign import sign_text
from omnivision.world.truth import Region
from omnivision.world.vocabulary import kinds
from omnivision_train.vision_pairs import SIDE, STRIP, axis_weights, covered_patches

STRIPS = SIDE * SIDE // STRIP
WORDS, LABEL_WORDS = 12, 6  # at most so many word tokens of a strip, of a region's label
FADING = 0.75  # weight of a label's word by that of the word before it
LEAST = 0.4  # weight of a region that barely touches a strip; one that fills it has 1
COLUMNS, ROWS = "abcdefghi", "jklmnopqr"  # names of a picture's squares, 9 by 9
SECOND_GUESS, BESIDE = 0.3, 0.25  # shares of mistaken labels: the rarer of a region's two, another region's of the picture
STRANGE = 0.02  # chance that a kind of another group may be said as well


@dataclass(frozen=True)
class Plan:
    """Words of every strip and how much of its embedding each makes up; words of weight 0 fill up."""

    ids_SK: np.ndarray
    weights_SK: np.ndarray


def plan(regions: list[Region], tokenize, rng: random.Random, missed: float = 0.0, mistaken: float = 0.0) -> Plan:
    """What a projector should say about a picture: for each strip the words of its regions, and where they lie.

    A region's words weigh as much as it covers of the strip, later words of a label less than earlier ones (so that 42
    is not 24). The place is told in words, since a small model cannot tell the column of a strip from its position in the
    sequence (a vision tower knows it from its position table): the third of the picture it lies in, and more finely
    letters for its column and row among 9 by 9 squares, as on a chessboard, mixed between neighbours. With these a value
    is found in the column of its label; a mixture of "left" and "right" alone left the values of charts at 0.10. Strips that show nothing say nothing: where they told their place
    as well, the model had not learnt to read it after 1,500 steps.

    Args:
        regions: what lies where. tokenize: words -> ids.
        missed: chance that a strip does not see a region, so that the reader learns to use all strips of an object.
        mistaken: chance that a strip takes a region for another thing, in whole or in part, so that the reader learns to weigh
            them against each other. One region's strips err alike: they waver between its name and two others.
    """
    most = 2 * WORDS if mistaken else WORDS  # an erring strip says two labels where others say one
    cells: list[list[tuple[int, float]]] = [[] for _ in range(STRIPS)]
    seen: list[list[int]] = [[] for _ in range(STRIPS)]
    for region in regions:
        ids, shares = label_words(region.label, tokenize)
        others = [label_words(taken_for(rng, region, regions), tokenize) for _ in range(2)] if mistaken else []
        patches = covered_patches(region.box, 0, 0, SIDE)
        for strip in np.unique(patches // STRIP):
            inside = patches[patches // STRIP == strip]
            if rng.random() < missed:
                continue
            said = [(word, share) for word, share in zip(ids, shares, strict=True)]
            if others and rng.random() < mistaken:
                part, other = min(1.0, 1.5 * rng.random()), others[rng.random() < SECOND_GUESS]  # a third of them wholly
                said = [(word, share * (1 - part)) for word, share in said if part < 1] + [(word, share * part) for word, share in zip(*other, strict=True)]
            if len(cells[strip]) + len(said) <= most:
                weight = LEAST + (1 - LEAST) * len(inside) / STRIP
                cells[strip] += [(word, weight * share) for word, share in said]
                seen[strip] += inside.tolist()
    ids_SK = np.zeros((STRIPS, most + 6), dtype=np.int64)
    weights_SK = np.zeros((STRIPS, most + 6), dtype=np.float32)
    for strip, words in enumerate(cells):
        if not words:
            continue
        patches = np.array(seen[strip])
        x, y = ((patches % SIDE).mean() + 0.5) / SIDE, ((patches // SIDE).mean() + 0.5) / SIDE
        words = words + [(tokenize(word)[0], weight) for word, weight in (*_place(x, " left", " right", COLUMNS), *_place(y, " top", " bottom", ROWS))]
        ids_SK[strip, : len(words)], weights_SK[strip, : len(words)] = zip(*words, strict=True)
    return Plan(ids_SK, weights_SK)


def taken_for(rng: random.Random, region: Region, regions: list[Region]) -> str:
    """A label that a poor eye could give a region instead of its own; its own for marks, and for boards if no other object is there."""
    if region.kind == "mark":
        return region.label
    beside = [other.label for other in regions if other.kind == region.kind and other.label != region.label]
    if beside and rng.random() < BESIDE:
        return rng.choice(beside)
    if region.kind == "text":
        return sign_text(rng, "en" if region.label.isascii() else "zh")
    name = next((name for name in (region.label, region.label.partition(" ")[2]) if name in kinds()), None)
    if name is None:
        return region.label
    group = [other for other, kind in kinds().items() if other != name and (kind.group == kinds()[name].group or rng.random() < STRANGE)]
    return region.label.removesuffix(name) + rng.choice(group)


def label_words(label: str, tokenize) -> tuple[list[int], np.ndarray]:
    """(ids of a label's words, the share that each makes up)."""
    ids = tokenize(label if label[0].isdigit() else " " + label)[:LABEL_WORDS]  # digits have no word with a space
    shares = FADING ** np.arange(len(ids))
    return ids, shares / shares.sum()


def _place(at: float, low: str, high: str, squares: str) -> list[tuple[str, float]]:
    """Words for a place along one axis, 0 to 1, with their weights: see axis_weights."""
    return [(word, float(weight)) for word, weight in zip((low, " center", high, *squares), axis_weights(at), strict=True) if weight]
