"""What an upstream can do with one request, and what its caller may be told."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.actors import Fault, plays, reply

DRIP_S = 0.15
OK = b"HTTP/1.1 200 OK\r\n"
OWN = b"Content-Length: 2\r\n\r\nok"
EVIL = reply(b"EVIL")
PROTOCOL, TIMEOUT = "upstream_protocol_error", "upstream_timeout"


@dataclass(frozen=True)
class UpstreamFault:
    """`statuses`: what the caller may see, 502 and above with `code`; `broken`: or a 200 that visibly breaks off.

    `counts`: a failure for the breaker. `stands_in`: whether `on_upstream_failure` may answer instead (where the status
    is an outage's); None: if what the caller would see is one. `header`: a response field, byte for byte.
    """

    name: str
    fault: Fault
    statuses: tuple[int, ...]
    code: str = ""
    broken: bool = False
    counts: bool = False
    method: str = "GET"
    size: int = 0
    slow: bool = False
    header: tuple[str, str] | None = None


def garbled(name: str, data: bytes, end: str = "keep") -> UpstreamFault:
    """Not HTTP: 502, and it counts."""
    return UpstreamFault(name, plays(data, end=end), (502,), PROTOCOL, counts=True)


def cut(name: str, *steps: bytes | float, end: str = "fin", slow: bool = False) -> UpstreamFault:
    """A body that breaks off: after a head that went on, or before it did."""
    return UpstreamFault(name, plays(*steps, end=end), (502,), PROTOCOL, broken=True, counts=True, slow=slow)


def passes(name: str, status: int, data: bytes, end: str = "keep", **more: object) -> UpstreamFault:
    """An answer that goes on as it is."""
    return UpstreamFault(name, plays(data, end=end), (status,), **more)


def either(name: str, status: int, data: bytes) -> UpstreamFault:
    """Odd, but not dangerous: as it is, or refused."""
    return UpstreamFault(name, plays(data), (status, 502), PROTOCOL)


FAULTS = [
    passes("a good answer", 200, OK + OWN),
    garbled("FIN", b"", "fin"),
    garbled("RST", b"", "rst"),
    garbled("half a head, then FIN", OK + b"X: ", "fin"),
    garbled("half a head, then RST", OK + b"X: ", "rst"),
    garbled("early hints, then FIN", b"HTTP/1.1 103 Early Hints\r\n\r\n", "fin"),
    garbled("garbage", b"\0\1garbage\r\n\r\n", "fin"),
    garbled("HTTP/0.9", b"hello", "fin"),
    garbled("another protocol", b"SSH-2.0-OpenSSH_9\r\n"),
    garbled("status 99", b"HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n"),
    garbled("status 600", b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"),
    garbled("status 999", b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    garbled("101 unasked", b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw"),
    garbled("two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
    garbled("a negative length", OK + b"Content-Length: -1\r\n\r\nok", "fin"),
    garbled("a length and chunks", OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    garbled("an unknown coding", OK + b"Transfer-Encoding: gzip\r\n\r\nok", "fin"),
    garbled("a bare CR in a value", OK + b"X: a\rSet-Cookie: x=1\r\n" + OWN),
    garbled("NUL in a value", OK + b"X: a\0b\r\n" + OWN),
    garbled("a space in a name", OK + b"X Y: a\r\n" + OWN),
    garbled("a bare CR in the reason", b"HTTP/1.1 200 a\rb\r\n" + OWN),
    either("one length twice", 200, OK + b"Content-Length: 2, 2\r\n\r\nok"),
    either("a head of 250 KB", 200, OK + b"X: " + b"a" * 250_000 + b"\r\n" + OWN),
    either("a location with DEL", 302, b"HTTP/1.1 302 F\r\nLocation: http://\x7f/\r\nContent-Length: 0\r\n\r\n"),
    either(
        "a location of 70 KB", 302, b"HTTP/1.1 302 F\r\nLocation: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n"
    ),
    passes(
        "a location elsewhere",
        302,
        reply(b"", "302 Found", "Location: //evil.test/"),
        header=("location", "//evil.test/"),
    ),
    passes(
        "a location with a space", 302, reply(b"", "302 Found", "Location: /ok path"), header=("location", "/ok path")
    ),
    passes("Latin-1 in a value", 200, OK + b"X: \xe9\r\n" + OWN, header=("x", "\xe9")),
    passes("HTTP/1.0", 200, b"HTTP/1.0 200 OK\r\n\r\nok", "fin"),
    passes("early hints, then an answer", 200, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + OWN),
    passes("a second answer behind", 200, OK + OWN + EVIL),
    passes("HEAD with a body", 200, reply(EVIL), method="HEAD"),
    passes("204 with a body", 204, b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL),
    passes("304 with a body", 304, reply(EVIL, "304 Not Modified")),
    passes("304 with a length", 304, b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 10\r\n\r\n'),
    passes("205", 205, reply(b"", "205 Reset Content")),
    passes("404", 404, reply(b"", "404 Not Found")),
    passes("429", 429, reply(b"", "429 Too Many Requests")),
    passes("500", 500, reply(b"", "500 Oops")),
    passes("502", 502, reply(b"<html>", "502 Bad Gateway"), counts=True),
    passes("503", 503, reply(b"<html>", "503 Service Unavailable"), counts=True),
    passes("504", 504, reply(b"<html>", "504 Gateway Timeout"), counts=True),
    cut("a length not reached", OK + b"Content-Length: 100\r\n\r\nok"),
    cut("a length not reached, RST", OK + b"Content-Length: 100\r\n\r\nok", end="rst"),
    cut("a chunk cut short", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
    cut("no last chunk", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 0.02),
    cut("a bad chunk size", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nZZ\r\n", end="keep"),
    cut("a bad chunk size later", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 0.02, b"ZZ\r\n", end="keep"),
    cut("silence in the body", OK + b"Content-Length: 100\r\n\r\nok", end="hang", slow=True),
    UpstreamFault("silence", plays(end="hang"), (504,), TIMEOUT, counts=True, slow=True),
    UpstreamFault("silence in the head", plays(OK, end="hang"), (504,), TIMEOUT, counts=True, slow=True),
    UpstreamFault(
        "a head by drops",
        plays(OK, *[b"X: a\r\n", DRIP_S] * 12, end="hang"),
        (504,),
        "deadline_exceeded",
        counts=True,
        slow=True,
    ),
    UpstreamFault(
        "endless early hints",
        plays(*[b"HTTP/1.1 103 E\r\n\r\n", DRIP_S] * 12, end="hang"),
        (504,),
        "deadline_exceeded",
        counts=True,
        slow=True,
    ),
    UpstreamFault(
        "an early refusal of a large body",
        plays(reply(b"", "413 Content Too Large", "Connection: close"), end="fin", early=True),
        (413,),
        method="POST",
        size=10_000_000,
    ),
]
