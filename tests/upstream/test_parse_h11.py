"""A second opinion: where h11 reads a response at all, ours reads the same, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.parse import ResponseParser, Violation
from gateway.upstream.reply import Reply
from tests.support.properties import examples

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_!#", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip())
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"keep-alive", b"proxy-connection"}
FIELDS = st.lists(st.tuples(TOKEN, VALUE), max_size=6).map(
    lambda fields: [field for field in fields if field[0].lower() not in FRAMING]
)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bytes, bool]:
    """Request method, bytes of a valid response, and whether its body ends only with the connection."""
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST"]))
    status = draw(st.sampled_from([200, 201, 204, 205, 301, 304, 404, 500, 599]))
    fields = draw(FIELDS)
    body = draw(st.binary(max_size=60))
    data = b""
    for interim in draw(st.lists(st.sampled_from([100, 102, 103, 199]), max_size=2)):
        data += b"HTTP/1.1 %d I\r\nLink: x\r\n\r\n" % interim
    bodiless = method == b"HEAD" or status in (204, 304)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if status in (204, 304):
        framing = "none"
    head = b"HTTP/1.1 %d %b\r\n" % (status, draw(st.sampled_from([b"OK", b"", b"Not \xe4"])))
    if framing == "length":
        fields = [*fields, (b"Content-Length", b"%d" % len(body))]
    elif framing == "chunked":
        fields = [*fields, (b"Transfer-Encoding", b"chunked")]
    data += head + b"".join(b"%b:%b\r\n" % field for field in fields) + b"\r\n"
    if bodiless:
        return method, data, False
    if framing == "chunked":
        for part in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
            data += b"%x%b\r\n%b\r\n" % (len(part), draw(st.sampled_from([b"", b";a=b"])), part)
        data += b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"])) + b"\r\n"
    else:
        data += body
    return method, data, framing == "close"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [piece for begin, end in pairwise(edges) if (piece := data[begin:end])]


def ours(method: bytes, pieces: list[bytes], *, end: bool) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool] | None:
    parser, reply = ResponseParser(), Reply(None)
    parser.start(reply, bare=method == b"HEAD")
    try:
        for piece in pieces:
            parser.feed(piece)
    except Violation:
        return None
    complete = parser.complete or (end and parser.ends_here)
    return (reply.status, reply.headers, b"".join(reply._chunks), complete)


def theirs(
    method: bytes, pieces: list[bytes], *, end: bool
) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool] | None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
    client.send(h11.EndOfMessage())
    status, headers, body, complete = 0, [], b"", False
    try:
        for piece in [*pieces, *([b""] if end else [])]:
            client.receive_data(piece)
            while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status, headers = event.status_code, list(event.headers)
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    complete = True
                elif isinstance(event, h11.ConnectionClosed):
                    break
    except h11.RemoteProtocolError:
        return None
    return status, headers, body, complete


@examples(100)
@given(responses(), st.lists(st.integers(0, 2000), max_size=6))
def test_valid_responses_are_read_as_h11_reads_them(response, at):
    method, data, end = response
    pieces = cut(data, at)
    read = ours(method, pieces, end=end)
    assert read is not None
    assert read[3]
    assert read == theirs(method, pieces, end=end)


@examples(200)
@given(responses(), st.integers(0, 2000), st.sampled_from([b"\r", b"\n", b"\0", b" ", b":", b"0", b"\x7f", b"Z"]))
def test_what_ours_lets_through_after_damage_h11_does_not_frame_otherwise(response, position, damage):
    method, data, _ = response
    position %= len(data)
    damaged = data[:position] + damage + data[position + 1 :]
    read = ours(method, [damaged], end=True)
    second = theirs(method, [damaged], end=True)
    if read is None or second is None or not (read[3] and second[3]):
        return
    assert read[0] == second[0]
    assert read[2] == second[2]
