"""Where a message can end: a head at its empty line, a chunked body after its last chunk (RFC 9112 sections 2.1, 7.1).

What is fed to the parser never reaches over that. The parser remains the judge of what is well-formed; here is refused
only what would make the two see different ends. The cost is linear: no byte is looked at twice, content not at all.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import GatewayError

_END: Final = b"\r\n\r\n"
MAX_CHUNKS: Final = 256
"""How many chunks one step may reach over."""
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t;][^\r\n]*)?\r\n")
_LONGEST_LINE: Final = 4096


class Boundary:
    """Finds CRLFCRLF in a stream of parts, also where it is split between them."""

    __slots__ = ("_tail",)

    def __init__(self, before: bytes = b"") -> None:
        """`before`: what came before, of which the end may begin with."""
        self._tail = before

    def after(self, data: bytes, at: int) -> int:
        """The index after the first CRLFCRLF of `data[at:]`, or `len(data)` if there is none."""
        tail = self._tail
        if tail:
            found = (tail + data[at : at + 3]).find(_END)
            if found >= 0:
                self._tail = b""
                return at + found + 4 - len(tail)
        found = data.find(_END, at)
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
        return len(data)


class ChunkBoundary:
    """Follows a chunked body from size line to size line."""

    __slots__ = ("_content_left", "_line", "_trailer")

    def __init__(self) -> None:
        self._content_left = 0
        self._line = b""
        self._trailer: Boundary | None = None

    def after(self, data: bytes, at: int) -> int:
        """The index after at most MAX_CHUNKS chunks of `data[at:]`, or after the body where that ends.

        Raises `bad_request` for a size line that is none.
        """
        if self._trailer is None:
            at = self._past_begun(data, at)
        if self._trailer is None and at < len(data):
            at = self._past_whole(data, at)
        return at if self._trailer is None or at == len(data) else self._trailer.after(data, at)

    def _past_begun(self, data: bytes, at: int) -> int:
        """Over what the data before has begun: content, or a size line with its content."""
        if self._line:
            at = self._past_size_line(data, at)
        begun = min(self._content_left, len(data) - at)
        self._content_left -= begun
        return at + begun

    def _past_whole(self, data: bytes, at: int) -> int:
        """Over chunks that begin here; there may be many, so nothing is cut out."""
        match, size = _SIZE_LINE.match, len(data)
        for _ in range(MAX_CHUNKS):
            if at >= size:
                break
            line = match(data, at)
            if line is None:
                return self._past_size_line(data, at)
            content = int(line[1], 16)
            if not content:
                return self._last(line.end())
            at = line.end() + content + 2  # its line break
        self._content_left = max(0, at - size)
        return min(at, size)

    def _past_size_line(self, data: bytes, at: int) -> int:
        """Over a size line that comes in parts, or is none."""
        end = data.find(b"\n", at) + 1
        self._line += data[at : end or len(data)]
        if len(self._line) > _LONGEST_LINE:
            raise GatewayError("headers_too_large")
        if not end:
            return len(data)
        line, self._line = _SIZE_LINE.fullmatch(self._line), b""
        if line is None:
            raise GatewayError("bad_request", reason="a chunk's size line")
        content = int(line[1], 16)
        if not content:
            return self._last(end)
        self._content_left = content + 2
        return end

    def _last(self, end: int) -> int:
        self._trailer = Boundary(b"\r\n")
        return end
