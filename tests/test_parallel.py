"""Work in threads: in order, never far ahead, errors where they belong."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnivision.data.parallel import AHEAD, at_once, cores, in_order


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


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_keeps_its_order(workers):
    assert at_once(workers, lambda number: time.sleep(0.002 * (9 - number)) or number, range(9)) == list(range(9))
    assert at_once(workers, str, []) == []
    with pytest.raises(ZeroDivisionError):
        at_once(workers, lambda number: 1 // number, [1, 0])


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    assert cores() == 8
    for processes, share in (("2", 4), ("16", 1)):
        for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):  # torchrun's, and that of DeepSpeed's launcher
            monkeypatch.setenv(name, processes)
            assert cores() == share
            monkeypatch.delenv(name)
