"""What is wrong with a policy folder, and where: every mistake at once, one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

# Rules: a line reads `FILE:LINE:COL: error[id]: message`; lines and columns count from 1, columns in characters.
# Loading collects problems and raises them together, so an operator mends a folder in one pass.


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in one file."""

    file: str
    line: int
    col: int
    id: str
    message: str

    def as_json(self) -> dict[str, str | int]:
        """The same as a JSON object."""
        return {**asdict(self), "severity": "error"}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}: error[{self.id}]: {self.message}"


class PolicyError(ValueError):
    """A folder that cannot be used. `str()` is one line per problem, in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


def problem_at(file: Path, text: str, offset: int, problem_id: str, message: str) -> Problem:
    """A problem at a character offset of a file's text."""
    before = text[:offset]
    return Problem(str(file), before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1, problem_id, message)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` where a known word is near, else nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


# Reads one file of a policy folder, or says why it cannot be read.
#
# Rules: UTF-8 without a byte order mark, at most MAX_FILE_BYTES. Every mistake is a Problem, never an exception.

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


def read_source(file: Path, problems: list[Problem]) -> str | None:
    """The file's text; None after adding a problem."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        problems.append(Problem(str(file), 1, 1, "unreadable", error.strerror or "cannot be read"))
        return None
    if len(raw) > MAX_FILE_BYTES:
        problems.append(Problem(str(file), 1, 1, "too-large", f"the file is larger than {MAX_FILE_BYTES} bytes"))
        return None
    if raw.startswith(_BOM):
        problems.append(Problem(str(file), 1, 1, "encoding", "the file begins with a byte order mark; save it without"))
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        text = raw[: error.start].decode()
        problems.append(problem_at(file, text, len(text), "encoding", "the file is not UTF-8 here"))
        return None
