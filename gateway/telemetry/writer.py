"""Writes log lines without ever making a request wait: a bounded queue and one thread for each stream.

Rules: what the reader of the stream does not take in time is dropped and counted, so that a stuck reader costs lines
and at most `max_bytes`; lines keep their order; the thread gathers for 20 ms, so that several lines are one write, and
lines of several workers do not mix; `close` waits for what is left, for a bounded time.
"""

from __future__ import annotations

import io
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

_MAX_LINES: Final = 20_000
_MAX_BYTES: Final = 8 * 1024 * 1024
_LINE_BYTES: Final = 64
"""What Python needs for a line besides its text."""
_GATHER_S: Final = 0.02
_ATOMIC_BYTES: Final = select.PIPE_BUF
"""Up to here a write to a pipe is not mixed with those of other workers (POSIX)."""
_FILE_BYTES: Final = 256 * 1024
"""Writes that append to a file are never mixed. So many bytes, so that a slow disk costs little memory."""


class Stream(Protocol):
    """What is written to: an unbuffered binary file, so that a reader who hangs holds up nothing but the thread."""

    def write(self, data: memoryview, /) -> int | None:
        """Write what fits; how many bytes that was, None for nothing now."""


class LineWriter:
    """Writes lines to `stream` from a thread. `dropped` is told how many lines were given up.

    `max_lines`, `max_bytes`: what waits at most, counted in characters and what Python needs for each line.
    """

    def __init__(
        self,
        stream: Stream,
        dropped: Callable[[int], None],
        max_lines: int = _MAX_LINES,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._stream = stream
        self._most = _most_of(stream)
        self._dropped = dropped
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[str] = deque()
        # Two numbers, each with one thread that changes it: one number for both would need a lock on every line.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._filled = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="gateway-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line, without its end. Never waits."""
        if len(self._lines) >= self._max_lines or self._bytes_put - self._bytes_taken > self._max_bytes:
            self._dropped(1)
            return
        self._bytes_put += len(line) + _LINE_BYTES
        self._lines.append(line)
        if not self._filled.is_set():
            self._filled.set()

    def close(self, seconds: float) -> None:
        """Write what is left, for at most `seconds`."""
        self._closing = True
        self._filled.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing:
            self._filled.wait()
            if not self._closing:
                time.sleep(_GATHER_S)
            self._filled.clear()
            self._write_all()

    def _write_all(self) -> None:
        """Write what is there now, in chunks that are not mixed with others'."""
        lines: list[str] = []
        size = 0
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            size += len(line) + 1
            if size > self._most and lines:
                self._put(lines)
                lines, size = [], len(line) + 1
            lines.append(line)
        if lines:
            self._put(lines)

    def _put(self, lines: list[str]) -> None:
        """Encode and write them together: one call for each line would take turns with the requests at every one."""
        chunk = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        if len(chunk) > self._most and len(lines) > 1:  # some characters are several bytes
            for line in lines:
                self._put([line])
            return
        rest = memoryview(chunk)
        try:
            while rest:
                written = self._stream.write(rest)
                if written is None:
                    time.sleep(_GATHER_S)
                rest = rest[written or 0 :]
        except (OSError, ValueError):
            # Nobody reads the stream any more (EPIPE) or it is closed: there is nobody to tell.
            self._dropped(len(lines))
        self._bytes_taken += sum(map(len, lines)) + _LINE_BYTES * len(lines)


def _most_of(stream: Stream) -> int:
    """How many bytes of one write are not mixed with other workers' writes."""
    is_file = isinstance(stream, io.RawIOBase) and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    return _FILE_BYTES if is_file else _ATOMIC_BYTES
