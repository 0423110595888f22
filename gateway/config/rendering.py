"""Problems with the lines around them and a caret, for a terminal; the one-line form stays the promise.

The lines come from the files as they are now. Values that came out of variables are not shown: only what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from gateway.config.problems import Problem

_AROUND: Final = 1
_MAX_WIDTH: Final = 160


def render(problems: Iterable[Problem]) -> str:
    """Each problem as its one line, followed by an excerpt where the file has one."""
    return "\n".join("\n".join([str(problem), *_excerpt(problem)]) for problem in problems)


def _excerpt(problem: Problem) -> Iterator[str]:
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
