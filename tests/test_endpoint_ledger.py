"""The ledger: what stands in it, what a killed run leaves, who may open it, and that it is written before and after each request."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading

import pytest
from endpoint_server import Server
from hypothesis import given, settings
from hypothesis import strategies as st

from omnivision.endpoint import Billed, Client, Endpoint, Kind, Ledger, Outcome, Tokens, Usage, message
from omnivision.errors import ConfigError, DataError, ResumableError


def begin(ledger, key, bound=(10, 5)):
    return ledger.request(key, "hash", "http://x/v1/chat/completions", bound, lambda tokens: None)


def end(ledger, request, kind=Kind.ANSWERED, **fields):
    ledger.outcome(Outcome(kind, request.key, attempt=request.attempt, **{"final": kind.final, **fields}))


def full(path):
    """A ledger in which every event has happened."""
    with Ledger(path) as ledger:
        end(ledger, begin(ledger, "a"), text="grüße\u2028日本\n", usage=Usage(7, 3), model="m", seconds=1.5, status=200)
        end(ledger, begin(ledger, "b"), Kind.TIMED_OUT)
        end(ledger, begin(ledger, "b"), Kind.SERVER_ERROR, detail="busy", status=500)
        begin(ledger, "c")
        end(ledger, begin(ledger, "d"), Kind.REJECTED, status=400)
    return path


def state(ledger):
    return ({key: ledger.answered(key) for key in "abcd"}, {key: ledger.last_request(key) for key in "abcd"},
            sorted(ledger.possibly_billed(), key=str), ledger.tokens(), [ledger.endings("b", kind) for kind in Kind])


def test_what_was_written_is_read(tmp_path):
    with Ledger(full(tmp_path / "l")) as ledger:
        found = ledger.answered("a")
        assert (found.text, found.usage, found.model, found.seconds, found.status) == ("grüße\u2028日本\n", Usage(7, 3), "m", 1.5, 200)
        assert found.recorded and found.kind is Kind.ANSWERED and found.billed is Billed.YES
        assert ledger.answered("d").kind is Kind.REJECTED and ledger.answered("b") is ledger.answered("c") is ledger.answered("x") is None
        assert [(one.key, one.attempt, one.kind) for one in ledger.possibly_billed()] == [("b", 1, Kind.TIMED_OUT), ("c", 1, None)]
        assert ledger.tokens() == Tokens(7, 3, 20, 10)
        assert ledger.endings("b", Kind.SERVER_ERROR) == 1 and ledger.last_request("b").attempt == 2


def test_answers_of_another_address_are_not_taken_for_this_ones(tmp_path):
    question = [message("user", "what is it?")]
    with Server() as first, Server() as second:
        with Ledger(tmp_path / "l") as ledger, Client(Endpoint(first.url, "m"), ledger) as client:
            assert client.ask("a", question).kind is Kind.ANSWERED
        with Ledger(tmp_path / "l") as ledger, Client(Endpoint(second.url, "m"), ledger) as client:
            with pytest.raises(ConfigError, match=f"answers of another address, {first.url}/chat/completions.*key a"):
                client.ask("a", question)
            assert client.ask("b", question).kind is Kind.ANSWERED
        with Ledger(tmp_path / "l") as ledger, Client(Endpoint(first.url, "m"), ledger) as client:
            assert client.ask("a", question).recorded
        assert (len(first.received), len(second.received)) == (1, 1)


def test_attempts_are_numbered_over_runs(tmp_path):
    for number in (1, 2, 3):
        with Ledger(tmp_path / "l") as ledger:
            assert begin(ledger, "a").attempt == number
    with Ledger(tmp_path / "l") as ledger:
        assert [one.attempt for one in ledger.possibly_billed()] == [1, 2, 3]


def test_the_request_is_on_the_disk_before_it_is_sent(tmp_path):
    """The server looks at the file, and at what was flushed, when the request arrives."""
    path, seen = tmp_path / "l", []
    with Server(lambda question, number: seen.append((path.read_text().splitlines(), len(flushed))) or "good") as server, Ledger(path) as ledger:
        flushed = watch_flushes(ledger)
        with Client(Endpoint(server.url, "m"), ledger) as client:
            client.ask("a", [message("user", "a")])
        assert len(flushed) == 2, "the outcome was not flushed"
    (lines, flushes), = seen
    assert [json.loads(line)["event"] for line in lines] == ["request"] and flushes == 1


def watch_flushes(ledger):
    flushed, flush = [], ledger._flush
    ledger._flush = lambda: (flush(), flushed.append(1))
    return flushed


def test_half_a_last_line_is_cut_off(tmp_path):
    path = full(tmp_path / "l")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "request", "key": "e", "att')
    with Ledger(path) as ledger:
        assert path.read_bytes() == whole
        begin(ledger, "e")
    assert len(path.read_bytes().splitlines()) == len(whole.splitlines()) + 1
    with Ledger(path) as ledger:
        assert ledger.last_request("e").attempt == 1


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return full(tmp_path_factory.mktemp("full") / "l").read_bytes()


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), tail=st.sampled_from([b"", b"\0" * 50, b"{", b"\xff"]))
def test_a_file_that_ends_anywhere_opens_and_goes_on(tmp_path_factory, content, cut, tail):
    path = tmp_path_factory.mktemp("cut") / "l"
    kept = content[: round(cut * len(content))]
    path.write_bytes(kept + tail)
    with Ledger(path) as ledger:
        begin(ledger, "z")
        before = state(ledger)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    assert content.startswith(b"".join(lines)) and json.loads(last)["key"] == "z"
    assert kept.count(b"\n") <= len(lines) <= kept.count(b"\n") + 1
    with Ledger(path) as ledger:
        assert state(ledger) == before


def test_a_last_line_that_lacks_only_its_break_is_kept(tmp_path):
    path = full(tmp_path / "l")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with Ledger(path) as ledger:
        assert ledger.answered("d") and path.read_bytes() == whole


@pytest.mark.parametrize("broken", [
    b"", b"{", b"\xff", b"[]", b"null", b'{"event": "other"}', b'{"event": "request", "key": "x"}', b"[" * 100_000,
    b'{"event": "request", "key": 5, "attempt": 1, "time": 1, "body_hash": "", "url": "", "bound": [1, 1]}',
    b'{"event": "request", "key": "x", "attempt": -1, "time": 1, "body_hash": "", "url": "", "bound": [1, 1]}',
    b'{"event": "request", "key": "a", "attempt": 1, "time": 1, "body_hash": "", "url": "", "bound": [1, 1]}'])
def test_a_broken_line_in_the_middle(tmp_path, broken):
    path = full(tmp_path / "l")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], broken, *lines[3:], b""]))
    with pytest.raises(DataError, match=rf"{path}:4\)"):
        Ledger(path)
    path.write_bytes(b"\n".join([*lines, b""]))
    Ledger(path).close()  # the refused one has let go of it


@pytest.mark.parametrize("change", [{"outcome": "fine"}, {"attempt": 2}, {"key": "x"}, {"final": 1}, {"usage": [1, -1]}, {"status": "200"},
                                    {"billed": "?"}])
def test_a_broken_outcome(tmp_path, change):
    path = full(tmp_path / "l")
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(DataError, match=":2"):
        Ledger(path)


def test_an_outcome_twice(tmp_path):
    path = full(tmp_path / "l")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[3], ""]))  # of the time-out, which stays in the list of doubtful ones
    with pytest.raises(DataError, match=":5"):
        Ledger(path)


def test_threads_do_not_mix_their_lines(tmp_path):
    def work(name):
        for number in range(25):
            end(ledger, begin(ledger, f"{name}{number}"), text="x" * 5000)

    with Ledger(tmp_path / "l") as ledger:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Ledger(tmp_path / "l") as ledger:
        assert all(ledger.answered(f"{name}{number}") for name in "abcd" for number in range(25)) and not ledger.possibly_billed()


def test_a_second_process_is_refused(tmp_path, root):
    code = ("import sys, types\npackage = types.ModuleType('omnivision'); package.__path__ = [sys.argv[2]]; sys.modules['omnivision'] = package\n"
            "from omnivision.endpoint.ledger import Ledger\nfrom omnivision.errors import ConfigError\n"
            "try: Ledger(sys.argv[1])\nexcept ConfigError as error: print(error); sys.exit(error.exit_code)")
    second = [sys.executable, "-c", code, str(tmp_path / "l"), str(root / "omnivision")]
    with Ledger(tmp_path / "l"):
        refused = subprocess.run(second, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == ConfigError.exit_code and str(tmp_path / "l") in refused.stdout and f"process {os.getpid()}" in refused.stdout
        with pytest.raises(ConfigError, match="in use"):
            Ledger(tmp_path / "l")
        assert not (tmp_path / "l").read_bytes()
    assert subprocess.run(second, timeout=60, check=False).returncode == 0


def test_a_full_disk_stops_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = full(tmp_path / "l")
    whole, write = path.read_bytes(), os.write

    def no_room(handle, line):
        monkeypatch.setattr(os, "write", full_disk)
        return write(handle, line[:20])

    def full_disk(handle, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(path) as ledger:
        monkeypatch.setattr(os, "write", no_room)
        with pytest.raises(ResumableError, match="No space left"):
            begin(ledger, "e")
        monkeypatch.undo()
        with pytest.raises(ResumableError, match="No space left"):
            begin(ledger, "f")
    assert path.read_bytes() == whole


def test_a_full_disk_ends_a_run_without_asking_on(tmp_path, monkeypatch):
    with Server() as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "m", concurrency=2), ledger) as client:
        def full_disk(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(ResumableError, match="No space left"):
            list(client.ask_all((str(n), [message("user", "x")]) for n in range(50)))
        assert not server.received, "asked although the request does not stand on the disk"


def test_a_closed_ledger(tmp_path):
    ledger = Ledger(tmp_path / "l")
    ledger.close()
    ledger.close()
    with pytest.raises(ResumableError, match="closed"):
        begin(ledger, "a")
    assert repr(ledger) == f"Ledger({str(tmp_path / 'l')!r})"


def test_a_key_that_no_file_could_hold(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        end(ledger, begin(ledger, "caf\udce9.jpg"))
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.answered("caf\udce9.jpg")


def test_a_link_is_the_file_that_it_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "l")
    with Ledger(tmp_path / "l"), pytest.raises(ConfigError):
        Ledger(tmp_path / "link")
    with Ledger(tmp_path / "link") as ledger:
        begin(ledger, "a")
    assert (tmp_path / "l").read_bytes()
