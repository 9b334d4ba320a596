"""How sure a median of a few rounds is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS, SEED = 2000, 0


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the bootstrap's 95 % interval around it."""
    medians = np.median(np.random.default_rng(SEED).choice(values, (DRAWS, len(values))), axis=1)
    return float(np.median(values)), *(float(one) for one in np.percentile(medians, (2.5, 97.5)))
