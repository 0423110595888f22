"""Where a message can end: heads and chunked bodies end with CRLFCRLF (RFC 9112 sections 2.1, 7.1)."""

from __future__ import annotations

from typing import Final

_END: Final = b"\r\n\r\n"


class Boundary:
    """Finds CRLFCRLF in a stream of parts, also where it is split between them."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

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
