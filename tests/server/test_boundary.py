"""Where messages end: the same place however they are split, found without looking twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.server.messages import CHUNKED, COMPLETE, MAX_CHUNKS, Boundary, ChunkBoundary, MessageReader

CONTENT = st.one_of(st.binary(max_size=20), st.lists(st.sampled_from([b"\r\n", b"0\r\n\r\n", b"a"])).map(b"".join))
EXTENSION = st.sampled_from([b"", b";a=b", b' ; x="0"'])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(st.tuples(CONTENT.filter(len), EXTENSION), max_size=8))
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(content), extension, content) for content, extension in chunks)
    trailer = draw(st.sampled_from([b"", b"X: 1\r\n", b"X: 1\r\nY: 0\r\n"]))
    return body + draw(st.sampled_from([b"0", b"000"])) + draw(EXTENSION) + b"\r\n" + trailer + b"\r\n"


def end_of(boundary: ChunkBoundary, parts: list[bytes], whole: int) -> int:
    """How far the boundary goes in all."""
    reached = 0
    for part in parts:
        at = 0
        while at < len(part) and reached < whole:
            before, at = at, boundary.after(part, at)
            assert at > before
            reached += at - before
    return reached


@given(bodies(), st.binary(max_size=8), st.data())
def test_a_body_ends_where_it_ends_however_it_is_split(body: bytes, after: bytes, data: st.DataObject) -> None:
    stream = body + after
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)) | {0, len(stream)})
    parts = [stream[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]
    assert end_of(ChunkBoundary(), parts, len(body)) == len(body)


@pytest.mark.parametrize(
    "line", [b"\r\n", b"g\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\n", b"1\n", b"1\rx\r\n", b"1" * 17 + b"\r\n"]
)
def test_what_is_no_size_line_is_refused(line: bytes) -> None:
    with pytest.raises(GatewayError):
        ChunkBoundary().after(line + b"a\r\n0\r\n\r\n", 0)


def test_a_size_line_does_not_grow_for_ever() -> None:
    boundary = ChunkBoundary()

    def go_on() -> None:
        for _ in range(10_000):
            boundary.after(b"1;aaaaaaa", 0)

    with pytest.raises(GatewayError):
        go_on()


class Sink:
    def __init__(self) -> None:
        self.parts = 0
        self.content = b""

    def head_arrived(self, *_: object, **__: object) -> None: ...

    def part_arrived(self, data: bytes) -> None:
        self.parts += 1
        self.content += data

    def end_arrived(self) -> None: ...


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_tiny_chunks_are_read_in_steps() -> None:
    sink = Sink()
    reader = MessageReader(sink, "http", ServerSettings())
    data, at, steps = HEAD + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n", 0, 0
    while reader.state != COMPLETE:
        before = sink.parts
        at = reader.read(data, at)
        steps += 1
        assert sink.parts - before <= MAX_CHUNKS
    assert sink.content == b"a" * 10_000
    assert at == len(data)
    assert steps == pytest.approx(10_000 / MAX_CHUNKS, abs=3)


def test_content_of_empty_lines_is_content() -> None:
    """Each of them could end a message, and none is looked at."""
    content = b"\r\n\r\n" * 16_000
    sink = Sink()
    reader = MessageReader(sink, "http", ServerSettings())
    data = HEAD + b"%x\r\n" % len(content) + content + b"\r\n"
    assert reader.read(data, 0) == len(data)
    assert (sink.parts, sink.content, reader.state) == (1, content, CHUNKED)


def test_a_head_ends_where_it_ends_however_it_is_split() -> None:
    head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    for first, second in itertools.combinations(range(len(head) + 1), 2):
        boundary, reached = Boundary(), 0
        for part in (head[:first], head[first:second], head[second:] + b"rest"):
            if part and reached < len(head):
                reached += boundary.after(part, 0)
        assert reached == len(head)
