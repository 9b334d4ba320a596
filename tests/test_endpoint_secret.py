"""The key is nowhere: not in the ledger, a log, an error, a traceback with locals, nor a repr, whoever echoes it."""

from __future__ import annotations

import copy
import html
import json
import logging
import os
import pickle
import re
import signal
import threading
import time
import traceback
from types import SimpleNamespace
from urllib.parse import quote

import httpx2
import pytest
from endpoint_server import Server

from omnivision.endpoint import Client, Endpoint, Kind, Ledger, Outcome, message
from omnivision.endpoint.secret import HIDDEN, LOGGERS, Secret
from omnivision.endpoint.wire import Wire
from omnivision.errors import ConfigError, OmniError

# Global, so that it is no local variable of a test; with what JSON and URLs escape.
KEY = 'sk-Te/st"K+y\\0123456789'
VARIABLE = "TEACHER_KEY"


@pytest.fixture(autouse=True)
def environment(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, KEY)
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def play(tmp_path, caplog):
    """Asks once and gathers everything that is left behind anywhere."""

    def run(behaviour, schema=None, watch=None):
        outcome, left = None, []
        with Server([behaviour] * 9) as server, Ledger(tmp_path / "l") as ledger:
            endpoint = Endpoint(server.url, "m", key_variable=VARIABLE, attempts=2, backoff=0.001, timeout=0.5, max_response_bytes=100_000)
            with Client(endpoint, ledger) as client:
                if watch:
                    watch(server)
                try:
                    outcome = client.ask("q", [message("user", "q")], schema)
                except BaseException as error:  # noqa: BLE001 - looked at below
                    left += [error, *error.args, *chain(error)]
                left += [client, endpoint, ledger, outcome, client._secret, client._wire, *ledger.possibly_billed(), vars(client)]
            sent = server.received[0]["headers"].get("Authorization")
        shown = [*(f"{one!s} {one!r}" for one in left), (tmp_path / "l").read_text(), caplog.text, *(str(vars(record)) for record in caplog.records)]
        assert sent == f"Bearer {KEY}", "the endpoint was not given the key"
        return SimpleNamespace(outcome=outcome, error=next((one for one in left if isinstance(one, BaseException)), None), shown="\n".join(shown))

    return run


def chain(error):
    """Tracebacks with locals of an error and all that it hangs on."""
    while error:
        yield "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        error = error.__cause__ or error.__context__


def forms():
    """What must not be found: any longer piece of the key."""
    return {"0123456789", "sk-Te"}


def assert_hidden(text):
    found = [form for form in forms() if form in text]
    assert not found, text[max(0, text.index(found[0]) - 300):][:700]


ECHOES = ["echo:400", "echo:401", "echo:403", "echo:404", "echo:429", "echo:500", "echo:307", "echo:402", "echo:200", "echo_raw", "echo_reset",
          "echo_answer", "echo_escaped"]


@pytest.mark.parametrize("behaviour", [*ECHOES, "good", "status:401", "status:500", "reset", "hang_up", "truncated", "short_body", "hang", "drip",
                                       "redirect", "endless", "not_utf8", "empty", "error_inside", "drip_headers"])
def test_nothing_shows_the_key(play, behaviour):
    run = play(behaviour)
    assert_hidden(run.shown)
    assert bool(run.error) == (behaviour in ("echo:401", "echo:403", "status:401", "echo:402"))


@pytest.mark.parametrize("value", [KEY, "sk-proj-abcDEF0123456789_x", "\\" * 9, "'\"'\"'\"'\"", "a.b*c+d?e[f"])
def test_a_key_is_known_however_it_is_written(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    secret = Secret(VARIABLE)
    for shown in (value, json.dumps(value), json.dumps(json.dumps(value)), json.dumps(value).replace("/", "\\/"), repr(value), repr(repr(value)),
                  repr(value.encode()), quote(value), re.sub("%..", lambda hexes: hexes[0].lower(), quote(value, safe="")), html.escape(value)):
        found = secret.hide(f"<{shown}>")
        assert HIDDEN in found and not [letter for letter in found.replace(HIDDEN, "") if letter.isalnum() and letter != "b"], shown
    assert secret.hide("abcDEF is no key") == "abcDEF is no key"


def test_half_a_key_is_known_too():
    assert Secret(VARIABLE).hide(f"<{KEY[:20]}> and more") == f"<{HIDDEN}> and more"


def test_an_error_that_stops_in_the_middle_of_the_key(play):
    run = play("drip_echo")
    assert run.outcome.kind is Kind.REJECTED and "broke off" in run.outcome.detail
    assert_hidden(run.shown)


def test_hiding_takes_no_time():
    started = time.monotonic()
    for text in ("sk-Te/st" * 100_000, "\\" * 1_000_000, "sk-" + "\\" * 1_000_000):
        Secret(VARIABLE).hide(text)
    assert time.monotonic() - started < 5


def test_an_echo_is_hidden_and_the_rest_is_kept(play):
    assert play("echo:400").outcome.detail == f"you sent Bearer {HIDDEN}, that is Bearer {HIDDEN}"


def test_an_echo_in_an_answer_is_hidden(play):
    outcome = play("echo_answer").outcome
    assert outcome.kind is Kind.ANSWERED and outcome.text == f"your key is Bearer {HIDDEN}"


def test_a_reply_is_hidden_before_anybody_looks_at_it():
    """Any frame may hold it from here on."""
    for behaviour in ("echo_answer", "echo:400", "echo:307"):
        with Server([behaviour]) as server:
            wire = Wire(Endpoint(server.url, "m", key_variable=VARIABLE), Secret(VARIABLE))
            reply = wire.send(b'{"messages": [{"content": "x"}]}')
            wire.close()
        assert HIDDEN in reply.text
        assert_hidden(f"{reply.text} {reply}")


def test_the_ledger_hides_whatever_it_is_given(tmp_path):
    with Ledger(tmp_path / "l") as ledger, Client(Endpoint("http://x/v1", "m", key_variable=VARIABLE), ledger):
        request = ledger.request("q", "hash", f"http://x/{KEY}", (1, 1), lambda tokens: None)
        ledger.outcome(Outcome(Kind.ANSWERED, request.key, text=f"a {KEY}", detail=KEY, model=KEY, attempt=1))
    assert (tmp_path / "l").read_text().count(HIDDEN) == 4
    assert_hidden((tmp_path / "l").read_text())


def test_a_schema_that_knows_the_key(play):
    def schema(text):
        raise ValueError("\\".join(["the key is", os.environ[VARIABLE]]))

    run = play("good", schema)
    assert HIDDEN in run.outcome.detail
    assert_hidden(run.shown)


def test_the_libraries_would_log_it(tmp_path, caplog, monkeypatch):
    """That the test above can fail: without the filter the key stands in the log."""
    monkeypatch.setattr("omnivision.endpoint.secret.LogFilter.put", lambda self: None)
    with Server(["echo:400"]) as server, Ledger(tmp_path / "l") as ledger, Client(Endpoint(server.url, "m", key_variable=VARIABLE), ledger) as client:
        client.ask("q", [message("user", "q")])
    assert "sk-Te" in caplog.text


def test_the_filter_goes_when_the_client_does(tmp_path):
    with Ledger(tmp_path / "l") as ledger, Client(Endpoint("http://x/v1", "m", key_variable=VARIABLE), ledger):
        assert all(logging.getLogger(name).filters for name in LOGGERS)
    assert not any(logging.getLogger(name).filters for name in LOGGERS)


def test_every_logger_of_the_libraries_is_known():
    """A new version may have more of them."""
    known = {name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("httpx2", "httpcore2")} - {"httpcore2"}
    assert known and known <= set(LOGGERS)


def test_a_schema_that_quotes_the_answer(play):
    def schema(text):
        raise ValueError(f"bad answer: {text}")

    run = play("echo_answer", schema)
    assert run.outcome.kind is Kind.WRONG_SCHEMA and HIDDEN in run.outcome.detail
    assert_hidden(run.shown)


def test_a_schema_with_a_bug(play):
    run = play("echo_answer", lambda text: {}[text])
    assert isinstance(run.error, KeyError)
    assert_hidden(run.shown)


def test_ctrl_c_inside_the_library(play):
    """The library's frames hold the headers; they do not come out."""
    def interrupt(server):
        def work():
            with server.lock:
                server.lock.wait_for(lambda: server.received, 5)
            threading.Event().wait(0.1)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=work, daemon=True).start()

    run = play("hang", watch=interrupt)
    assert isinstance(run.error, KeyboardInterrupt)
    assert_hidden(run.shown)


def test_a_bug_inside_the_library(play, monkeypatch):
    def broken(self, *args, **kwargs):
        request = self.build_request("POST", "http://x", headers={"Authorization": f"Bearer {KEY}"})
        raw = request.headers.raw
        raise RuntimeError(f"cannot send {raw} {KEY}")

    send = httpx2.Client.stream
    monkeypatch.setattr(httpx2.Client, "stream", lambda self, *a, **k: send(self, *a, **k).__enter__() and broken(self))
    run = play("good")
    assert isinstance(run.error, RuntimeError) and HIDDEN in str(run.error)
    assert_hidden(run.shown)


def test_errors_come_without_the_libraries_behind_them(play):
    error = play("echo:401").error
    assert isinstance(error, OmniError) and error.__cause__ is None and error.__context__ is None


@pytest.mark.parametrize(("value", "said"), [(None, "not set"), ("", "empty"), ("   ", "empty"), ("short", "fewer than 8"),
                                             ("two words here", "blanks"),
                                             ("line\nbreak-in-the-key", "line breaks"), ("schlüssel-mit-umlaut", "ASCII")])
def test_a_variable_that_holds_no_key(tmp_path, monkeypatch, value, said):
    monkeypatch.delenv(VARIABLE) if value is None else monkeypatch.setenv(VARIABLE, value)
    with Ledger(tmp_path / "l") as ledger, pytest.raises(ConfigError, match=f"{VARIABLE}.*{said}") as caught:
        Client(Endpoint("http://x/v1", "m", key_variable=VARIABLE), ledger)
    secret = (value or "").strip()
    frames = [frame for frame in chain(caught.value)]
    assert not secret or not any(f"'{secret}'" in text.split("omnivision/endpoint", 1)[1] for text in frames)


def test_a_line_break_at_the_end_of_the_variable(play, monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY + "\n")
    assert play("good").outcome.kind is Kind.ANSWERED


@pytest.mark.parametrize("address", ["https://user:sk-0123456789@host/v1", "https://sk-0123456789@host/v1", "https://host/v1?api-key=sk-0123456789",
                                     "https://host/v1#sk-0123456789", "https://host:sk-0123456789/v1"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(address):
    with pytest.raises(ConfigError) as caught:
        Endpoint(address, "m")
    assert "0123456789" not in str(caught.value)


def test_a_secret_is_not_copied():
    secret = Secret(VARIABLE)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="key"):
            way(secret)


def test_proxies_of_the_environment_are_not_used(play, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert play("good").outcome.kind is Kind.ANSWERED


def test_proxies_are_used_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Server() as proxy, Ledger(tmp_path / "l") as ledger:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        endpoint = Endpoint("http://elsewhere.invalid/v1", "m", trust_env=True, attempts=1)
        with Client(endpoint, ledger) as client:
            client.ask("q", [message("user", "q")])
        assert proxy.received[0]["path"] == "http://elsewhere.invalid/v1/chat/completions"
