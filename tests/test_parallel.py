"""Work in threads: in order, never far ahead, errors where they belong."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnivision.data.parallel import AHEAD, in_order


def test_results_stand_in_order_and_few_things_are_taken_ahead():
    taken, most = 0, 0

    def things():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    def work(number):
        time.sleep(0.001 * (number % 3 == 0))
        return number

    with ThreadPoolExecutor(2) as threads:
        for done, result in enumerate(in_order(threads, 2, work, things())):
            assert result == done
            most = max(most, taken - done)
    assert taken == 1000 and 2 < most <= 2 * AHEAD + 1


def test_an_error_comes_where_its_result_would():
    with ThreadPoolExecutor(2) as threads:
        results = in_order(threads, 2, lambda number: 1 // number, [1, 1, 0, 1])
        assert [next(results), next(results)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(in_order(threads, 2, str, [])) == []
