"""What counts as a response, and what is refused: bytes alone, no sockets."""

from __future__ import annotations

import pytest

from gateway.upstream.parse import MAX_HEAD, MAX_HEADERS, MAX_INTERIM, ResponseParser, Violation
from gateway.upstream.reply import Reply

OK = b"HTTP/1.1 200 OK\r\n"


def parse(data: bytes, *, size: int = 0, bare: bool = False) -> tuple[ResponseParser, Reply]:
    """Feed `data` in pieces of `size` bytes (0: at once)."""
    parser, reply = ResponseParser(), Reply(None)
    parser.start(reply, bare=bare)
    for at in range(0, len(data), size or len(data)):
        parser.feed(data[at : at + (size or len(data))])
    return parser, reply


def body_of(reply: Reply) -> bytes:
    return b"".join(reply._chunks)


GOOD = {
    "content-length": (OK + b"Content-Length: 2\r\n\r\nok", b"ok"),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "chunked, written otherwise": (OK + b"transfer-encoding:  Chunked \r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "chunk extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n", b"ok"),
    "empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "103 first": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", b"ok"),
    "100 and 199 first": (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 199 ?\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
    "205": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b""),
    "obs-text": (OK + b"X: \xe9\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "an upgrade offered, not made": (
        OK + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
    "odd Location": (b"HTTP/1.1 302 F\r\nLocation: http://a:b:c/ d\r\nContent-Length: 0\r\n\r\n", b""),
}


@pytest.mark.parametrize("size", [0, 1, 2, 7])
@pytest.mark.parametrize("name", GOOD)
def test_a_valid_response_is_whole_however_it_is_cut_and_keeps_the_connection(name, size):
    data, body = GOOD[name]
    parser, reply = parse(data, size=size)
    assert parser.complete
    assert not parser.surplus
    assert body_of(reply) == body
    assert parser.keep_alive is (name != "HTTP/1.0")


BAD = {
    "garbage": b"\x00\x01garbage\r\n\r\n",
    "HTTP/0.9": b"hello",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower-case protocol": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a line before the status line": b"\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "HTTP/2.0 behind 103": b"HTTP/1.1 103 E\r\n\r\nHTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    "status 2000": b"HTTP/1.1 2000 X\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    "101 without an upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\nraw",
    "101 before an answer": b"HTTP/1.1 101 S\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "1xx with an empty chunked body before an answer": (
        b"HTTP/1.1 102 P\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"
    ),
    "1xx with a body": b"HTTP/1.1 103 E\r\nContent-Length: 2\r\n\r\nok",
    "1xx with a chunked body": b"HTTP/1.1 102 P\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "conflicting lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "the same length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "negative length": OK + b"Content-Length: -1\r\n\r\nok",
    "signed length": OK + b"Content-Length: +2\r\n\r\nok",
    "empty length": OK + b"Content-Length:\r\n\r\nok",
    "overflowing length": OK + b"Content-Length: 99999999999999999999\r\n\r\nok",
    "length and coding": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nok",
    "unknown coding before chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity, chunked": OK + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CR in a value": OK + b"X: a\rSet-Cookie: x=1\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "DEL in a value": OK + b"X: a\x7fb\r\nContent-Length: 0\r\n\r\n",
    "control character in a value": OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "folded value": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space in a name": OK + b"X Y: a\r\nContent-Length: 0\r\n\r\n",
    "space behind a name": OK + b"X : a\r\nContent-Length: 0\r\n\r\n",
    "empty name": OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 a\rb\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "malformed chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
    "space in a chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n",
    "chunk longer than it says": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
}


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("name", BAD)
def test_what_two_parsers_could_read_differently_is_refused(name, size):
    with pytest.raises(Violation):
        parse(BAD[name], size=size)


SURPLUS = {
    "two answers": (OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 4\r\n\r\nEVIL", False),
    "one byte more": (OK + b"Content-Length: 2\r\n\r\nokX", False),
    "half an answer more": (OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200", False),
    "behind the last chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL", False),
    "behind Connection: close": (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\nEVIL", False),
    "204 with a body": (b"HTTP/1.1 204 N\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nEVIL", False),
    "304 with a body": (b"HTTP/1.1 304 N\r\nContent-Length: 4\r\n\r\nEVIL", False),
    "HEAD with a body": (OK + b"Content-Length: 4\r\n\r\nEVIL", True),
    "HEAD with a chunked body": (OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n", True),
    "HEAD with an endless body": (OK + b"\r\nEVIL", True),
}


@pytest.mark.parametrize("name", SURPLUS)
def test_bytes_beyond_a_response_are_nobodys_and_the_connection_is_not_kept(name):
    data, bare = SURPLUS[name]
    parser, reply = parse(data, bare=bare)
    assert parser.complete
    assert parser.surplus or not parser.keep_alive
    assert b"EVIL" not in body_of(reply)


NOT_KEPT = {
    "Connection: close": (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", False),
    "close among others": (OK + b"Connection: keep-alive, close\r\nContent-Length: 0\r\n\r\n", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    "204 that announces a body": (b"HTTP/1.1 204 N\r\nContent-Length: 4\r\n\r\n", False),
    "204 that announces chunks": (b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    "304 that announces a body": (b"HTTP/1.1 304 N\r\nContent-Length: 4\r\n\r\n", False),
    "HEAD": (OK + b"Content-Length: 4\r\n\r\n", True),
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_a_connection_on_which_a_late_body_may_still_come_is_not_kept(name):
    data, bare = NOT_KEPT[name]
    parser, _ = parse(data, bare=bare)
    assert parser.complete
    assert not parser.keep_alive


def test_http_1_0_is_kept_only_when_it_says_so():
    parser, _ = parse(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
    assert parser.keep_alive


def test_a_body_without_a_length_ends_with_the_connection():
    parser, reply = parse(b"HTTP/1.0 200 OK\r\n\r\nok")
    assert not parser.complete
    assert not parser.keep_alive
    assert parser.ends_here
    assert body_of(reply) == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        OK + b"Content-Length: 3\r\n\r\nok",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        b"HTTP/1.1 103 E\r\n\r\n",
    ],
)
def test_what_is_cut_short_is_not_complete(data):
    parser, _ = parse(data)
    assert not parser.complete
    assert not parser.ends_here


def test_names_are_lower_case_values_stripped_and_repeated_fields_kept_apart():
    _, reply = parse(OK + b"Set-Cookie: a=1\r\nSET-COOKIE: b=2 \t\r\nContent-Length: 0\r\n\r\n")
    assert reply.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-length", b"0")]
    assert (reply.status, reply.reason, reply.content_length) == (200, b"OK", 0)


def test_the_length_of_what_head_would_have_sent_is_known():
    _, reply = parse(OK + b"Content-Length: 42\r\n\r\n", bare=True)
    assert reply.content_length == 42


@pytest.mark.parametrize("size", [0, 3])
def test_trailers_are_dropped(size):
    data = OK + b"Transfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\nok\r\n0\r\nX-Auth: root\r\n\r\n"
    parser, reply = parse(data, size=size)
    assert parser.complete
    assert [name for name, _ in reply.headers] == [b"transfer-encoding", b"trailer"]


@pytest.mark.parametrize("size", [0, 4096])
@pytest.mark.parametrize(
    "data",
    [
        OK + b"X: " + b"a" * 250_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        OK + b"".join(b"X%d: %b\r\n" % (i, b"a" * 1000) for i in range(80)) + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: y\r\n" * (MAX_HEADERS + 1) + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 E\r\nX: " + b"a" * 100_000 + b"\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    ],
)
def test_heads_have_a_limit(data, size):
    with pytest.raises(Violation, match="more than"):
        parse(data, size=size)


def test_a_head_just_below_the_limit_passes():
    parser, _ = parse(OK + b"X: " + b"a" * (MAX_HEAD - 200) + b"\r\nContent-Length: 0\r\n\r\n")
    assert parser.complete


def test_a_large_delivery_with_a_small_head_passes():
    parser, reply = parse(OK + b"Content-Length: 200000\r\n\r\n" + b"a" * 200_000)
    assert parser.complete
    assert reply.buffered == 200_000


@pytest.mark.parametrize("start", [b"2;", b"0\r\nX: "])
def test_endless_chunk_extensions_and_trailers_have_a_limit(start):
    parser, _ = parse(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + start)
    for _ in range(MAX_HEAD // 1000):
        parser.feed(b"a" * 1000)
    with pytest.raises(Violation, match="more than"):
        parser.feed(b"a" * 1000)


def test_nothing_of_an_interim_response_is_the_answers():
    _, reply = parse(b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n")
    assert (reply.headers, bytes(reply.reason)) == ([(b"content-length", b"0")], b"OK")


def test_too_many_fields_are_refused_before_the_head_ends():
    with pytest.raises(Violation):
        parse(OK + b"a: b\r\n" * (MAX_HEADERS + 2))  # the last one may go on


def test_endless_interim_responses_have_a_limit():
    parser, _ = parse(b"HTTP/1.1 103 E\r\n\r\n" * MAX_INTERIM, size=18_000)
    with pytest.raises(Violation):
        parser.feed(b"HTTP/1.1 103 E\r\n\r\n")


def test_one_parser_reads_one_response_after_another():
    parser = ResponseParser()
    for body in (b"a", b"bc", b""):
        reply = Reply(None)
        parser.start(reply, bare=False)
        parser.feed(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert parser.complete
        assert body_of(reply) == body
        assert len(reply.headers) == 1
