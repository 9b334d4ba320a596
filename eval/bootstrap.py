"""Standard errors and paired differences by resampling images, not questions.

Questions about one image share its luck, so the image is the unit that is drawn again (for POPE six
questions hang on every image, and resampling questions would make the error look too small).

Shapes: I images, K columns (a benchmark's counts for one question), B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 1000


def sum_by_image(images: Sequence[str], columns: Sequence[tuple[float, ...]]) -> tuple[list[str], np.ndarray]:
    """Add up the columns of the questions of each image.

    Args:
        images: image of each question.
        columns: the benchmark's counts for each question, K numbers.

    Returns:
        The distinct images in order of appearance, and counts_IK.
    """
    index = {image: i for i, image in enumerate(dict.fromkeys(images))}
    counts_IK = np.zeros((len(index), len(columns[0]) if columns else 0))
    np.add.at(counts_IK, [index[image] for image in images], np.asarray(columns, dtype=float))
    return list(index), counts_IK


def draw_totals(counts_IK: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Totals of the columns over images drawn with replacement, totals_BK."""
    images = len(counts_IK)
    weights_BI = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
    return weights_BI @ counts_IK


def standard_error(counts_IK: np.ndarray, headline: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> float | None:
    """Bootstrap standard error of a score.

    Args:
        counts_IK: columns added up by image.
        headline: totals_BK -> score_B, the benchmark's score from its totals.
        seed: seed of the draws.

    Returns:
        The standard deviation of the score over the draws; None with fewer than two images.
    """
    if len(counts_IK) < 2:
        return None
    return float(np.std(headline(draw_totals(counts_IK, seed)), ddof=1))


def paired_difference(
    counts_a_IK: np.ndarray, counts_b_IK: np.ndarray, headline: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> dict[str, float | None]:
    """Score of B minus score of A on the same images, each draw using the same images for both.

    Returns:
        difference, its standard error, the 95 % interval, and the two-sided bootstrap p value.

    Raises:
        ValueError: where the two runs do not cover the same number of images.
    """
    if len(counts_a_IK) != len(counts_b_IK):
        raise ValueError(f"paired runs cover {len(counts_a_IK)} and {len(counts_b_IK)} images; pair them by image first")
    point = float(headline(counts_b_IK.sum(0, keepdims=True))[0] - headline(counts_a_IK.sum(0, keepdims=True))[0])
    if len(counts_a_IK) < 2:
        return {"difference": point, "stderr": None, "low": None, "high": None, "p": None}
    width = counts_a_IK.shape[1]
    totals = draw_totals(np.concatenate([counts_a_IK, counts_b_IK], axis=1), seed)
    drawn_B = headline(totals[:, width:]) - headline(totals[:, :width])
    low, high = np.percentile(drawn_B, [2.5, 97.5])
    # never 0: with B draws nothing smaller than 1/(B+1) can be told
    tail = min((drawn_B <= 0).sum(), (drawn_B >= 0).sum())
    p = min(1.0, 2 * (float(tail) + 1) / (len(drawn_B) + 1))
    return {"difference": point, "stderr": float(np.std(drawn_B, ddof=1)), "low": float(low), "high": float(high), "p": p}
