"""POPE's headline over its three splits: the mean F1, and its standard error over the images that they share."""

from __future__ import annotations

import numpy as np

from . import pope, results
from .benchmarks import POPE_SPLITS
from .bootstrap import standard_error


def mean_of_pope(found: dict[str, dict], samples: dict[str, list[dict]]) -> dict:
    """The results of `pope` from those of its splits.

    Args:
        found: split -> its results.json.
        samples: split -> its samples.

    Returns:
        As a split's results.json; the score is None where one of theirs is.
    """
    whole = {key: found[POPE_SPLITS[0]][key] for key in ("model", "model_hash", "settings", "version") if key in found[POPE_SPLITS[0]]}
    whole["data_hash"] = {split: found[split]["data_hash"] for split in POPE_SPLITS}
    if all("notes" in found[split] for split in POPE_SPLITS):  # which random file, for one
        whole["notes"] = {f"{split} {name}": note for split in POPE_SPLITS for name, note in found[split]["notes"].items()}
        whole["notes"] |= {"part": "of one split at least"} if any("part" in found[split]["notes"] for split in POPE_SPLITS) else {}
    first, *others = pope.VARIANTS
    parts = {variant: _mean_of_splits(found, samples, variant) for variant in pope.VARIANTS}
    return {"task": "pope", "variant": first, **parts[first], "variants": {name: parts[name] for name in others}, **whole}


def side_by_side(counts: list[tuple[list[str], np.ndarray]]) -> np.ndarray:
    """The counts of the splits in one matrix, a row an image, as `mean_f1` takes their totals.

    Args:
        counts: (images, counts_IK) of each split.
    """
    images, width = {image: None for names, _ in counts for image in names}, counts[0][1].shape[1]
    rows = {image: row for row, image in enumerate(images)}
    joined_IK = np.zeros((len(rows), width * len(counts)))
    for position, (names, counts_IK) in enumerate(counts):
        joined_IK[[rows[name] for name in names], position * width:(position + 1) * width] = counts_IK
    return joined_IK


def mean_f1(totals_BK: np.ndarray) -> np.ndarray:
    """Mean F1 of the splits in 0-100, score_B."""
    return np.mean([pope.headline(part) for part in np.split(totals_BK, len(POPE_SPLITS), axis=1)], axis=0)


def _mean_of_splits(found: dict[str, dict], samples: dict[str, list[dict]], variant: str) -> dict:
    counts = [results.counts_of(pope, samples[split], variant) for split in POPE_SPLITS]
    figures, score, error = {}, None, None
    if all(len(counts_IK) for _, counts_IK in counts):  # a split of which nothing is answered has no figures
        joined_IK = side_by_side(counts)
        each = [pope.metrics(totals_K) for totals_K in np.split(joined_IK.sum(0), len(POPE_SPLITS))]
        figures = {name: float(np.mean([one[name] for one in each])) for name in pope.METRICS}
        score, error = float(mean_f1(joined_IK.sum(0, keepdims=True))[0]), standard_error(joined_IK, mean_f1)
    splits = {split: found[split] if variant == found[split]["variant"] else found[split]["variants"][variant] for split in POPE_SPLITS}
    refused = any(one["score"] is None for one in splits.values())
    return {
        "n": sum(one["n"] for one in splits.values()), "missing": sum(one["missing"] for one in splits.values()),
        "valid_rate": figures.get("valid_rate"), "score": None if refused else score, "stderr": error, "metrics": figures,
        "by": {"split": {split: {k: one[k] for k in ("n", "missing", "score", "stderr", "metrics")} for split, one in splits.items()}},
    }
