"""A mistake in the configuration: where it stands, what it is called, its line, and its picture in a terminal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

# The form `FILE:LINE:COL: error[id]: message` is a promise to editors and scripts; lines and columns count from 1.
# Problems are collected, not raised: only the loader raises, once, with all of them.

_FORM: Final = re.compile(r"(.*?):(\d+):(\d+): (error|warning)\[([a-z0-9-]+)\]: (.*)")
_NEAR: Final = 0.6
_TELLING: Final = 6
"""Characters from which a value is hidden also where it is not quoted: shorter ones stand in many words."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file, counted from 1. `file` is shown as the user named it."""

    file: str
    line: int = 1
    col: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake (`severity` error) or one thing to know (`severity` warning)."""

    file: str
    line: int
    col: int
    severity: str
    id: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}: {self.severity}[{self.id}]: {self.message}"

    @classmethod
    def parse(cls, line: str) -> Problem:
        """From its own text."""
        found = _FORM.fullmatch(line)
        if found is None:
            raise ValueError(f"not a problem: {line}")
        file, line_, col, severity, id_, message = found.groups()
        return cls(file, int(line_), int(col), severity, id_, message)

    def as_json(self) -> dict[str, str | int]:
        """The same as a JSON object."""
        return asdict(self)


class ConfigurationError(Exception):
    """The configuration can't serve. `problems` are all mistakes, in file order; the text is one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """Collects mistakes and warnings; the same one at the same place is kept once."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._marks: set[Mark] = set()
        self._hidden: dict[str, str] = {}

    def hide(self, value: str, written: str) -> None:
        """Show `written` (`${VAR}`) wherever a message would show `value`, which came from outside the file.

        Such a value may be a secret that stands under the wrong key. Very short ones only where they are quoted.
        """
        host = value.partition("://")[2].partition("/")[0]  # what a message about a URL names
        for text in filter(str.strip, {value, value.lower(), value.strip(), host, host.lower()}):
            self._hidden[quoted(text)] = quoted(written)
            self._hidden[repr(text)] = quoted(written)
            if len(text) >= _TELLING:
                self._hidden[text] = written
                self._hidden[quoted(text)[1:-1]] = written

    def error(self, mark: Mark, id_: str, message: str) -> None:
        """Note a mistake."""
        self._marks.add(mark)
        self._note(mark, "error", id_, message)

    def warning(self, mark: Mark, id_: str, message: str) -> None:
        """Note something that serves but should be known."""
        self._note(mark, "warning", id_, message)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """All mistakes, in file order."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """All warnings, in file order."""
        return self._of("warning")

    def known_at(self, mark: Mark) -> bool:
        """Whether a mistake was noted at this very place already: what follows from it is not worth a line."""
        return mark in self._marks

    def _note(self, mark: Mark, severity: str, id_: str, message: str) -> None:
        for text in sorted(self._hidden, key=len, reverse=True):
            message = message.replace(text, self._hidden[text])
        line = " ".join(message.split())
        self._found[Problem(mark.file, mark.line, mark.col, severity, id_, line)] = None

    def _of(self, severity: str) -> tuple[Problem, ...]:
        return tuple(sorted(found for found in self._found if found.severity == severity))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, if one is near."""
    choices = {choice.lower(): choice for choice in known}
    found = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=_NEAR)
    return choices[found[0]] if found else None


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` where a known word is near, else an empty text."""
    found = nearest(word, known)
    return f'; did you mean "{found}"?' if found else ""


def quoted(value: object) -> str:
    """A value of the file for a message: quoted, on one line, cut where long."""
    text = "".join(char if char.isprintable() else "�" for char in str(value))
    return f'"{text[:57]}…"' if len(text) > 58 else f'"{text}"'  # 58 fits beside a message


# Problems with the lines around them and a caret, for a terminal; the one-line form stays the promise.
#
# The lines come from the files as they are now. Values that came out of variables are not shown: only what is
# written.

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
