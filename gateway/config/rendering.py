"""Problems with the lines around them and a caret, for a terminal; the one-line form stays the promise.

The lines come from the files as they are now. Values that came out of variables are not shown: only what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

_AROUND: Final = 1
_MAX_WIDTH: Final = 160


class Placed(Protocol):
    """Anything with a place in a file, whose text is its one line."""

    @property
    def file(self) -> str:
        """As the user named it."""

    @property
    def line(self) -> int:
        """From 1."""

    @property
    def col(self) -> int:
        """From 1."""


def render(problems: Iterable[Placed]) -> str:
    """Each problem as its one line, followed by an excerpt where the file has one."""
    return "\n".join("\n".join([str(problem), *_excerpt(problem)]) for problem in problems)


def _excerpt(problem: Placed) -> Iterator[str]:
    lines = _lines(problem.file)
    first, last = max(1, problem.line - _AROUND), min(len(lines), problem.line + _AROUND)
    if not lines or problem.line > len(lines):
        return
    width = len(str(last))
    for number in range(first, last + 1):
        yield f"  {number:>{width}} | {lines[number - 1][:_MAX_WIDTH]}".rstrip()
        if number == problem.line and problem.col <= _MAX_WIDTH:
            yield f"  {'':>{width}} | {'':{problem.col - 1}}^"


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").expandtabs(1).splitlines()
    except OSError:
        return []
