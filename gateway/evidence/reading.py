"""Reads a decision log, line by line, in memory that does not grow with it.

Rules: a line that is broken (cut off by a crash or a full disk) is counted and passed over; one that is longer than any
line of ours is broken too. A file in which nothing is a line of ours is no decision log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

MAX_LINE_BYTES: Final = 1024 * 1024
SHADOW: Final = "iam_shadow"


class UnreadableError(Exception):
    """The file cannot be read, or is no decision log: one line for people."""


class DecisionLines:
    """The lines of a file, as JSON objects. `good` and `broken` count them, while they are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.good = 0
        self.broken = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Raises UnreadableError."""
        try:
            with self._path.open("rb") as file:
                yield from self._lines(file)
        except OSError as error:
            raise UnreadableError(f"{self._path}: {error.strerror or error}") from None
        if self.broken and not self.good:
            raise UnreadableError(f"{self._path}: not a line of it is a decision")

    def _lines(self, file: IO[bytes]) -> Iterator[Mapping[str, Any]]:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            line = _parsed(raw)
            if line is not None:
                self.good += 1
                yield line
            elif raw.strip():
                self.broken += 1
                _skip_rest(file, raw)


def _parsed(raw: bytes) -> Mapping[str, Any] | None:
    """The line as an object with what every line of ours has; None for anything else."""
    if len(raw) > MAX_LINE_BYTES:
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(line, dict) and isinstance(line.get("questions"), list) and isinstance(line.get("outcome"), str)
    return line if ours else None


def _skip_rest(file: IO[bytes], raw: bytes) -> None:
    """Of a line that is too long."""
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_LINE_BYTES)
