"""Pictures by URL, against a local server that stands for a public one: nothing leads inside, nothing lasts or grows for ever."""

from __future__ import annotations

import errno
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hostile_images import encoded, jpeg, photo

from omnivision.data.fetch import FetchError, UrlCache, check_url, fetch, is_public
from omnivision.data.image import ImageError, open_image
from omnivision.errors import DataError, ResumableError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> list[bytes]:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}"]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]


def redirect(to: str, status: str = "302 Found") -> list[bytes]:
    return answer(b"elsewhere", f"Location: {to}", status=status)


def drip(*pieces: bytes) -> Iterator[bytes | float]:
    yield from pieces
    while True:
        yield 0.02
        yield b"x"


class Server:
    """Answers each path with pieces of bytes, and pauses; keeps what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable] = {}
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request and request[:1] != b"\x16" and (piece := connection.recv(4096)):
                request += piece
            self.asked.append(request)
            path = request.partition(b" ")[2].partition(b" ")[0].partition(b"?")[0].decode("latin-1")
            try:
                for piece in self.pages.get(path, lambda: answer(b"", status="400 Bad Request"))():
                    time.sleep(piece) if isinstance(piece, float) else connection.sendall(piece)
            except OSError:
                pass  # the client has gone

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def get(server):
    """`fetch` as if the local server were public: pictures.example is its name."""
    def get(path: str, **options) -> bytes:
        url = path if "://" in path else f"http://pictures.example:{server.port}{path}"
        return fetch(url, **{"ports": (server.port,), "allow": lambda address: address == "127.0.0.1",
                             "resolve": lambda host, port: {"pictures.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}[host],
                             "timeout": 5, **options})
    return get


def kind_of(call, *args, **options) -> str:
    with pytest.raises(FetchError) as caught:
        call(*args, **options)
    assert caught.value.exit_code == 3 and caught.value.where and isinstance(caught.value, DataError)
    return caught.value.kind


def test_a_picture_comes(server, get):
    server.pages["/a b.png"] = server.pages["/%C3%BC.png"] = lambda: answer(encoded(photo(), "PNG"))
    server.pages["/a%20b.png"] = server.pages["/a b.png"]
    assert get("/a%20b.png") == get("/ü.png") == get("/a%20b.png?size=1#part") == encoded(photo(), "PNG")
    request = server.asked[2].decode()
    assert request.startswith("GET /a%20b.png?size=1 HTTP/1.1\r\n") and f"Host: pictures.example:{server.port}\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request and "cookie" not in request.lower()


def test_the_name_is_asked_once_and_its_answer_connected_to(server, get):
    """A name server that answers differently the second time (DNS rebinding) is not asked a second time."""
    server.pages["/"] = lambda: answer(b"picture")
    answers = iter([["127.0.0.1"]])
    assert get("/", resolve=lambda host, port: next(answers)) == b"picture"


def test_the_system_is_never_asked_for_a_name_again(server, get, monkeypatch):
    server.pages["/"] = lambda: answer(b"picture")
    real, asked = socket.getaddrinfo, []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: asked.append(host) or real(host, *rest, **options))
    get("/")
    assert asked == ["127.0.0.1"]  # a literal


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["::1"], ["nonsense"]], ids=str)
def test_one_address_inside_is_enough(server, get, addresses):
    assert kind_of(get, "/", resolve=lambda host, port: addresses) == "address"
    assert not server.asked


def test_the_next_address_is_tried(server, get):
    server.pages["/"] = lambda: answer(b"picture")
    assert get("/", resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"], allow=lambda address: True) == b"picture"


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:7f00:1",
    "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:53aa:64c::1", "2001:db8::1",
    "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0",
    "fec0::1", "ff02::1", "ff0e::1"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: pytest.fail("connected"))
    assert not is_public(address)
    assert kind_of(fetch, "http://name.example/", resolve=lambda host, port: [address]) == "address"
    literal = f"[{address.replace('%', '%25')}]" if ":" in address else address
    assert kind_of(fetch, f"http://{literal}/") in ("address", "url")


@pytest.mark.parametrize("address", [
    "8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1"])
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("host", [
    "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "0", "00", "0x", "1.2.3.08", "010.8.8.8", "8.8.8.8.",
    "134744072", "0x08080808", "127.0.0.0x1", "256.1.1.1", "1.2.3.4.5", "name.0x1", "name.99"])
def test_odd_spellings_of_addresses(host):
    assert kind_of(fetch, f"http://{host}/a.png", resolve=lambda *args: pytest.fail("looked up")) == "url"


@pytest.mark.parametrize("host", ["１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1"])
def test_addresses_in_other_digits(host):
    assert kind_of(fetch, f"http://{host}/") in ("address", "url")


@pytest.mark.parametrize("url", [
    "ftp://a.example/x", "file:///etc/passwd", "gopher://a.example/", "data:image/png;base64,aa", "//a.example/x", "a.example/x", "",
    "http://", "http:///x", "https:a.example", "http://user@a.example/", "http://user:secret@a.example/", "http://:@a.example/",
    "http://a.example:22/", "http://a.example:8080/", "http://a.example:0/", "http://a.example:99999/", "http://a.example:port/",
    "http://a.example/\r\nHost: b", "http://a.example/\tx", " http://a.example/", "http://a.example /", "http://a.example\\@b.example/",
    "http://a.example/\0", "http://[::1", "http://[zz]/", "http://" + "a" * 64 + ".example/", "http://a..example/",
    "http://a.example/" + "x" * 9000, "http://a%2eexample/", "http://*.example/"])
def test_links_that_cannot_be_used(url):
    with pytest.raises(FetchError) as caught:
        fetch(url, resolve=lambda *args: pytest.fail("looked up"))
    assert caught.value.kind == "url" and "secret" not in str(caught.value) and len(str(caught.value)) < 1000


def test_usual_ports_only():
    assert check_url("http://a.example").port == check_url("http://a.example:80").port == 80
    assert check_url("https://a.example").port == check_url("http://a.example:443").port == 443
    assert check_url("http://a.example:8080", (8080,)).port == 8080


def test_redirects(server, get):
    server.pages["/end"] = lambda: answer(b"picture")
    for number, status in enumerate(("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent")):
        server.pages[f"/{number}"] = lambda status=status: redirect("/end", status)
        assert get(f"/{number}") == b"picture"
    for number in range(3):
        server.pages[f"/hop{number}"] = lambda number=number: redirect(f"hop{number + 1}")
    server.pages["/hop3"] = lambda: answer(b"picture")
    assert get("/hop0") == b"picture"


def test_redirects_for_ever(server, get):
    server.pages["/loop"] = lambda: redirect("/loop")
    assert kind_of(get, "/loop") == "redirect" and len(server.asked) == 4


@pytest.mark.parametrize(("to", "kind"), [
    ("http://inside.example:{port}/", "address"), ("http://10.0.0.1:{port}/", "address"), ("http://[::1]:{port}/", "address"),
    ("//169.254.169.254:{port}/x", "address"), ("http://2130706433:{port}/", "url"), ("file:///etc/passwd", "url"),
    ("http://pictures.example:22/", "url"), ("http://user:pw@pictures.example:{port}/", "url"), ("ftp://pictures.example/", "url"),
    ("/a b", "url")])
def test_every_hop_is_checked_like_the_first(server, get, to, kind):
    server.pages["/"] = lambda: redirect(to.format(port=server.port))
    assert kind_of(get, "/") == kind and len(server.asked) == 1


class PlainContext:
    """TLS that is none, to see what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def wrap_socket(self, sock, server_hostname):
        self.names.append(server_hostname)
        return sock


def test_tls_is_told_the_name_and_not_the_address(server, get):
    server.pages["/"] = lambda: answer(b"picture")
    context = PlainContext()
    assert get(f"https://pictures.example:{server.port}/", context=context) == b"picture" and context.names == ["pictures.example"]


def test_https_may_not_become_http(server, get):
    server.pages["/"] = lambda: redirect(f"http://pictures.example:{server.port}/end")
    server.pages["/end"] = lambda: answer(b"picture")
    assert kind_of(get, f"https://pictures.example:{server.port}/", context=PlainContext()) == "redirect" and len(server.asked) == 1
    assert get("/") == b"picture"


def test_tls_is_real_by_default(server, get):
    server.pages["/"] = lambda: answer(b"picture")
    assert kind_of(get, f"https://pictures.example:{server.port}/") == "network"


@pytest.mark.parametrize("status", [
    "204 No Content", "206 Partial Content", "304 Not Modified", "403 Forbidden", "404 Not Found", "500 Oops", "302 Found"])
def test_other_answers(server, get, status):
    server.pages["/"] = lambda: answer(b"text", status=status)
    assert kind_of(get, "/") == "status"


def many(piece: bytes, times: int) -> Iterator[bytes]:
    for _ in range(times):
        yield piece


CHUNK = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"
TOO_MUCH = {
    "announced": lambda: answer(b"", length=10**12),
    "announced and sent": lambda: answer(bytes(3000)),
    "not announced": lambda: [HEAD + b"\r\n", *many(bytes(1000), 100)],
    "in chunks": lambda: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *many(CHUNK, 200)],
    "in chunks, announced short": lambda: [HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", *many(CHUNK, 200)],
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much(server, get, name):
    server.pages["/"] = TOO_MUCH[name]
    assert kind_of(get, "/", max_bytes=2000) == "too_large"


def test_as_much_as_is_allowed(server, get):
    server.pages["/"] = lambda: answer(bytes(2000))
    server.pages["/open"] = lambda: [HEAD + b"\r\n" + bytes(2000)]
    assert get("/", max_bytes=2000) == get("/open", max_bytes=2000) == bytes(2000)


def test_a_body_shorter_than_announced(server, get):
    server.pages["/"] = lambda: answer(b"half", length=8)
    server.pages["/chunks"] = lambda: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\nhalf"]
    assert kind_of(get, "/") == kind_of(get, "/chunks") == "network"


def test_a_body_longer_than_announced_is_cut(server, get):
    server.pages["/"] = lambda: answer(b"picture and more", length=7)
    assert get("/") == b"picture"


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip", "zstd", "x"])
def test_packed_bodies(server, get, coding):
    server.pages["/"] = lambda: answer(b"x", f"Content-Encoding: {coding}")
    assert kind_of(get, "/") == "encoding"
    server.pages["/"] = lambda: answer(b"x", "Content-Encoding: identity")
    assert get("/") == b"x"


SLOW = {
    "says nothing": lambda: [30.0],
    "drips its status": lambda: drip(b"HTTP/1.1 200 "),
    "drips headers": lambda: drip(HEAD + b"X: "),
    "drips the body": lambda: drip(HEAD + b"Content-Length: 100000\r\n\r\n"),
    "drips without an end": lambda: drip(HEAD + b"\r\n"),
    "drips chunks": lambda: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[0.02, b"1\r\nx\r\n"] * 1000],
    "sends 100 Continue for ever": lambda: (piece for _ in range(1000) for piece in (0.02, b"HTTP/1.1 100 Continue\r\n\r\n")),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.timeout(20)
def test_slow_servers(server, get, name):
    server.pages["/"] = SLOW[name]
    start = time.monotonic()
    assert kind_of(get, "/", timeout=0.4) == "timeout"
    assert time.monotonic() - start < 2


@pytest.mark.timeout(20)
def test_the_clock_runs_over_redirects_and_look_ups(server, get):
    server.pages["/"] = lambda: [0.25, *redirect("/")]
    assert kind_of(get, "/", timeout=0.6) == "timeout"
    start = time.monotonic()
    assert kind_of(get, "/", timeout=0.2, resolve=lambda host, port: time.sleep(3) or ["127.0.0.1"]) == "timeout"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("content", [
    b"", b"no http at all\r\n\r\n", b"HTTP/1.1 two OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=["nothing", "text", "status", "headers", "line", "chunk"])
def test_servers_against_the_rules(server, get, content):
    server.pages["/"] = lambda: [content]
    assert kind_of(get, "/") == "network"


def test_nobody_there(server, get):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert kind_of(get, f"http://pictures.example:{port}/", ports=(port,)) == "network"
    assert kind_of(get, f"http://unknown.example:{server.port}/") == "network"
    assert kind_of(get, "/", resolve=lambda host, port: []) == "network"


def test_the_environments_proxy_is_not_used(server, get, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.pages["/"] = lambda: answer(b"picture")
    assert get("/") == b"picture"


class Linked:
    """A picture by URL, as a row has it."""

    def __init__(self, cache: UrlCache, url: str) -> None:
        self.cache, self.url = cache, url

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        return self.cache.get(self.url)


def test_a_second_run_fetches_nothing(server, get, tmp_path):
    server.pages["/a.png"] = lambda: answer(encoded(photo(), "PNG"))
    options = {"ports": (server.port,), "allow": lambda address: True, "resolve": lambda host, port: ["127.0.0.1"]}
    url = f"http://pictures.example:{server.port}/a.png"
    for _ in range(2):
        picture = open_image(Linked(UrlCache(tmp_path, **options), url))
        assert np.array_equal(np.asarray(picture), photo())
    server.close()
    assert UrlCache(tmp_path).get(url) == encoded(photo(), "PNG") and len(server.asked) == 1
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [""]  # nothing is left aside


def test_a_page_in_a_pictures_place_is_not_kept(server, tmp_path):
    cache = UrlCache(tmp_path, ports=(server.port,), allow=lambda address: True, resolve=lambda host, port: ["127.0.0.1"])
    url = f"http://pictures.example:{server.port}/a.png"
    server.pages["/a.png"] = lambda: answer(b"<html>Try again in a minute</html>")
    with pytest.raises(ImageError) as caught:
        open_image(Linked(cache, url))
    assert caught.value.kind == "format" and not [path for path in tmp_path.rglob("*") if path.is_file()]
    server.pages["/a.png"] = lambda: answer(encoded(photo(), "PNG"))
    assert np.array_equal(np.asarray(open_image(Linked(cache, url))), photo())


def test_what_fails_is_not_kept_and_named_by_its_link(server, tmp_path):
    cache = UrlCache(tmp_path, ports=(server.port,), allow=lambda address: True, resolve=lambda host, port: ["127.0.0.1"])
    url = f"http://pictures.example:{server.port}/a.jpg"
    server.pages["/a.jpg"] = lambda: answer(jpeg()[:99], length=9999)
    assert kind_of(open_image, Linked(cache, url)) == "network" and not list(tmp_path.rglob("*"))
    server.pages["/a.jpg"] = lambda: answer(jpeg()[:400])
    with pytest.raises(ImageError, match="pictures.example") as caught:
        open_image(Linked(cache, url))
    assert caught.value.kind == "truncated"


def test_half_a_picture_is_not_kept(server, tmp_path):
    """A connection without a length that breaks off looks like a short file."""
    cache = UrlCache(tmp_path, ports=(server.port,), allow=lambda address: True, resolve=lambda host, port: ["127.0.0.1"])
    url, whole = f"http://pictures.example:{server.port}/a.jpg", encoded(photo(), "JPEG")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"
    server.pages["/a.jpg"] = lambda: [head + whole[: len(whole) // 2]]
    with pytest.raises(ImageError, match="cut short"):
        open_image(Linked(cache, url))
    server.pages["/a.jpg"] = lambda: [head + whole]
    assert open_image(Linked(cache, url)).size == photo().shape[1::-1] and len(server.asked) == 2


def test_a_full_disk_is_no_fault_of_the_picture(server, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("omnivision.data.fetch.write_whole", full)
    server.pages["/a.png"] = lambda: answer(encoded(photo(), "PNG"))
    cache = UrlCache(tmp_path, ports=(server.port,), allow=lambda address: True, resolve=lambda host, port: ["127.0.0.1"])
    with pytest.raises(ResumableError, match="cannot be kept: No space left"):
        open_image(Linked(cache, f"http://pictures.example:{server.port}/a.png"))


def test_the_kind_survives_a_pool():
    error = pickle.loads(pickle.dumps(FetchError("x", "http://a.example", kind="address")))
    assert error.kind == "address" and error.where == "http://a.example"


def test_a_link_is_no_file(monkeypatch):
    """Off by default: the door for pictures does not know the network."""
    monkeypatch.setattr(socket, "socket", lambda *args, **options: pytest.fail("a socket"))
    with pytest.raises(ImageError) as caught:
        open_image("http://pictures.example/a.png")
    assert caught.value.kind == "missing"
