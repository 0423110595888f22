"""Frames as bytes, and bytes as frames (RFC 6455 section 5): read a slice at a time, written as they came.

Rules: a message is never put together, it is passed on frame by frame; a frame longer than PIECE_BYTES is cut into
fragments of that size, which is allowed because no extension is spoken (section 5.4). What a message must be is checked
all the same, as early as it can be known: its size by the length that a frame's header announces, UTF-8 as it arrives,
the number of its fragments. What breaks a rule is a Violation with its close code; the frames before it still count.

Deliberately absent: time, sockets, and what a control frame asks for.
"""

from __future__ import annotations

import codecs
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of the library without its C part
    from websockets.utils import apply_mask

Piece = tuple[int, bytes]
"""A frame: its first byte (FIN and opcode) and its payload, unmasked."""

FIN: Final = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PIECE_BYTES: Final = 64 * 1024
"""Payload of the longest frame that is passed on whole. A multiple of 4, so that each piece begins with the mask."""
SLICE_BYTES: Final = PIECE_BYTES + 14
"""How much is read at a time: 64 KiB, and the longest header before them."""
SLICE_FRAMES: Final = 64
"""How many frames are read at a time: 0.2 ms, of which a request of somebody else waits for three or four."""
MAX_FRAGMENTS: Final = 1024
"""Fragments of one message."""
MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message, where nobody says less."""

NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009

_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_TWO_BYTES, _EIGHT_BYTES = 126, 127
_MAX_CONTROL: Final = 125
_MAX_REASON: Final = 123
_FIRST_BYTES: Final = frozenset(
    {CONTINUATION, TEXT, BINARY, *(FIN | code for code in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))}
)
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
_SHORT, _LONG = struct.Struct("!H"), struct.Struct("!Q")
_Utf8: Final = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class End:
    """How a side ended: the code of its close frame, NO_STATUS for one without a code, ABNORMAL for none at all.

    `broke`: it broke a rule. Then `code` is the one that we closed it with.
    """

    code: int
    reason: str = ""
    broke: bool = False


class Violation(Exception):
    """A rule of the protocol or a limit was broken. `code` is how to close (section 7.4.1)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class FrameReader:
    """Reads one side. `masked`: whether its frames must be masked (those of clients are, section 5.1).

    After `read`: `controls` are the control frames of that slice in their order, `behind` says whether more may be
    here already, `over` that nothing more is read: after a close frame, or a `violation`. `max_message` is in bytes.
    """

    __slots__ = ("_buffer", "_fragments", "_key", "_left", "_masked", "_open", "_opened", "_size", "_text", "behind",
                 "controls", "max_message", "over", "violation")  # fmt: skip

    def __init__(self, *, masked: bool, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self.behind = False
        self.controls: list[Piece] = []
        self.over = False
        self.violation: Violation | None = None
        self._masked = masked
        self._buffer = bytearray()
        self._open = False  # a message has begun
        self._size = 0
        self._fragments = 0
        self._text: codecs.IncrementalDecoder | None = None
        self._opened = 0  # the first byte of a long frame, and what is left of it
        self._left = 0
        self._key = b""

    def feed(self, data: bytes) -> None:
        """Bytes that arrived. They are kept until they are read: whoever feeds looks at `behind`."""
        if not self.over:
            self._buffer += data

    def read(self, max_frames: int = SLICE_FRAMES, max_bytes: int = SLICE_BYTES) -> list[Piece]:
        """The next frames of messages, as far as they are here and within the bounds; control frames count."""
        self.controls = []
        pieces: list[Piece] = []
        size = len(self._buffer)
        limit = min(size, max_bytes)
        at = 0
        try:
            for _ in range(max_frames):
                after = self._next(at, limit, pieces)
                if after == at or self.over:
                    self.behind = size > limit
                    break
                at = after
            else:
                self.behind = at < size
        except Violation as violation:
            self.violation = violation
        except UnicodeDecodeError:
            self.violation = Violation(INVALID_DATA)
        else:
            del self._buffer[:at]
        if self.over or self.violation is not None:
            self.stop()
        return pieces

    def stop(self) -> None:
        """Read nothing more."""
        self.over, self.behind = True, False
        self._buffer.clear()

    def _next(self, at: int, limit: int, pieces: list[Piece]) -> int:
        """Read what begins at `at`; where the next thing begins, or `at` again if too little is there."""
        if self._left or at + 2 > limit:
            return self._next_part(at, limit, pieces) if self._left else at
        buffer = self._buffer
        first, length = buffer[at], buffer[at + 1]
        masked = length >= _MASKED
        if first not in _FIRST_BYTES or masked is not self._masked:
            raise Violation(PROTOCOL_ERROR, "reserved bits, an unknown opcode or a wrong mask bit")
        length &= 127
        begin = at + 6 if masked else at + 2
        if length > _MAX_CONTROL:
            begin += 2 if length == _TWO_BYTES else 8
            if begin > limit:
                return at
            length = self._long_length(at + 2, length)
        self._check(first, length)
        end = begin if length > PIECE_BYTES else begin + length
        if end > limit:
            return at
        if length > PIECE_BYTES:
            self._open_long(first, length, begin)
            return begin
        data = apply_mask(buffer[begin:end], buffer[begin - 4 : begin]) if masked else bytes(buffer[begin:end])
        if first & 8:
            self.controls.append((first, data))
            self.over = first == FIN | CLOSE
        else:
            self._pass(first, data, pieces)
        return end

    def _long_length(self, at: int, form: int) -> int:
        """One of the two longer forms of a length, which must not be longer than it has to be (section 5.2)."""
        packed, least = (_SHORT, 126) if form == _TWO_BYTES else (_LONG, 1 << 16)
        length: int = packed.unpack_from(self._buffer, at)[0]
        if length < least or length >> 63:
            raise Violation(PROTOCOL_ERROR, "a length in a wrong form")
        return length

    def _check(self, first: int, length: int) -> None:
        """Whether a frame may follow here; nothing of its payload needs to be here for that."""
        if first & 8:
            if length > _MAX_CONTROL:
                raise Violation(PROTOCOL_ERROR, "a control frame is too long")
        elif self._open is bool(first & _OPCODE):
            raise Violation(PROTOCOL_ERROR, "fragments out of order")
        elif self._fragments >= MAX_FRAGMENTS:
            raise Violation(POLICY, "too many fragments")
        elif self._size + length > self.max_message:
            raise Violation(TOO_BIG, "message too big")

    def _open_long(self, first: int, length: int, begin: int) -> None:
        if self._masked:
            self._key = bytes(self._buffer[begin - 4 : begin])
        self._begin(first, length)
        self._opened, self._left = first, length

    def _next_part(self, at: int, limit: int, pieces: list[Piece]) -> int:
        """The next piece of a long frame. The last one has its FIN, the first one its opcode."""
        length = min(self._left, PIECE_BYTES)
        end = at + length
        if end > limit:
            return at
        data = apply_mask(self._buffer[at:end], self._key) if self._masked else bytes(self._buffer[at:end])
        self._left -= length
        first = self._opened if not self._left else self._opened & ~FIN
        self._opened &= FIN
        self._hand_on(first, data, pieces)
        return end

    def _pass(self, first: int, data: bytes, pieces: list[Piece]) -> None:
        """A whole frame. A message of one frame needs no memory of its beginning."""
        if first > FIN:
            if first == FIN | TEXT and not data.isascii():
                data.decode()
            pieces.append((first, data))
        else:
            self._begin(first, len(data))
            self._hand_on(first, data, pieces)

    def _begin(self, first: int, length: int) -> None:
        opcode = first & _OPCODE
        if opcode:
            self._open = True
            self._text = _Utf8() if opcode == TEXT else None
        self._size += length
        self._fragments += 1

    def _hand_on(self, first: int, data: bytes, pieces: list[Piece]) -> None:
        if self._text is not None:
            self._text.decode(data, first >= FIN)
        if first >= FIN:
            self._open, self._size, self._fragments, self._text = False, 0, 0, None
        pieces.append((first, data))


def encode(pieces: Sequence[Piece], *, masked: bool) -> bytes:
    """The frames as bytes; with `masked` under a fresh unpredictable key each (section 5.3)."""
    parts: list[bytes] = []
    if not masked:
        for first, data in pieces:
            parts += (_head(first, len(data), 0), data)
        return b"".join(parts)
    keys = os.urandom(4 * len(pieces))
    for at, (first, data) in enumerate(pieces):
        key = keys[4 * at : 4 * at + 4]
        parts += (_head(first, len(data), _MASKED), key, apply_mask(data, key))
    return b"".join(parts)


def _head(first: int, length: int, masked: int) -> bytes:
    if length <= _MAX_CONTROL:
        return bytes((first, masked | length))
    if length < 1 << 16:
        return bytes((first, masked | _TWO_BYTES)) + _SHORT.pack(length)
    return bytes((first, masked | _EIGHT_BYTES)) + _LONG.pack(length)


def close_payload(code: int, reason: str) -> bytes:
    """What a close frame says (section 5.5.1). A reason that is too long is cut."""
    said = reason.encode()[:_MAX_REASON].decode(errors="ignore")
    return code.to_bytes(2) + said.encode()


def end_of(payload: bytes) -> End:
    """What a close frame said. Raises Violation if that makes no sense."""
    if not payload:
        return End(NO_STATUS)
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or code not in _CLOSE_CODES:
        raise Violation(PROTOCOL_ERROR, "a close frame without a good code")
    try:
        return End(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "the reason of a close frame is no UTF-8") from None
