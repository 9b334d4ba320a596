"""Many questions: limits of pace, number and cost; stopping; resuming."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from endpoint_server import QUICK, FakeTime, Server, at_random, question, wait_for

from omnivision.endpoint import Client, Endpoint, Kind, Ledger
from omnivision.errors import ConfigError, DataError, ResumableError


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_everything_and_names_the_variable(tmp_path, monkeypatch, status):
    monkeypatch.setenv("TEACHER_KEY", "sk-0123456789")
    with Server(lambda question, number: f"status:{status}") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", key_variable="TEACHER_KEY", concurrency=2), ledger) as client:
        with pytest.raises(ConfigError, match=f"TEACHER_KEY.*{status}"):
            list(client.ask_all((str(n), question(str(n))) for n in range(50)))
        with pytest.raises(ConfigError, match="TEACHER_KEY"):
            client.ask("another", question("another"))
        assert len(server.received) <= 2
        assert ledger.answered("0") is None
        assert server.received[0]["headers"]["Authorization"] == "Bearer sk-0123456789"


@pytest.mark.parametrize("behaviour", ["status:402", "quota"])
def test_no_credit_stops_everything_and_can_be_resumed(tmp_path, behaviour):
    with Server(lambda question, number: behaviour) as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        with pytest.raises(ResumableError, match="credit"):
            list(client.ask_all((str(n), question(str(n))) for n in range(50)))
        assert len(server.received) <= 2 and ledger.answered("0") is None


def test_many_at_a_time_and_never_more(tmp_path):
    with Server(lambda question, number: "late:0.03") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=3), ledger) as client:
        found = list(client.ask_all((str(n), question(str(n))) for n in range(30)))
        assert {one.key: one.text for one in found} == {str(n): f"re: {n}" for n in range(30)}
        assert server.most_under_way == 3


def test_never_more_also_when_the_caller_has_threads(tmp_path):
    with Server(lambda question, number: "late:0.03") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        threads = [threading.Thread(target=client.ask, args=(str(n), question(str(n)))) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.received) == 10 and server.most_under_way == 2


def test_items_are_taken_as_they_are_needed(tmp_path):
    taken = []
    with Server() as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        outcomes = client.ask_all((taken.append(n) or str(n), question(str(n))) for n in range(1000))
        next(outcomes)
        assert len(taken) <= 4
        outcomes.close()


def test_requests_per_minute_with_retries(tmp_path):
    fake, starts = FakeTime(), []
    script = ["good", "status:500", "good", "good"]
    with Server(lambda question, number: starts.append(fake.now) or (script[number] if number < 4 else "good")) as server, \
            Ledger(tmp_path / "l") as ledger:
        endpoint = Endpoint(server.url, "teacher", requests_per_minute=30, **QUICK)
        with Client(endpoint, ledger, clock=fake.clock, sleep=fake.sleep) as client:
            for n in range(6):
                client.ask(str(n), question(str(n)))
    assert [round(start - starts[0], 2) for start in starts] == [0, 2, 4, 6, 8, 10, 12]


def test_requests_per_minute_over_threads(tmp_path):
    with Server() as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", requests_per_minute=1200, concurrency=4), ledger) as client:
        list(client.ask_all((str(n), question(str(n))) for n in range(12)))
        assert max(server.times) - min(server.times) >= 11 * 0.05 - 0.03


def test_retry_after_holds_everybody(tmp_path):
    """One is told to wait a second; the others, which were told nothing, wait as well."""
    with Server(["retry_after:1"]) as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", **QUICK), ledger) as client:
        client_thread = threading.Thread(target=client.ask, args=("first", question("first")))
        client_thread.start()
        wait_for(lambda: ledger.endings("first", Kind.RATE_LIMITED))
        time.sleep(0.05)
        client.ask("second", question("second"))
        client_thread.join()
        assert server.times[1] - server.times[0] >= 1


PRICES = {"price_in": 1000.0, "price_out": 10_000.0}  # an answer of the server: 50 and 10 tokens, so 0.05 + 0.1
NEXT = (64 + 16 + 1) * 1000 / 1e6 + 10 * 10_000 / 1e6  # what a question of one letter can cost at most with max_tokens=10


def test_max_cost_stops_before_it_is_exceeded(tmp_path):
    with Server() as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", max_tokens=10, max_cost=0.45 + NEXT, concurrency=1, **PRICES), ledger) as client:
        found = []
        with pytest.raises(ResumableError, match=r"max_cost 0\.631 would be exceeded: 0\.6 was spent"):
            for outcome in client.ask_all((chr(97 + n), question(chr(97 + n))) for n in range(20)):
                found.append(outcome)
        assert len(found) == len(server.received) == 4  # 0.45 + next is allowed, 0.6 + next is not


def test_max_cost_counts_earlier_runs(tmp_path):
    port = 0
    for expected in (2, 2):
        with Server(port=port) as server, Ledger(tmp_path / "l") as ledger, \
                Client(Endpoint(server.url, "teacher", max_tokens=10, max_cost=0.15 + NEXT, concurrency=1, **PRICES), ledger) as client:
            with pytest.raises(ResumableError, match="0.3 was spent"):
                list(client.ask_all((chr(97 + n), question(chr(97 + n))) for n in range(5)))
            assert ledger.tokens().prompt == expected * 50
            port = server.server_port


@pytest.mark.parametrize(("behaviour", "changes"), [("hang", {"timeout": 0.2}), ("uncounted", {})])
def test_max_cost_counts_what_may_have_been_billed(tmp_path, behaviour, changes):
    with Server([behaviour]) as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", max_tokens=10, attempts=1, max_cost=1.5 * NEXT, **PRICES, **changes), ledger) as client:
        client.ask("a", question("a"))
        with pytest.raises(ResumableError, match=f"0 was spent, up to {NEXT:g} more"):
            client.ask("b", question("b"))
        assert len(server.received) == 1


def test_a_failure_that_cost_nothing_is_not_counted(tmp_path):
    with Server(["status:500"] * 3) as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", max_tokens=10, max_cost=NEXT, **PRICES, **QUICK), ledger) as client:
        assert client.ask("a", question("a")).kind is Kind.ANSWERED


def test_max_cost_holds_over_threads(tmp_path):
    with Server(lambda question, number: "late:0.02") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", max_tokens=10, max_cost=1.0, concurrency=8, **PRICES), ledger) as client:
        with pytest.raises(ResumableError, match="max_cost"):
            list(client.ask_all((chr(97 + n), question(chr(97 + n))) for n in range(26)))
        assert 0.15 * len(server.received) <= 1.0 < NEXT * 26


def test_an_error_stops_the_others_and_loses_no_outcome(tmp_path):
    with Server(lambda question, number: "late:0.3") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        found = []
        with pytest.raises(DataError, match="no list"):
            for outcome in client.ask_all((name, question(name) if name != "a" else "text") for name in "abcdefgh"):
                found.append(outcome.key)
        assert sorted(found) == sorted(one["body"]["messages"][0]["content"] for one in server.received) and set(found) <= {"b", "c"}


def test_a_key_comes_twice(tmp_path):
    with Server() as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher"), ledger) as client:
        with pytest.raises(DataError, match="same key"):
            list(client.ask_all([("a", question("a")), ("a", question("b"))]))


def test_the_same_question_is_not_asked_twice_at_once(tmp_path):
    with Server(["late:0.3"]) as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher"), ledger) as client:
        thread = threading.Thread(target=client.ask, args=("a", question("a")))
        thread.start()
        wait_for(lambda: server.received)
        with pytest.raises(DataError, match="already"):
            client.ask("a", question("a"))
        thread.join()
        assert len(server.received) == 1


def test_ctrl_c_lets_what_is_under_way_end(tmp_path):
    with Server(lambda question, number: "late:2") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        interrupt_when(lambda: len(server.received) == 2)
        with pytest.raises(KeyboardInterrupt):
            list(client.ask_all((str(n), question(str(n))) for n in range(50)))
        assert len(server.received) == 2 and not ledger.possibly_billed()
        assert [ledger.answered(str(n)).kind for n in range(2)] == [Kind.ANSWERED] * 2


def test_a_second_ctrl_c_breaks_off(tmp_path):
    with Server(lambda question, number: "hang") as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        interrupt_when(lambda: len(server.received) == 2, lambda: time.sleep(0.3) or True)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(client.ask_all((str(n), question(str(n))) for n in range(50)))
        assert time.monotonic() - started < 5 and len(server.received) == 2
        assert [one.kind for one in ledger.possibly_billed()] == [Kind.INTERRUPTED] * 2


def test_ctrl_c_in_a_single_question_is_recorded(tmp_path):
    with Server(["hang"]) as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher"), ledger) as client:
        interrupt_when(lambda: len(server.received) == 1)
        with pytest.raises(KeyboardInterrupt):
            client.ask("a", question("a"))
        assert [one.kind for one in ledger.possibly_billed()] == [Kind.INTERRUPTED]


def interrupt_when(*conditions):
    """Ctrl-C each time a condition has come true."""
    def watch():
        for condition in conditions:
            wait_for(condition)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_a_caller_who_stops_listening(tmp_path):
    with Server() as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
        for _ in client.ask_all((str(n), question(str(n))) for n in range(1000)):
            break
        assert len(server.received) < 10 and not ledger.possibly_billed()
        assert client.ask("x", question("x")).kind is Kind.ANSWERED  # the client lives on


def test_closing_waits_for_what_is_under_way(tmp_path):
    with Server(lambda question, number: "late:0.3") as server, Ledger(tmp_path / "l") as ledger:
        with Client(Endpoint(server.url, "teacher", concurrency=2), ledger) as client:
            outcomes = client.ask_all((str(n), question(str(n))) for n in range(50))
            next(outcomes)
        assert not ledger.possibly_billed() and len(server.received) <= 6
        with pytest.raises(ResumableError, match="closed"):
            client.ask("x", question("x"))


def test_a_stop_wakes_those_who_rest(tmp_path):
    """One rests for a minute when another finds that the key is refused."""
    with Server(lambda question, number: "status:500" if question == "a" else "late:0.3" if number < 2 else "status:401") as server, \
            Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher", concurrency=2, backoff=60), ledger) as client:
        started = time.monotonic()
        with pytest.raises(ConfigError):
            list(client.ask_all((name, question(name)) for name in "abcd"))
        assert time.monotonic() - started < 5


def test_what_was_rejected_is_asked_again_elsewhere(tmp_path):
    """The same question at another address: the first may have been wrong."""
    for script in (["status:400"], []):
        with Server(script) as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher"), ledger) as client:
            assert client.ask("a", question("a")).kind is (Kind.REJECTED if script else Kind.ANSWERED)
            assert len(server.received) == 1


def test_resume_asks_only_what_is_missing(tmp_path):
    behave = at_random(5, {"status:500": 0.3, "reset": 0.2, "empty": 0.1, "refusal": 0.1})
    with Server(behave) as server, Ledger(tmp_path / "l") as ledger, \
            Client(Endpoint(server.url, "teacher", **{**QUICK, "attempts": 1}), ledger) as client:
        found = {one.key: one for one in client.ask_all((str(n), question(str(n))) for n in range(40))}
    missing = {key for key, one in found.items() if not one.final}
    assert 0 < len(missing) < 40
    with Server(port=server.server_port) as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "teacher"), ledger) as client:
        again = {one.key: one for one in client.ask_all((str(n), question(str(n))) for n in range(40))}
    assert {one["body"]["messages"][0]["content"] for one in server.received} == missing
    assert {key for key, one in again.items() if not one.recorded} == missing and all(one.final for one in again.values())
