"""The bootstrap of a median."""

from __future__ import annotations

import numpy as np
import pytest

from omnivision.statistics import median_interval


def test_the_interval_lies_around_the_median():
    assert median_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    middle, low, high = median_interval([1, 2, 3])
    assert (middle, low, high) == (2, 1, 3)


def test_it_covers_the_true_median_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    found = [median_interval(rng.normal(5, 1, 25)) for _ in range(200)]
    assert np.mean([low <= 5 <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.04)
