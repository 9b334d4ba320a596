"""A chat endpoint on this machine that misbehaves, by a script or at random from a seed, and what the tests of it share."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DRIP = 0.02  # seconds between two bytes
QUICK = {"backoff": 0.001, "timeout": 5.0, "attempts": 4}  # settings of a client that loses no time


def completion(text: str | None = "yes", finish: str = "stop", **message) -> dict:
    """A chat completion as OpenAI's server gives it."""
    return {"id": "chat-1", "object": "chat.completion", "model": "teacher-2024-01-01",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}}


class Server(ThreadingHTTPServer):
    """Serves in threads of its own between `with` and its end.

    Args:
        choose: names the behaviour for a question (its last message's text) and the number of the request, from 0;
            a list is a script, after which all is well. port: of an earlier server; 0 takes a new one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, choose: Callable[[str, int], str] | list[str] = (), port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        script = None if callable(choose) else deque(choose)
        self.choose = choose if script is None else lambda question, number: script.popleft() if script else "good"
        self.lock = threading.Condition()
        self.received: list[dict] = []  # headers and body of each request
        self.times: list[float] = []
        self.usable: Counter = Counter()  # by question: good answers that were sent
        self.under_way = self.most_under_way = 0
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """The base_url of a client."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that is gone is part of the play."""


class Handler(BaseHTTPRequestHandler):
    """One request; every behaviour is a method `do_as_...`, its name a word of the script."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        """Reads, counts, behaves."""
        server = self.server
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = self.body["messages"][-1]["content"]
        self.question = content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")
        with server.lock:
            number = len(server.received)
            server.received.append({"headers": dict(self.headers), "body": self.body, "path": self.path})
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            server.lock.notify_all()
        self.counted = True
        self.close_connection = True
        name, _, argument = server.choose(self.question, number).partition(":")
        try:
            getattr(self, "do_as_" + name)(*([argument] if argument else []))
        except OSError:  # the client has gone
            self.leave()

    def leave(self) -> None:
        """The client may know from here on that the answer is complete: no longer under way."""
        if self.counted:
            self.counted = False
            with self.server.lock:
                self.server.under_way -= 1

    def finish(self) -> None:
        """After the behaviour."""
        try:
            super().finish()
        except OSError:
            pass
        finally:
            if getattr(self, "counted", False):
                self.leave()

    def reply(self, status: int, body: bytes | dict | str, length: int | None = None, **headers) -> None:
        """A response; `length` announces another one than the body has."""
        body = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer = []
        self.leave()  # before the last byte: the client's next request may be here before this thread goes on
        self.connection.sendall(head + body)

    def do_as_good(self, text: str = "") -> None:
        """What an endpoint should do; the question's own text comes back."""
        with self.server.lock:
            self.server.usable[self.question] += 1  # before the last byte: whoever has it may look at once
        self.reply(200, completion(text or f"re: {self.question}"))

    def do_as_late(self, seconds: str = "0.3") -> None:
        """Well, but after a while."""
        self.server.stopping.wait(float(seconds))
        self.do_as_good()

    def do_as_status(self, status: str) -> None:
        """An error as OpenAI's server gives it."""
        self.reply(int(status), {"error": {"message": f"about {status}", "type": "test", "code": None}})

    def do_as_quota(self) -> None:
        """429 that no waiting helps against."""
        self.reply(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})

    def do_as_retry_after(self, value: str) -> None:
        """429 with Retry-After as given."""
        self.reply(429, {"error": {"message": "slow down"}}, Retry_After=value)

    def do_as_retry_at(self, seconds: str) -> None:
        """429 with a Retry-After date so many seconds ahead."""
        self.reply(429, {"error": {"message": "slow down"}}, Retry_After=formatdate(time.time() + float(seconds), usegmt=True))

    def do_as_reset(self) -> None:
        """Reads the request, then resets the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()
        os.close(self.connection.detach())  # close() would wait for rfile and wfile, and end in an orderly way

    def do_as_hang_up(self) -> None:
        """Closes without a word."""

    def do_as_reset_midway(self) -> None:
        """Resets after half of the body."""
        self.reply(200, b'{"id": "chat-1", "choi', length=1000)
        time.sleep(0.01)  # else the reset may overtake the bytes
        self.do_as_reset()

    def do_as_hang(self) -> None:
        """Never answers."""
        self.server.stopping.wait(30)

    def do_as_drip(self) -> None:
        """A good answer, byte by byte."""
        self._drip(json.dumps(completion("drip " * 500)).encode(), b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")

    def do_as_drip_error(self) -> None:
        """A 400 whose message comes byte by byte."""
        self._drip(b"x" * 1000, b"HTTP/1.1 400 No\r\n\r\n")

    def do_as_drip_echo(self) -> None:
        """A 400 that begins with half of the Authorization header."""
        self._drip(b"x" * 1000, f"HTTP/1.1 400 No\r\n\r\n{self.headers['Authorization'][:15]}".encode())

    def do_as_drip_headers(self) -> None:
        """Headers that never end, byte by byte."""
        self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: 1\r\n" * 1000)

    def _drip(self, content: bytes, at_once: bytes = b"") -> None:
        self.connection.sendall(at_once)
        for byte in content:
            self.connection.sendall(bytes([byte]))
            if self.server.stopping.wait(DRIP):
                return

    def do_as_short_body(self) -> None:
        """Fewer bytes than announced."""
        self.reply(200, json.dumps(completion())[:80], length=1000)

    def do_as_truncated(self) -> None:
        """JSON that ends too early, in a whole body."""
        self.reply(200, json.dumps(completion())[:80])

    def do_as_raw(self, text: str) -> None:
        """200 with this body."""
        self.reply(200, text)

    def do_as_nothing(self) -> None:
        """200 with an empty body."""
        self.reply(200, b"")

    def do_as_not_utf8(self) -> None:
        """200 with bytes that are no text."""
        self.reply(200, b'{"choices": "\xff\xfe"}')

    def do_as_surrogate(self) -> None:
        """Half a surrogate pair in the answer."""
        self.reply(200, json.dumps(completion("a\ud83db")))

    def do_as_huge(self, size: str = "3000000") -> None:
        """A body that is longer than anybody wants."""
        self.reply(200, completion("x" * int(size)))

    def do_as_endless(self) -> None:
        """A body without an end, as quick as can be."""
        self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.server.stopping.is_set():
            self.connection.sendall(b"x" * 65536)

    def do_as_empty(self) -> None:
        """A completion without text."""
        self.reply(200, completion(""))

    def do_as_null(self) -> None:
        """A completion whose content is null."""
        self.reply(200, completion(None))

    def do_as_refusal(self) -> None:
        """message.refusal, as structured outputs have it."""
        self.reply(200, completion(None, refusal="I cannot help with that"))

    def do_as_filtered(self) -> None:
        """finish_reason content_filter."""
        self.reply(200, completion("", finish="content_filter"))

    def do_as_length(self) -> None:
        """finish_reason length."""
        self.reply(200, completion("half an ans", finish="length"))

    def do_as_thoughts(self, finish: str = "length") -> None:
        """Thoughts, and no answer yet."""
        self.reply(200, completion(None, finish=finish, reasoning_content="Let me look at"))

    def do_as_newer(self, text: str = "yes") -> None:
        """A service that has renamed max_tokens, with OpenAI's words."""
        if "max_tokens" in self.body:
            self.reply(400, {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}})
        else:
            self.do_as_good(text)

    def do_as_error_inside(self) -> None:
        """An error with status 200."""
        self.reply(200, {"error": {"message": "the provider is busy", "code": 502}})

    def do_as_uncounted(self) -> None:
        """A good answer without usage."""
        body = completion()
        del body["usage"]
        self.reply(200, body)

    def do_as_redirect(self) -> None:
        """To a place that would be glad of the key."""
        self.reply(307, b"", Location=self.server.url + "/elsewhere")

    def do_as_echo(self, status: str) -> None:
        """The Authorization header in an error's message, in headers and in the reason."""
        secret = self.headers["Authorization"]
        self.send_response(int(status), f"No {secret}")
        body = json.dumps({"error": {"message": f"you sent {secret}, that is {secret}"}}).replace("/", "\\/").encode()
        for name, value in (("X-Echo", secret), ("Location", f"/x?key={secret}"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_as_echo_answer(self) -> None:
        """The Authorization header inside a good answer."""
        self.reply(200, completion(f"your key is {self.headers['Authorization']}"))

    def do_as_echo_escaped(self) -> None:
        """The same with every letter as JSON may spell it."""
        spelt = "".join(f"\\u{ord(one):04X}" for one in self.headers["Authorization"])
        self.reply(200, json.dumps(completion("KEY")).replace("KEY", spelt))

    def do_as_echo_raw(self) -> None:
        """The Authorization header in a body that is no JSON."""
        self.reply(200, f"<html>{self.headers['Authorization']}</html>")

    def do_as_echo_reset(self) -> None:
        """The Authorization header in half a body."""
        self.reply(200, f'{{"error": "{self.headers["Authorization"]}', length=1000)


def at_random(seed: int, chances: dict[str, float]) -> Callable[[str, int], str]:
    """A behaviour for each request by chance, the same for the same seed and order; what is left of the chances is good."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def choose(question: str, number: int) -> str:
        with lock:
            roll = dice.random()
        for name, chance in chances.items():
            roll -= chance
            if roll < 0:
                return name
        return "good"

    return choose


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now, self.slept = 1000.0, []
        self.lock = threading.Lock()

    def clock(self):
        return self.now

    def sleep(self, seconds):
        with self.lock:
            self.slept.append(seconds)
            self.now += seconds


def question(text: str) -> list[dict]:
    """Messages that ask it."""
    return [{"role": "user", "content": text}]


def wait_for(condition: Callable[[], object], seconds: float = 5) -> None:
    """Returns when the condition has come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)
