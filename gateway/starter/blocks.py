"""The syntax that nginx.conf and a Caddyfile share: words, quoted texts, comments, and blocks in braces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.starter.draft import NotUnderstoodError

_SPACE: Final = re.compile(r"[ \t\r]+|#[^\n]*")
_QUOTED: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`""", re.DOTALL)
# nginx: a brace or semicolon ends a word, but for the braces of ${name}. Caddy: only white space does. A brace alone is
# a block, so that {placeholders} are words.
_NGINX_WORD: Final = re.compile(r"(?:\$\{[^}\s]*\}|[^\s;{}])+")
_CADDY_WORD: Final = re.compile(r"\S+")
_CADDY_BRACE: Final = re.compile(r"[{}](?=\s|$)")
_DEEPEST: Final = 50


@dataclass(slots=True)
class Directive:
    """One directive: its words, and what stands in its block."""

    line: int
    words: list[str]
    block: list[Directive] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0] if self.words else ""


def read_blocks(file: str, text: str, *, by_line: bool) -> list[Directive]:
    """The directives of a file. `by_line`: a directive ends with its line (Caddy), else with `;` (nginx).

    Raises NotUnderstoodError for unbalanced braces or quotes.
    """
    reader = _Reader(file)
    for piece in _pieces(file, text, by_line=by_line):
        if piece == "{":
            reader.open()
        elif piece == "}":
            reader.close()
        elif piece == ("\n" if by_line else ";"):
            reader.end()
        elif piece != "\n":
            reader.add(piece)
        reader.line += piece.count("\n")
    return reader.whole()


class _Reader:
    """Builds the tree of directives, piece by piece."""

    def __init__(self, file: str) -> None:
        self.line = 1
        self._file = file
        self._words: list[str] = []
        self._started = 1
        self._open = [Directive(1, [])]

    def add(self, piece: str) -> None:
        """A word of the directive that is being read."""
        if not self._words:
            self._started = self.line
        self._words.append(piece[1:-1] if piece[0] in "\"'`" else piece)

    def end(self) -> None:
        """The directive is complete."""
        if self._words:
            self._open[-1].block.append(Directive(self._started, self._words))
            self._words = []

    def open(self) -> None:
        """The directive has a block."""
        directive = Directive(self._started if self._words else self.line, self._words)
        self._words = []
        self._open[-1].block.append(directive)
        self._open.append(directive)
        if len(self._open) > _DEEPEST:
            raise NotUnderstoodError(f"{self._file}:{self.line}: blocks are nested too deeply")

    def close(self) -> None:
        """The block is complete."""
        self.end()
        if len(self._open) == 1:
            raise NotUnderstoodError(f"{self._file}:{self.line}: there is no block to close here")
        self._open.pop()

    def whole(self) -> list[Directive]:
        """The top of the file."""
        self.end()
        if len(self._open) > 1:
            raise NotUnderstoodError(f"{self._file}:{self._open[-1].line}: this block is not closed")
        return self._open[0].block


def _pieces(file: str, text: str, *, by_line: bool) -> Iterator[str]:
    word = _CADDY_WORD if by_line else _NGINX_WORD
    at = 0
    while at < len(text):
        if space := _SPACE.match(text, at):
            at = space.end()
            continue
        alone = text[at] == "\n" or (bool(_CADDY_BRACE.match(text, at)) if by_line else text[at] in ";{}")
        found = None if alone else _QUOTED.match(text, at) or word.match(text, at)
        piece = found.group() if found else text[at]
        if not alone and found is None:
            line = text.count("\n", 0, at) + 1
            raise NotUnderstoodError(f"{file}:{line}: this is neither a word nor a block")
        yield piece
        at += len(piece)
