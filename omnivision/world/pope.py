"""POPE-shaped rows: per picture as many absent as present objects, three splits that differ only in the absent ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from omnivision.world.captions import kinds_in_order
from omnivision.world.negatives import expected_cooccurrence, random_negatives
from omnivision.world.scene_facts import Asked, wording
from omnivision.world.truth import Scene

SPLITS = ("random", "popular", "adversarial")
EACH = 3  # present objects of a picture, and as many absent ones; fewer where a scene has fewer kinds


def pope_rows(scenes: Sequence[tuple[str, Scene]], rng: random.Random) -> dict[str, list[dict]]:
    """The rows of the three splits.

    Args:
        scenes: (image path, truth).
        rng: chooses the present objects and the random absent ones.
    Returns:
        split -> rows of question_id, image, text, label ("yes"/"no"), language, kind ("exist"), object.
    Source: POPE (Li et al. 2023), section 5.1; yes and no alternate as in its files.
    """
    statistics = expected_cooccurrence()
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for image, scene in scenes:
        present = kinds_in_order(scene)
        present = rng.sample(present, min(EACH, len(present)))
        absent = {
            "random": random_negatives(scene, rng, len(present)),
            "popular": statistics.popular(scene, len(present)),
            "adversarial": statistics.adversarial(scene, len(present)),
        }
        for split, negatives in absent.items():
            for there, missing in zip(present, negatives):
                for kind, label in ((there, "yes"), (missing, "no")):
                    rows[split].append({
                        "question_id": f"pope_{split}_{len(rows[split]):05d}",
                        "image": image,
                        "text": wording(Asked("exist", "en", kind)),
                        "label": label,
                        "language": "en",
                        "kind": "exist",
                        "object": kind,
                    })
    return rows
