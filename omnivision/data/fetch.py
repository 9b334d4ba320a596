"""Pictures by URL: public addresses only, bounded in size and time. Nothing here is called unless a user asks for it.

A name is resolved once and the address that was checked is the one connected to, so that no second answer of the name
server can lead inside. The standard library's client serves: it reads no proxy from the environment, keeps no cookies, follows
no redirects and unpacks nothing by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import ipaddress
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from omnivision.data.image import ImageError, decode
from omnivision.data.resized import write_whole
from omnivision.errors import ResumableError

MAX_BYTES, TIMEOUT, MAX_REDIRECTS, MAX_URL = 20_000_000, 20.0, 3, 8000
PIECE = 1 << 16  # bytes read at once
REDIRECTS = (301, 302, 303, 307, 308)
# IANA's special-purpose registries (2025). Python's `is_global` changed between patch releases, so the lists stand here.
NOT_PUBLIC_4 = [ipaddress.ip_network(net) for net in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32")]  # the last: a cloud's own control service on an address that looks public
# Of IPv6 only what is handed out to hosts counts. Forms that carry an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) lie
# outside of it or are named here.
PUBLIC_6 = ipaddress.ip_network("2000::/3")
NOT_PUBLIC_6 = [ipaddress.ip_network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]


class FetchError(ImageError):
    """A picture that could not be fetched.

    Args:
        kind: url, address, redirect, status, encoding, too_large, timeout or network.
    """

    kind, advice = "network", "Check the link, or download the picture and name the file."

    def __init__(self, what: str, where: str = "", remedy: str = "", kind: str = "network") -> None:
        super().__init__(what, where[:300], remedy)
        self.kind = kind

    def __reduce__(self):
        return type(self), (self.what, self.where, self.remedy, self.kind)


class Target(NamedTuple):
    """A checked URL in parts."""

    url: str
    secure: bool
    host: str  # as ASCII
    port: int
    path: str  # with the query


class Rules(NamedTuple):
    """What may be connected to, and how names are looked up; tests let a local server stand for a public one."""

    allow: Callable[[str], bool]
    resolve: Callable[[str, int], Sequence[str]]
    ports: Collection[int]
    context: ssl.SSLContext | None


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: no private, local, shared, multicast, reserved or embedding one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.version == 4:
        return not any(ip in net for net in NOT_PUBLIC_4)
    return "%" not in address and ip in PUBLIC_6 and not any(ip in net for net in NOT_PUBLIC_6)


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def fetch(url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT, ports: Collection[int] = (80, 443),
          allow: Callable[[str], bool] = is_public, resolve: Callable[[str, int], Sequence[str]] = look_up,
          context: ssl.SSLContext | None = None) -> bytes:
    """The bytes behind a URL.

    Args:
        url: http or https, without credentials. At most three redirects are followed; each is checked like the first, and
            none may lead from https to http.
        max_bytes: of the body, counted while it comes in, whatever its headers say.
        timeout: seconds for everything together: look-up, connections, redirects and a server that drips.
        ports: that may be connected to.
        allow: whether an address may be connected to. resolve: addresses of a name. context: TLS settings (the system's).

    Raises:
        FetchError: with its `kind`: url, address, redirect, status, encoding, too_large, timeout or network.
    """
    rules, deadline, here = Rules(allow, resolve, ports, context), time.monotonic() + timeout, check_url(url, ports)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            body, location = _get(here, rules, deadline, max_bytes)
            if location is None:
                return body
            there = check_url(urljoin(here.url, location), ports)
            if here.secure and not there.secure:
                raise FetchError("The link leads from https to http", here.url, kind="redirect")
            here = there
        raise FetchError(f"The link leads on more than {MAX_REDIRECTS} times", here.url, kind="redirect")
    except TimeoutError as error:
        raise FetchError(f"The picture did not arrive within {timeout:g} seconds", here.url, kind="timeout") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: headers against the rules
        raise FetchError(f"The picture cannot be fetched: {_said(error)}", here.url) from error


def check_url(url: str, ports: Collection[int] = (80, 443)) -> Target:
    """A URL in parts.

    Raises:
        FetchError: kind url: another scheme, credentials, a forbidden port, control characters, or an address in an odd
            spelling (2130706433, 0177.1, 0x7f.0.0.1), which systems read in different ways.
    """
    shown = re.sub(r"//[^/?#]*@", "//", url)[:300]  # never a password in a message
    try:
        if len(url) > MAX_URL or re.search(r"[\x00-\x20\x7f\\]", url):
            raise ValueError("it is too long, or holds a space, a backslash or a control character")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it is no http or https link to a host")
        if "@" in parts.netloc:
            raise ValueError("it holds a user name or password")
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
        if port not in ports:
            raise ValueError(f"its port is {port}; allowed are {', '.join(map(str, ports))}")
        _check_host(host)
    except ValueError as error:
        raise FetchError(f"The link cannot be used: {error}", shown, "Give a plain http or https link.", kind="url") from error
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._')}" if parts.query else "")
    return Target(url.partition("#")[0], parts.scheme == "https", host, port, path)


def _check_host(host: str) -> None:
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif re.fullmatch(r"0[xX][0-9a-fA-F]*|[0-9]+", host.rstrip(".").rpartition(".")[2]):  # it ends in a number
        ipaddress.IPv4Address(host)  # four decimal numbers without leading zeros, or a ValueError
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError(f"{host!r} is no host name")


def _get(target: Target, rules: Rules, deadline: float, max_bytes: int) -> tuple[bytes, str | None]:
    """The body, or where to go on."""
    sock = _connect(target, rules, deadline)
    try:
        if target.secure:
            sock.settimeout(_left(deadline))
            sock = (rules.context or ssl.create_default_context()).wrap_socket(sock, server_hostname=target.host)
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.auto_open, connection.sock = 0, _Wire(sock, deadline)
        connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
        name = f"[{target.host}]" if ":" in target.host else target.host
        usual = target.port == (443 if target.secure else 80)
        for header, value in (("Host", name if usual else f"{name}:{target.port}"), ("User-Agent", "omnivision"), ("Accept", "image/*"),
                              ("Accept-Encoding", "identity"), ("Connection", "close")):
            connection.putheader(header, value)
        connection.endheaders()
        response = connection.getresponse()
        if response.status in REDIRECTS and response.headers.get("Location"):
            return b"", response.headers["Location"]
        return _body(response, target, max_bytes), None
    finally:
        sock.close()


def _connect(target: Target, rules: Rules, deadline: float) -> socket.socket:
    addresses = _addresses(target, rules, deadline)
    if not all(map(rules.allow, addresses)):  # one that leads inside is enough: no honest name has both
        raise FetchError(f"The link leads to {', '.join(addresses)}, not only to public addresses", target.url,
                         "Give a link to a public server, or download the picture and name the file.", kind="address")
    failure: OSError = OSError(f"{target.host} has no address")
    for number, address in enumerate(addresses):
        try:  # a dead address leaves time for the others
            return socket.create_connection((address, target.port), timeout=_left(deadline) / (len(addresses) - number))
        except OSError as error:  # an IPv6 address on a machine without IPv6, for example
            failure = error
    raise failure


def _addresses(target: Target, rules: Rules, deadline: float) -> list[str]:
    try:
        return [str(ipaddress.ip_address(target.host))]
    except ValueError:
        pass
    answers: queue.Queue = queue.Queue()

    def ask() -> None:
        try:
            answers.put(list(dict.fromkeys(rules.resolve(target.host, target.port))))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # the system's look-up knows no time limit
    try:
        found = answers.get(timeout=_left(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise OSError(f"{target.host} cannot be looked up ({_said(found)})") from found
    return found


def _body(response: http.client.HTTPResponse, target: Target, max_bytes: int) -> bytes:
    if response.status != 200:
        raise FetchError(f"The server answers {response.status} {response.reason}", target.url, kind="status")
    coding = response.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise FetchError(f"The server packs the picture as {coding[:40]!r}, which was not asked for", target.url, kind="encoding")
    announced, pieces, size = response.length, [], 0  # None where the server does not say, or sends chunks
    while size <= max_bytes and (announced or 0) <= max_bytes and (piece := response.read(PIECE)):
        pieces.append(piece)
        size += len(piece)
    if max(size, announced or 0) > max_bytes:
        raise FetchError(f"The picture is too large: the limit is {max_bytes:,} bytes", target.url, kind="too_large")
    if announced is not None and size < announced:
        raise OSError(f"the connection ended after {size:,} of {announced:,} bytes")
    return b"".join(pieces)


class _Wire(io.RawIOBase):
    """A socket of which every operation counts against one deadline: a server that drips cannot start the clock anew."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self._sock.settimeout(_left(self._deadline))
        return self._sock.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Wire(self._sock, self._deadline), PIECE)  # its own: the client closes its socket early


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


class UrlCache:
    """Pictures by URL, kept on disk: a second run fetches nothing. What could not be fetched is tried again.

    Args:
        folder: where they are kept (created), by the hash of their URL.
        options: of `fetch`.
    """

    def __init__(self, folder: str | os.PathLike, **options) -> None:
        self.folder, self.options = Path(folder), options

    def get(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            FetchError: they cannot be had. ResumableError: they cannot be kept, on a full disk say.
        """
        name = hashlib.sha256(url.encode()).hexdigest()
        path = self.folder / name[:2] / name[2:]
        try:
            return path.read_bytes()
        except FileNotFoundError:
            data = fetch(url, **self.options)
            with contextlib.suppress(ImageError):  # a page in a picture's place, or half of one, is not kept: another day the picture may be there
                decode(data, url, animated="first")
                try:
                    write_whole(path, data)
                except OSError as error:
                    raise ResumableError(f"A fetched picture cannot be kept: {_said(error)}", str(path), "Make room, then start the same command again.") from error
            return data
