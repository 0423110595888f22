"""The head of a request as it goes out."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError
from gateway.upstream.outgoing import Outgoing, head_of

HOST = (b"host", b"x")


async def nothing():
    return
    yield b""


def test_the_target_goes_out_byte_for_byte_and_fields_in_their_order():
    head = head_of(Outgoing(b"GET", b"/a%2Fb;c?d=%20&e", [HOST, (b"x-b", b"\xe9"), (b"x-a", b""), (b"x-b", b"2")]))
    assert head == b"GET /a%2Fb;c?d=%20&e HTTP/1.1\r\nhost: x\r\nx-b: \xe9\r\nx-a: \r\nx-b: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "length", "framing"),
    [
        (None, None, b""),
        (None, 0, b"content-length: 0\r\n"),
        (b"", None, b"content-length: 0\r\n"),
        (b"abc", None, b"content-length: 3\r\n"),
        (b"abc", 17, b"content-length: 3\r\n"),
        ("iterator", None, b"transfer-encoding: chunked\r\n"),
        ("iterator", 7, b"content-length: 7\r\n"),
    ],
)
def test_framing_is_ours_alone(body, length, framing):
    headers = [
        (b"content-length", b"99"),
        HOST,
        (b"transfer-encoding", b"gzip"),
        (b"expect", b"100-continue"),
        (b"connection", b"close, x"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"keep-alive", b"1"),
    ]
    outgoing = Outgoing(b"POST", b"/", headers, nothing() if body == "iterator" else body, length)
    assert head_of(outgoing) == b"POST / HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n"


def test_head_closes_its_connection():
    head = head_of(Outgoing(b"HEAD", b"/", [HOST]))
    assert head == b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (b"/", (b"x", b"a\r\nb: c")),
        (b"/", (b"x", b"a\nb: c")),
        (b"/", (b"x", b"a\rb: c")),
        (b"/", (b"x", b"a\0b")),
        (b"/", (b"x\r\ny", b"a")),
        (b"/ HTTP/1.1\r\nx: y", (b"x", b"a")),
        (b"/a b", (b"x", b"a")),
        (b"/a\n", (b"x", b"a")),
    ],
)
def test_what_would_end_a_line_early_is_refused(target, header):
    with pytest.raises(GatewayError) as caught:
        head_of(Outgoing(b"GET", target, [HOST, header]))
    assert caught.value.code == "bad_request"
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("method", "body", "replayable"),
    [
        (b"GET", None, True),
        (b"PUT", b"x", True),
        (b"DELETE", None, True),
        (b"POST", b"x", False),
        (b"PATCH", b"x", False),
        (b"PUT", "iterator", False),
    ],
)
def test_what_may_be_sent_twice(method, body, replayable):
    assert Outgoing(method, b"/", [HOST], nothing() if body == "iterator" else body).replayable is replayable
