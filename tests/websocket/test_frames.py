"""Frames: what goes in comes out, in bounded slices; what RFC 6455 forbids is a Violation with the right code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    MAX_FRAGMENTS,
    PIECE_BYTES,
    PING,
    SLICE_BYTES,
    SLICE_FRAMES,
    TEXT,
    End,
    FrameReader,
    Piece,
    Violation,
    close_payload,
    encode,
    end_of,
)
from tests.support.properties import examples

pytestmark = pytest.mark.hazard


def wire(*pieces: Piece, masked: bool = True) -> bytes:
    """By the library's own hand, so that our reading is not judged by our writing."""
    return b"".join(Frame(Opcode(first & 15), data, bool(first & FIN)).serialize(mask=masked) for first, data in pieces)


def read_all(reader: FrameReader, data: bytes) -> list[Piece]:
    reader.feed(data)
    pieces = reader.read()
    while reader.behind:
        pieces += reader.read()
    return pieces


def violation(data: bytes, *, masked: bool = True, max_message: int = 1 << 24) -> int | None:
    reader = FrameReader(masked=masked, max_message=max_message)
    read_all(reader, data)
    return reader.violation.code if reader.violation else None


def messages(pieces: list[Piece]) -> list[tuple[int, bytes]]:
    whole: list[tuple[int, bytes]] = []
    opcode, data = 0, b""
    for first, part in pieces:
        opcode, data = first & 15 or opcode, data + part
        if first & FIN:
            whole.append((opcode, data))
            opcode, data = 0, b""
    return whole


parts = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


@given(
    sent=st.lists(parts, max_size=8),
    masked=st.booleans(),
    steps=st.lists(st.integers(1, 200), min_size=1),
    max_frames=st.integers(1, 9),
)
def test_any_fragments_in_any_portions_come_out_as_they_went_in(
    sent: list[list[bytes]], masked: bool, steps: list[int], max_frames: int
) -> None:
    pieces = [
        ((FIN if at == len(message) - 1 else 0) | (CONTINUATION if at else BINARY), part)
        for message in sent
        for at, part in enumerate(message)
    ]
    data, reader, got, turn = wire(*pieces, masked=masked), FrameReader(masked=masked), [], 0
    while data:
        step, turn = steps[turn % len(steps)], turn + 1
        reader.feed(data[:step])
        data = data[step:]
        got += reader.read(max_frames)
        while reader.behind:
            got += reader.read(max_frames)
    assert got == pieces
    assert reader.violation is None
    assert encode(got, masked=False) == wire(*pieces, masked=False)
    assert read_all(FrameReader(masked=True), encode(got, masked=True)) == pieces


@examples(300)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.binary(max_size=130)), min_size=1, max_size=4),
)
def test_what_is_refused_and_why_agrees_with_the_library(frames: list[tuple[int, bool, bytes]]) -> None:
    data = b""
    for first, masked, payload in frames:
        body = wire((FIN | BINARY, payload), masked=masked)
        data += bytes((first,)) + body[1:]
    library = ServerProtocol(state=State.OPEN, max_size=1 << 24)
    library.receive_data(data)
    theirs = library.close_sent.code if library.parser_exc is not None and library.close_sent else None
    reader = FrameReader(masked=True, max_message=1 << 24)
    read_all(reader, data)
    ours = reader.violation.code if reader.violation else None
    for first, payload in reader.controls:
        if first == FIN | CLOSE:
            try:
                end_of(payload)
            except Violation as bad:
                ours = bad.code
    # The library looks into a text only when somebody wants it decoded.
    assert ours in (theirs, 1007)


def test_a_long_frame_is_passed_on_in_pieces_of_which_only_the_last_ends_the_message() -> None:
    payload = bytes(range(256)) * 700
    for masked in (True, False):
        got = read_all(FrameReader(masked=masked), wire((FIN | BINARY, payload), masked=masked))
        assert [first for first, _ in got] == [BINARY, CONTINUATION, FIN | CONTINUATION]
        assert [len(data) for _, data in got[:2]] == [PIECE_BYTES, PIECE_BYTES]
        assert messages(got) == [(BINARY, payload)]


def test_a_long_fragment_in_the_middle_neither_begins_nor_ends_a_message() -> None:
    long = b"x" * (PIECE_BYTES + 1)
    got = read_all(FrameReader(masked=True), wire((TEXT, b"a"), (CONTINUATION, long), (FIN, b"b")))
    assert [first for first, _ in got] == [TEXT, CONTINUATION, CONTINUATION, FIN]


@pytest.mark.parametrize("payload", [b"", b"a", b"x" * 200, b"y" * 30_000, b"z" * 200_000])
def test_a_slice_is_at_most_so_many_frames_and_bytes(payload: bytes) -> None:
    reader = FrameReader(masked=True)
    reader.feed(wire((FIN | BINARY, payload)) * 600)
    total, slices = 0, 0
    while True:
        pieces = reader.read()
        assert len(pieces) <= SLICE_FRAMES
        assert len(encode(pieces, masked=True)) <= SLICE_BYTES
        total, slices = total + len(messages(pieces)), slices + 1
        if not reader.behind:
            break
    assert slices >= 600 / SLICE_FRAMES


def test_control_frames_count_in_a_slice() -> None:
    reader = FrameReader(masked=True)
    reader.feed(wire((FIN | PING, b"")) * 600)
    assert reader.read() == []
    assert len(reader.controls) == SLICE_FRAMES
    assert reader.behind


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1\x80\0\0\0\0", 1002),  # RSV1: a compressed message that nobody agreed on
        (b"\xa2\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that is reserved
        (b"\x8b\x80\0\0\0\0", 1002),
        (b"\x82\x00", 1002),  # not masked: known from the second byte on
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),  # a long ping
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),  # a message within a message
        (b"\x82\xfe\x00\x05\0\0\0\0", 1002),  # a length in a longer form than it needs
        (b"\x82\xff" + (65535).to_bytes(8) + b"\0\0\0\0", 1002),
        (b"\x82\xff" + (1 << 63).to_bytes(8) + b"\0\0\0\0", 1002),
    ],
)
def test_what_no_frame_may_be(data: bytes, code: int) -> None:
    assert violation(data) == code


def test_a_server_must_not_mask() -> None:
    assert violation(b"\x82\x81\0\0\0\0a", masked=False) == 1002


def test_frames_before_a_violation_still_count() -> None:
    reader = FrameReader(masked=True)
    assert read_all(reader, wire((FIN | BINARY, b"good")) + b"\xff\xff") == [(FIN | BINARY, b"good")]
    assert reader.over
    assert read_all(reader, wire((FIN | BINARY, b"late"))) == []


def test_nothing_is_read_after_a_close_frame() -> None:
    reader = FrameReader(masked=True)
    pieces = read_all(reader, wire((FIN | BINARY, b"a"), (FIN | CLOSE, b"\x03\xe8"), (FIN | BINARY, b"b")))
    assert pieces == [(FIN | BINARY, b"a")]
    assert reader.controls == [(FIN | CLOSE, b"\x03\xe8")]
    assert reader.over
    assert not reader.behind


def test_a_message_over_the_limit_is_known_by_the_header_that_announces_it() -> None:
    header = b"\x82\xff" + (70_000).to_bytes(8) + b"\0\0\0\0"
    assert violation(header, max_message=65_536) == 1009
    assert violation(wire((FIN | BINARY, b"x" * 100)), max_message=100) is None
    assert violation(wire((FIN | BINARY, b"x" * 101))[:8], max_message=100) == 1009
    assert violation(wire((BINARY, b"x" * 60), (FIN, b"x" * 41)), max_message=100) == 1009
    assert violation(wire(*[(BINARY, b"x" * 60), (FIN, b"x" * 40)] * 3), max_message=100) is None


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_message_has_at_most_so_many_fragments(size: int) -> None:
    begin, more = (BINARY, b"x" * size), (CONTINUATION, b"x" * size)
    assert violation(wire(begin, *[more] * (MAX_FRAGMENTS - 2), (FIN, b""), begin)) is None
    assert violation(wire(begin, *[more] * MAX_FRAGMENTS)) == 1008


def test_text_is_checked_as_it_arrives() -> None:
    snowman = "☃".encode()
    assert violation(wire((TEXT, snowman[:1]), (CONTINUATION, snowman[1:2]), (FIN, snowman[2:]))) is None
    assert violation(wire((FIN | TEXT, snowman), (FIN | BINARY, b"\xff"))) is None
    assert violation(wire((FIN | TEXT, b"\xff"))) == 1007
    assert violation(wire((TEXT, b"a"), (CONTINUATION, b"\xc0"))) == 1007
    assert violation(wire((TEXT, snowman[:2]), (FIN, b""))) == 1007
    assert violation(wire((FIN | TEXT, "\ud800".encode("utf-8", "surrogatepass")))) == 1007
    assert violation(wire((FIN | TEXT, b"a" * PIECE_BYTES + b"\xff" + b"a" * PIECE_BYTES))) == 1007


@pytest.mark.parametrize(
    ("payload", "end"), [(b"", End(1005)), (b"\x03\xe8", End(1000)), (b"\x0f\xa0ok", End(4000, "ok"))]
)
def test_what_a_close_frame_says(payload: bytes, end: End) -> None:
    assert end_of(payload) == end


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"\x03", 1002), (b"\x03\xed", 1002), (b"\0\0", 1002), (b"\x07\xd0", 1002), (b"\x03\xe8\xff", 1007)],
)
def test_a_close_frame_that_makes_no_sense(payload: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        end_of(payload)
    assert caught.value.code == code


def test_a_reason_is_cut_between_characters() -> None:
    payload = close_payload(1001, "ü" * 100)
    assert len(payload) <= 125
    assert end_of(payload) == End(1001, "ü" * 61)
