"""Bytes on a connection, and what may come of them: a table of what clients send to mislead two parsers."""

from __future__ import annotations

import pytest
from listener_harness import MiniGateway, served

from gateway.model.settings import ServerSettings

pytestmark = pytest.mark.hazard
H = b"Host: gateway.test\r\nAuthorization: Bearer allow\r\n"
GET = b"GET /inventory/a HTTP/1.1\r\n"
POST = b"POST /inventory/a HTTP/1.1\r\n"
SMUGGLED = b"GET /inventory/smuggled HTTP/1.1\r\n" + H + b"\r\n"

REFUSED = {
    "no version": b"GET /inventory/a\r\n" + H + b"\r\n",
    "version 2.0": b"GET /inventory/a HTTP/2.0\r\n" + H + b"\r\n",
    "version 1.2": b"GET /inventory/a HTTP/1.2\r\n" + H + b"\r\n",
    "version 0.9": b"GET /inventory/a HTTP/0.9\r\n" + H + b"\r\n",
    "another protocol": b"GET /inventory/a RTSP/1.0\r\n" + H + b"\r\n",
    "h2c preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tabs in the request line": b"GET\t/inventory/a\tHTTP/1.1\r\n" + H + b"\r\n",
    "space after the version": b"GET /inventory/a HTTP/1.1 \r\n" + H + b"\r\n",
    "two spaces": b"GET  /inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "lower-case method": b"get /inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "unknown method": b"FOO /inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "CONNECT with a path": b"CONNECT /inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + H + b"\r\nSSH-2.0\r\n",
    "asterisk with GET": b"GET * HTTP/1.1\r\n" + H + b"\r\n",
    "no slash": b"GET inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "foreign authority": b"GET http://evil.test/inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "userinfo authority": b"GET http://gateway.test@evil.test/inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "other scheme": b"GET https://gateway.test/inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "absolute form without a path": b"GET http://gateway.test?/inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "no Host": GET + b"Authorization: Bearer allow\r\n\r\n",
    "two Hosts": GET + H + b"Host: evil.test\r\n\r\n",
    "empty Host": GET + b"Host:\r\nAuthorization: Bearer allow\r\n\r\n",
    "Host with a path": GET + H.replace(b"gateway.test", b"gateway.test/open/x?") + b"\r\n",
    "Host with userinfo": GET + H.replace(b"gateway.test", b"a@gateway.test") + b"\r\n",
    "Host list": GET + H.replace(b"gateway.test", b"gateway.test, evil.test") + b"\r\n",
    "Host with a bad port": GET + H.replace(b"gateway.test", b"gateway.test:8o") + b"\r\n",
    "two credentials": GET + H + b"Authorization: Bearer deny\r\n\r\n",
    "Connection names the credential": GET + H + b"Connection: close, Authorization\r\n\r\n",
    "Connection names the chain": GET + H + b"Connection: X-Forwarded-For\r\n\r\n",
    "Connection names Host in a second field": GET + H + b"Connection: close\r\nConnection: host\r\n\r\n",
    "length and chunked": POST + H + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + H + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same length twice": POST + H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length list": POST + H + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": POST + H + b"Content-Length: +5\r\n\r\nhello",
    "negative length": POST + H + b"Content-Length: -5\r\n\r\nhello",
    "hexadecimal length": POST + H + b"Content-Length: 0x5\r\n\r\nhello",
    "underscored length": POST + H + b"Content-Length: 1_0\r\n\r\nhellohello",
    "huge length": POST + H + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "long length": POST + H + b"Content-Length: " + b"0" * 30 + b"5\r\n\r\nhello",
    "arabic length": POST + H + b"Content-Length: \xd9\xa5\r\n\r\nhello",
    "empty length": POST + H + b"Content-Length:\r\n\r\n",
    "length with a vertical tab": POST + H + b"Content-Length: 5\x0b\r\n\r\nhello",
    "unknown coding": POST + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": POST + H + b"Transfer-Encoding: identity\r\n\r\n",
    "gzip, chunked": POST + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": POST + H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "empty element": POST + H + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "quoted chunked": POST + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a parameter": POST + H + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "empty coding": POST + H + b"Transfer-Encoding:\r\n\r\n",
    "folded coding": POST + H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": POST.replace(b"1.1", b"1.0") + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": GET + H + b"X : a\r\n\r\n",
    "folded field": GET + H + b"X: a\r\n b\r\n\r\n",
    "space before the first field": GET + b" " + H + b"\r\n",
    "no colon": GET + H + b"NoColon\r\n\r\n",
    "no name": GET + H + b": a\r\n\r\n",
    "delimiter in a name": GET + H + b"X(a): a\r\n\r\n",
    "non-ASCII name": GET + H + "Xé: a\r\n\r\n".encode(),
    "NUL in a value": GET + H + b"X: a\0b\r\n\r\n",
    "escape in a value": GET + H + b"X: \x1b[31m\r\n\r\n",
    "DEL in a value": GET + H + b"X: \x7f\r\n\r\n",
    "CR in a value": GET + H + b"X: a\rb\r\n\r\n",
    "CR before the end": GET + H + b"\rX: 1\r\n\r\n",
    "bare LF": GET.replace(b"\r\n", b"\n") + H.replace(b"\r\n", b"\n") + b"\n",
    "LF at the end": GET + H + b"\n",
    "raw non-ASCII": "GET /inventory/é HTTP/1.1\r\n".encode() + H + b"\r\n",
}

ACCEPTED = {
    "plain": GET + H + b"\r\n",
    "empty lines first": b"\r\n\r\n" + GET + H + b"\r\n",
    "absolute form of this host": b"GET HTTP://GATEWAY.test/inventory/a HTTP/1.1\r\n" + H + b"\r\n",
    "host with a port": GET + H.replace(b"gateway.test", b"gateway.test:8080") + b"\r\n",
    "IPv6 host": GET + H.replace(b"gateway.test", b"[::1]:8080") + b"\r\n",
    "1.0 without Host": GET.replace(b"1.1", b"1.0") + b"Authorization: Bearer allow\r\n\r\n",
    "white space around a value": GET + H + b"X: \t a \t\r\n\r\n",
    "obs-text in a value": GET + H + "X: é\r\n\r\n".encode(),
    "length with trailing space": POST + H + b"Content-Length: 5 \r\n\r\nhello",
    "CHUNKED": POST + H + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
    "foreign upgrade": GET + H + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
    "upgrade without Connection": GET + H + b"Upgrade: foo\r\n\r\n",
    "Expect in 1.0": GET.replace(b"1.1", b"1.0") + H + b"Expect: whatever\r\n\r\n",
    "Max-Forwards": GET + H + b"Max-Forwards: 0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED.keys())
async def test_refused_and_nothing_behind_it_is_read(request_bytes: bytes) -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        answer = await edge.say(request_bytes + SMUGGLED, b"\0")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:80]
    assert b"application/problem+json" in answer
    assert app.seen == []


@pytest.mark.parametrize("request_bytes", ACCEPTED.values(), ids=ACCEPTED.keys())
@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
async def test_accepted_and_seen_once(request_bytes: bytes, split: bool) -> None:
    app = MiniGateway(ServerSettings())
    parts = [bytes([byte]) for byte in request_bytes] if split else [request_bytes]
    async with served(app, app.settings) as edge:
        answer = await edge.say(*parts, b"\0", pause=0.0005)
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:80]
    assert [request.target.raw for request in app.seen] == [b"/inventory/a"]
    assert app.seen[0].values(b"x") in ([], [b"a"], ["é".encode()])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /inventory/../admin HTTP/1.1\r\n" + H + b"\r\n", b"400"),
        (b"GET /inventory/a#b HTTP/1.1\r\n" + H + b"\r\n", b"400"),
        (b"GET /inventory\\a HTTP/1.1\r\n" + H + b"\r\n", b"400"),
        (b"TRACE /inventory/a HTTP/1.1\r\n" + H + b"\r\n", b"405"),
        (b"PURGE /inventory/a HTTP/1.1\r\n" + H + b"\r\n", b"405"),
        (b"OPTIONS /inventory/a HTTP/1.1\r\nHost: a\r\n\r\n", b"401"),
        (b"GET /unrouted HTTP/1.1\r\n" + H + b"\r\n", b"404"),
        (GET + b"Host: a\r\nAuthorization: Bearer allow, Bearer deny\r\n\r\n", b"403"),
        (GET + b"Host: a\r\nAuthorization: Bearer \r\n\r\n", b"401"),
        (b"HEAD /unrouted HTTP/1.1\r\n" + H + b"\r\n", b"404"),
    ],
)
async def test_refused_by_the_gateway_and_the_connection_goes_on(request_bytes: bytes, status: bytes) -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        answer = await edge.say(request_bytes + GET + H + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"HTTP/1.1 200 " in answer
