"""One question against every way in which an endpoint misbehaves."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from endpoint_server import DRIP, QUICK, FakeTime, Server, question
from hypothesis import given, settings
from hypothesis import strategies as st

from omnivision.endpoint import Billed, Client, Endpoint, Kind, Ledger, Usage, image_part, message, replies, text_part
from omnivision.endpoint.wire import Reply
from omnivision.errors import ConfigError, DataError


@pytest.fixture
def ask(tmp_path):
    """Asks one question against a script; returns the outcome, the server, the ledger's lines and the seconds slept."""

    port = 0

    def run(*script, schema=None, key="q", messages=None, **changes):
        nonlocal port
        fake = FakeTime()
        with Server(list(script), port) as server, Ledger(tmp_path / "ledger.jsonl") as ledger, \
                Client(Endpoint(server.url, "teacher", **{**QUICK, **changes}), ledger, clock=fake.clock, sleep=fake.sleep) as client:
            port = server.server_port
            outcome = client.ask(key, messages or question(key), schema)
            again = client.ask(key, messages or question(key), schema) if outcome.final else None
            if again:
                assert again == replace(outcome, recorded=True, retry_after=None, seconds=again.seconds), "a final outcome was asked again"
        lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
        return SimpleNamespace(outcome=outcome, server=server, ledger=ledger, slept=fake.slept, lines=lines,
                               endings=[line["outcome"] for line in lines if line["event"] != "request"])

    return run


def test_a_good_answer(ask):
    run = ask()
    assert run.outcome.kind is Kind.ANSWERED and run.outcome.text == "re: q" and run.outcome.final
    assert run.outcome.usage == Usage(50, 10) and run.outcome.model == "teacher-2024-01-01" and run.outcome.billed is Billed.YES
    assert [line["event"] for line in run.lines] == ["request", "response"] and len(run.server.received) == 1
    sent = run.server.received[0]
    assert sent["path"] == "/v1/chat/completions" and "Authorization" not in sent["headers"]
    assert sent["body"] == {"model": "teacher", "messages": question("q"), "max_tokens": 1024, "temperature": 0.0, "seed": 0}


def test_settings_reach_the_body(ask):
    run = ask(temperature=None, seed=7, max_tokens=5, extra={"response_format": {"type": "json_object"}})
    assert run.server.received[0]["body"] == {"model": "teacher", "messages": question("q"), "max_tokens": 5, "seed": 7,
                                              "response_format": {"type": "json_object"}}


def test_a_picture_travels_as_a_data_uri(ask):
    run = ask(messages=[message("user", "what is it?", image_part(b"\x89PNG", "image/png"))])
    assert run.server.received[0]["body"]["messages"][0]["content"] == [
        text_part("what is it?"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]
    with pytest.raises(ValueError, match="text/html"):
        image_part(b"", "text/html")


@pytest.mark.parametrize(("behaviour", "kind"), [
    ("status:429", Kind.RATE_LIMITED), ("status:500", Kind.SERVER_ERROR), ("status:502", Kind.SERVER_ERROR), ("status:503", Kind.SERVER_ERROR),
    ("status:504", Kind.SERVER_ERROR), ("status:408", Kind.SERVER_ERROR), ("status:529", Kind.SERVER_ERROR), ("reset", Kind.RESET),
    ("hang_up", Kind.RESET), ("reset_midway", Kind.RESET), ("short_body", Kind.TRUNCATED), ("truncated", Kind.TRUNCATED),
    ("nothing", Kind.TRUNCATED)])
def test_what_may_pass_is_asked_again(ask, behaviour, kind):
    run = ask(behaviour, behaviour)
    assert run.outcome.kind is Kind.ANSWERED and run.outcome.attempt == 3
    assert run.endings == [kind.value, kind.value, "answered"] and len(run.slept) == 2


@pytest.mark.parametrize(("behaviour", "kind"), [("status:503", Kind.SERVER_ERROR), ("reset", Kind.RESET), ("truncated", Kind.TRUNCATED)])
def test_what_does_not_pass_is_told_and_asked_in_the_next_run(ask, behaviour, kind):
    run = ask(*[behaviour] * 9)
    assert run.outcome.kind is kind and not run.outcome.final and run.endings == [kind.value] * QUICK["attempts"]
    assert ask().outcome.kind is Kind.ANSWERED


@pytest.mark.parametrize(("behaviour", "kind"), [
    ("status:400", Kind.REJECTED), ("status:413", Kind.REJECTED), ("status:422", Kind.REJECTED), ("status:418", Kind.REJECTED),
    ("refusal", Kind.REFUSED), ("filtered", Kind.REFUSED), ("length", Kind.CUT_OFF), ("thoughts", Kind.THOUGHTS), ("thoughts:stop", Kind.THOUGHTS),
    ('raw:{"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}', Kind.THOUGHTS), ("huge", Kind.TOO_LARGE), ("endless", Kind.TOO_LARGE),
    ('raw:{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}', Kind.WRONG_SCHEMA)])
def test_what_stays_as_it_is_is_asked_once(ask, behaviour, kind):
    run = ask(behaviour)
    assert run.outcome.kind is kind and run.outcome.final and run.outcome.detail
    assert run.endings == [kind.value] and len(run.server.received) == 1 and not run.slept
    assert ask().outcome.recorded, "a later run asked again"


@pytest.mark.parametrize("behaviour", [
    "status:404", "status:405", "status:410", "status:204", "redirect", "raw:<html>busy</html>", "raw:[1]", 'raw:{"choices": []}',
    'raw:{"choices": [{"message": {"content": [1]}}]}', 'raw:{"choices": [{"message": null}]}', "raw:" + "[" * 100_000, "not_utf8"])
def test_where_nobody_is_there_to_answer_a_mended_server_is_asked_again(ask, behaviour):
    """A model that is not loaded yet, a captive portal, a page that says "back soon"."""
    for run in (ask(behaviour, behaviour), ask(behaviour, behaviour)):
        assert run.outcome.kind is Kind.MISDIRECTED and not run.outcome.final and not run.outcome.recorded and run.outcome.detail
        assert run.outcome.billed is (Billed.OPEN if run.outcome.status in (200, 204) else Billed.NO)
    assert run.endings == ["misdirected"] * 2 and not run.slept, "once a run"
    assert ask().outcome.kind is Kind.ANSWERED


def test_what_the_server_says_is_told(ask):
    assert ask("status:400").outcome.detail == "about 400"
    run = ask("refusal", key="other")
    assert run.outcome.detail == "I cannot help with that"


def test_the_newer_name_of_the_longest_answer_is_tried_once(ask):
    run = ask("newer", "newer", max_tokens=7)
    assert run.outcome.kind is Kind.ANSWERED and run.endings == ["rejected", "answered"]
    first, second = (one["body"] for one in run.server.received)
    assert first["max_tokens"] == second["max_completion_tokens"] == 7 and "max_tokens" not in second
    run = ask("newer", max_tokens=7)
    assert run.outcome.recorded and not run.server.received, "a later run asked again"
    run = ask("newer", key="other", max_tokens=7, extra={"max_tokens": 9})
    assert run.outcome.kind is Kind.REJECTED and len(run.server.received) == 1, "who names it means it"


def test_a_service_with_the_newer_name_is_told_once(tmp_path):
    with Server(lambda *_: "newer") as server:
        for _ in range(2):
            with Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "m", concurrency=1, **QUICK), ledger) as client:
                found = list(client.ask_all((str(at), question(str(at))) for at in range(5)))
                assert {one.kind for one in found} == {Kind.ANSWERED}
        assert len(server.received) == 6


def test_a_killed_run_that_was_told_the_newer_name_goes_on(ask, monkeypatch):
    monkeypatch.setattr(Endpoint, "with_newer_limit", lambda self: None)
    assert ask("newer").outcome.kind is Kind.REJECTED  # and no more
    monkeypatch.undo()
    assert ask("newer").outcome.kind is Kind.ANSWERED


def test_a_redirect_is_not_followed(ask):
    run = ask("redirect")
    assert [one["path"] for one in run.server.received] == ["/v1/chat/completions"] and "/elsewhere" in run.outcome.detail


@pytest.mark.parametrize("behaviour", ["empty", "null"])
def test_an_empty_answer_is_asked_once_again(ask, behaviour):
    run = ask(behaviour, behaviour, behaviour)
    assert run.outcome.kind is Kind.EMPTY and run.outcome.final and run.endings == ["empty", "empty"]
    assert ask("empty", key="other").outcome.kind is Kind.ANSWERED


def test_an_empty_answer_in_an_earlier_run_counts(ask):
    assert not ask("empty", attempts=1).outcome.final
    run = ask("empty", "empty")
    assert run.outcome.final and run.endings == ["empty", "empty"]


def test_an_error_inside_is_asked_once_again_and_is_not_final(ask):
    run = ask(*["error_inside"] * 5)
    assert run.outcome.kind is Kind.ERROR_INSIDE and not run.outcome.final and run.endings == ["error_inside"] * 2
    assert run.outcome.detail == "the provider is busy"
    assert ask().outcome.kind is Kind.ANSWERED


def test_a_wrong_schema_is_recorded_with_its_text(ask):
    run = ask("good:{}", schema=lambda text: require("label", json.loads(text)))
    assert run.outcome.kind is Kind.WRONG_SCHEMA and run.outcome.final and run.outcome.billed is Billed.YES
    assert run.outcome.text == "{}" and "no label" in run.outcome.detail and run.endings == ["wrong_schema"]


def require(name, record):
    if name not in record:
        raise ValueError(f"no {name}")


def test_a_right_schema(ask):
    assert ask('good:{"label": 1}', schema=json.loads).outcome.kind is Kind.ANSWERED


def test_a_schema_with_a_bug_is_not_swallowed_and_not_final(ask, tmp_path):
    with pytest.raises(ZeroDivisionError):
        ask(schema=lambda text: 1 / 0)
    last = json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["outcome"] == "interrupted" and last["text"] == "re: q" and not last["final"]
    assert ask().outcome.attempt == 2


NAMES = st.sampled_from(["choices", "message", "content", "error", "refusal", "finish_reason", "usage", "model", "prompt_tokens"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20)


@settings(max_examples=300, deadline=None)
@given(body=JSON, status=st.sampled_from([200, 200, 200, 204, 302, 400, 401, 429, 500, 799]), cut=st.integers(0, 50))
def test_whatever_comes_back_has_a_name(body, status, cut):
    text = json.dumps(body)
    for one in (text, text[: len(text) - cut], f'{{"choices": [{{"message": {text}, "finish_reason": {text}}}], "usage": {text}}}'):
        outcome = replies.read(Reply(status, {"retry-after": one}, one), lambda text: text)
        assert isinstance(outcome.kind, Kind) and outcome.status == status and len(outcome.detail) <= 503
        assert (outcome.kind is Kind.ANSWERED) <= bool(outcome.text.strip())


def test_half_a_surrogate_pair_in_a_key(ask):
    assert ask("status:500", key="caf\udce9.jpg").outcome.attempt == 2


def test_half_a_surrogate_pair_is_replaced(ask):
    assert ask("surrogate").outcome.text == "a?b"


@pytest.mark.parametrize(("behaviour", "kind"), [("hang", Kind.TIMED_OUT), ("drip_headers", Kind.TIMED_OUT), ("drip", Kind.SLOW)])
def test_the_time_limit_is_for_the_whole_request(ask, behaviour, kind):
    assert DRIP < 0.3
    started = time.monotonic()
    run = ask(behaviour, timeout=0.3)
    assert run.endings == [kind.value, "answered"]
    assert 0.3 <= time.monotonic() - started < 3  # a drip would last 20 s, a hang 30
    assert [(one.kind, one.attempt) for one in run.ledger.possibly_billed()] == [(kind, 1)]


def test_an_error_that_drips_is_still_that_error(ask):
    run = ask("drip_error", timeout=0.3)
    assert run.outcome.kind is Kind.REJECTED and run.endings == ["rejected"]


def test_connection_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        endpoint = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "teacher", **QUICK)
        with Ledger(tmp_path / "l") as ledger, Client(endpoint, ledger) as client:
            outcome = client.ask("q", question("q"))
            assert outcome.kind is Kind.UNREACHABLE and outcome.attempt == QUICK["attempts"] and outcome.billed is Billed.NO
            assert not ledger.possibly_billed()


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("1.5", 1.5), ("0", 0), ("3600", 60), ("1e999", 60), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)])
def test_retry_after_is_obeyed_up_to_a_minute(ask, value, seconds):
    run = ask(f"retry_after:{value}")
    assert run.outcome.kind is Kind.ANSWERED and seconds <= sum(run.slept) <= seconds + QUICK["backoff"]


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "Wed, 99 Foo"])
def test_a_retry_after_that_says_nothing_is_as_none(ask, value):
    run = ask(f"retry_after:{value}")
    assert run.outcome.kind is Kind.ANSWERED and 0 < sum(run.slept) <= QUICK["backoff"]


def test_retry_after_as_a_date(ask):
    run = ask("retry_at:20")
    assert 18 <= sum(run.slept) <= 21


def test_rests_grow_and_jitter_is_seeded(ask):
    first, second = (ask(*["status:500"] * 9, backoff=1.0, attempts=9, key=key).slept for key in ("a", "b"))
    assert first != second and all(0.5 * 2 ** n <= rest <= 2 ** n for n, rest in enumerate(first[:6])) and max(first) <= 60


def test_the_same_question_rests_the_same(tmp_path):
    slept = []
    for name in ("a", "b"):
        fake = FakeTime()
        with Server(["status:500"] * 3) as server, Ledger(tmp_path / name) as ledger, \
                Client(Endpoint(server.url, "teacher", **QUICK), ledger, clock=fake.clock, sleep=fake.sleep, seed=3) as client:
            client.ask("q", question("q"))
        slept.append(fake.slept)
    assert slept[0] == slept[1] and len(slept[0]) == 3


@pytest.mark.parametrize(("key", "messages"), [("a", [{"role": "user", "content": {1, 2}}]), ("a", [{"role": "user", "content": float("nan")}]),
                                               ("", []), (5, []), ("a", []), ("a", ["text"]), ("a", {})])
def test_messages_that_cannot_be_sent(tmp_path, key, messages):
    with Ledger(tmp_path / "l") as ledger, Client(Endpoint("http://127.0.0.1:9/v1", "teacher"), ledger) as client:
        with pytest.raises(DataError):
            client.ask(key, messages)
    assert (tmp_path / "l").read_bytes() == b""


def test_other_content_under_an_answered_key(ask):
    ask()
    with pytest.raises(ConfigError, match="key q"):
        ask(messages=question("something else"))
    with pytest.raises(ConfigError, match="another ledger"):
        ask(max_tokens=7)


def test_what_was_rejected_is_asked_again_when_it_changed(ask):
    assert ask("status:400").outcome.kind is Kind.REJECTED
    run = ask(max_tokens=7)
    assert run.outcome.kind is Kind.ANSWERED and run.endings == ["rejected", "answered"]


@pytest.mark.parametrize(("changes", "named"), [
    ({"base_url": "ftp://x"}, "base_url"), ({"base_url": "x"}, "base_url"), ({"base_url": "http://[x"}, "base_url"), ({"model": ""}, "model"),
    ({"concurrency": 0}, "concurrency"), ({"concurrency": 1.5}, "concurrency"), ({"attempts": 0}, "attempts"), ({"timeout": 0}, "timeout"),
    ({"timeout": None}, "timeout"), ({"timeout": float("inf")}, "timeout"), ({"timeout": "9"}, "timeout"),
    ({"requests_per_minute": 0}, "requests_per_minute"), ({"max_cost": -1}, "max_cost"), ({"max_cost": 1}, "price_in"),
    ({"max_tokens": True}, "max_tokens"),
    ({"extra": {"stream": True}}, "stream")])
def test_settings_that_cannot_be(changes, named):
    with pytest.raises(ConfigError, match=named):
        Endpoint(**{"base_url": "http://x/v1", "model": "m", **changes})


def test_the_table_in_the_docstring_is_what_the_code_does():
    from omnivision.endpoint import outcomes

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in outcomes.__doc__.splitlines() if line.startswith("| ")][1:]
    told = {name: (tries, final, billed) for name, _, tries, final, billed in rows}
    done = {kind.value: (str(kind.tries or "attempts"), "yes" if kind.final else "no", kind.billed.value) for kind in Kind}
    assert told == done


@pytest.mark.parametrize(("extra", "longest"), [
    ({}, 1024), ({"max_tokens": None, "max_completion_tokens": 32_000}, 32_000), ({"max_completion_tokens": 100}, 1024), ({"max_tokens": 2048}, 2048)])
def test_what_an_answer_can_cost_is_by_the_largest_limit_that_is_sent(extra, longest):
    endpoint = Endpoint("http://x/v1", "m", max_tokens=1024, extra=extra, max_cost=1.0, price_in=1.0, price_out=1.0)
    assert endpoint.bound([{"role": "user", "content": "a"}])[1] == longest


@pytest.mark.parametrize("extra", [{"max_tokens": None}, {"max_completion_tokens": "9"}, {"max_tokens": 0}])
def test_a_cost_without_a_longest_answer_is_refused(extra):
    with pytest.raises(ConfigError, match="longest answer"):
        Endpoint("http://x/v1", "m", extra=extra, max_cost=1.0, price_in=1.0, price_out=1.0)
