"""Records on disk under processes that add, read and are killed at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest

from omnivision.data.feature_records import Records
from omnivision.data.room import Room
from omnivision.errors import ResumableError

SIZE = 64


def opened(folder, most_gib=1.0):
    return Records(folder / "one", SIZE, Room(folder, most_gib))


def record(number: int) -> np.ndarray:
    return np.full(SIZE, number % 251, dtype=np.uint8)


def add_all(folder, numbers, most_gib=1.0, batch=1):
    records, numbers = opened(folder, most_gib), list(numbers)
    for start in range(0, len(numbers), batch):
        records.add({f"k{number}": record(number) for number in numbers[start : start + batch]})


def started(*arguments):
    process = multiprocessing.get_context("fork").Process(target=add_all, args=arguments)
    process.start()
    return process


def wrong(folder, numbers) -> list[int]:
    """Numbers whose record is there and another's."""
    found = opened(folder).read([f"k{number}" for number in numbers])
    return [number for number, raw in zip(numbers, found, strict=True) if raw not in (None, record(number).tobytes())]


def test_two_processes_add_the_same_and_their_own(tmp_path):
    one, other = started(tmp_path, range(120)), started(tmp_path, range(199, 79, -1))
    for process in (one, other):
        process.join()
        assert process.exitcode == 0
    found = opened(tmp_path).read([f"k{number}" for number in range(200)])
    assert [raw == record(number).tobytes() for number, raw in enumerate(found)] == [True] * 200


def test_processes_killed_at_any_moment_leave_whole_records(tmp_path):
    rng, reader = random.Random(0), opened(tmp_path)
    for _ in range(25):
        two = [started(tmp_path, rng.sample(range(400), 400)) for _ in range(2)]
        time.sleep(rng.uniform(0.002, 0.04))
        for process in two:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert not wrong(tmp_path, range(400))
        assert all(raw in (None, record(number).tobytes()) for number, raw in enumerate(reader.read([f"k{number}" for number in range(400)])))
    assert len(opened(tmp_path)) > 20  # they have come to something
    add_all(tmp_path, range(400))
    assert None not in opened(tmp_path).read([f"k{number}" for number in range(400)])


def test_processes_together_keep_to_the_limit(tmp_path):
    most = 50 * SIZE / 2**30
    processes = [started(tmp_path, range(100 * at, 100 * at + 100), most, 7) for at in range(3)]
    for process in processes:
        process.join()
    assert len(opened(tmp_path)) == 50 and opened(tmp_path).data.stat().st_size == 50 * SIZE and not wrong(tmp_path, range(300))


@pytest.mark.parametrize("damage", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"key": ["a"], "record": 0, "crc32": 1}\n',
                                    b'{"key": "k1", "record": 0.5, "crc32": 1}\n', b'{"key": "k9", "record": 99, "crc32": 1}\n', b'{"key": "k1"'])
def test_odd_lines_are_passed_over(tmp_path, damage):
    add_all(tmp_path, range(3))
    with opened(tmp_path).index.open("ab") as index:
        index.write(damage)
    add_all(tmp_path, range(5))
    add_all(tmp_path, range(6))
    assert None not in opened(tmp_path).read([f"k{number}" for number in range(6)]) and not wrong(tmp_path, range(6))


def test_a_line_that_names_anothers_record_is_found_out(tmp_path, capsys):
    add_all(tmp_path, range(3))
    index = opened(tmp_path).index
    lines = index.read_text().replace("k1", "k9").replace("k2", "k1").replace("k9", "k2")
    index.write_text(lines)
    assert [raw is None for raw in opened(tmp_path).read(["k0", "k1", "k2"])] == [False, True, True]
    assert "left out and made anew" in capsys.readouterr().err
    add_all(tmp_path, range(3))
    assert not wrong(tmp_path, range(3)) and len(opened(tmp_path)) == 3


def test_files_that_were_made_anew_under_a_reader(tmp_path):
    add_all(tmp_path, range(10))
    reader = opened(tmp_path)
    for path in (reader.index, reader.data):
        path.unlink()
    add_all(tmp_path, range(3, 6))
    assert [raw is None for raw in reader.read([f"k{number}" for number in range(10)])] == [number not in (3, 4, 5) for number in range(10)]


def test_a_lost_index_gives_its_space_back(tmp_path):
    add_all(tmp_path, range(10))
    opened(tmp_path).index.unlink()
    add_all(tmp_path, range(2))
    assert opened(tmp_path).data.stat().st_size == 2 * SIZE


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    add_all(tmp_path, range(3))
    records = opened(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ResumableError, match="Features could not be written.*No space left.*Make room"):
        records.add({"k7": record(7)})
    monkeypatch.undo()
    assert len(opened(tmp_path)) == 3
    add_all(tmp_path, range(5))
    assert None not in opened(tmp_path).read([f"k{number}" for number in range(5)])
