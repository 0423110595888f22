"""Cuts Cedar text into policies, and finds the place of a mistake in one of them.

Cedar's parser says what is wrong but not where, and stops at the first mistake of a file. So the text is cut at every
`;` outside strings and comments (Cedar has it nowhere else) and each policy is parsed by itself. Where a mistake is
one of syntax, the shortest run of tokens that Cedar refuses for another reason than its end names the culprit: it is
the last token of that run. Where it is one of meaning, the culprit is the token that Cedar's message quotes.

Deliberately absent: any judgement of policies. Cedar alone decides what is valid; the tokens here only find places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.pdp.problem import did_you_mean

UNFINISHED: Final = "unexpected end of input"
_SKIPPED: Final = r"\s+|//[^\n]*"
_TOKEN: Final = re.compile(rf'(?P<skip>{_SKIPPED})|"(?:[^"\\]|\\.)*"|\w+|::|==|!=|<=|>=|&&|\|\||.', re.DOTALL)
_QUOTED: Final = re.compile(r"`([^`]+)`|: (\S+)$")
_WORDS: Final = (
    "permit", "forbid", "when", "unless", "principal", "action", "resource", "context", "if", "then", "else", "in",
    "is", "has", "like", "true", "false", "contains", "containsAll", "containsAny", "isEmpty", "hasTag", "getTag",
    "ip", "isIpv4", "isIpv6", "isLoopback", "isMulticast", "isInRange", "decimal", "lessThan", "lessThanOrEqual",
    "greaterThan", "greaterThanOrEqual", "datetime", "duration", "offset", "durationSince", "toDate", "toTime",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of Cedar text; `start` and `end` are offsets into the file."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy with its annotations, as written. `tokens` is never empty."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        """Offset of the first token."""
        return self.tokens[0].start

    def text(self, source: str, tokens: int | None = None) -> str:
        """The statement's text, or that of its first `tokens` tokens."""
        last = self.tokens[-1 if tokens is None else tokens - 1]
        return source[self.start : last.end]


def statements(source: str) -> Iterator[Statement]:
    """The policies of a text in order; a last one without `;` is among them."""
    tokens: list[Token] = []
    for found in _TOKEN.finditer(source):
        if found["skip"] is None:
            tokens.append(Token(found[0], found.start(), found.end()))
            if found[0] == ";":
                yield Statement(tuple(tokens))
                tokens = []
    if tokens:
        yield Statement(tuple(tokens))


def explain(source: str, statement: Statement, message: str, parse: Callable[[str], str | None]) -> tuple[int, str]:
    """Offset and wording of Cedar's `message` about `statement`. `parse` gives Cedar's message for a text, or None."""
    if message == UNFINISHED:
        return statement.tokens[-1].end, f"{message}: a policy ends with ';'"
    count = _shortest_refused(source, statement, parse)
    culprit = statement.tokens[count - 1]
    if count == len(statement.tokens) and "token" not in message:
        culprit = _quoted(statement, message)
    hint = did_you_mean(culprit.text, _WORDS) if culprit.text not in _WORDS else ""
    return culprit.start, message + hint


def _shortest_refused(source: str, statement: Statement, parse: Callable[[str], str | None]) -> int:
    low, high = 1, len(statement.tokens)
    while low < high:
        middle = (low + high) // 2
        if parse(statement.text(source, middle)) in (None, UNFINISHED):
            low = middle + 1
        else:
            high = middle
    return low


def _quoted(statement: Statement, message: str) -> Token:
    """The token that Cedar's message names: its second occurrence where the complaint is of a duplicate."""
    names = [name.lstrip("@") for groups in _QUOTED.findall(message) for name in groups if name]
    found = [
        token
        for token in statement.tokens
        if any(token.text == name or name.startswith((f"{token.text}::", f"{token.text}.")) for name in names)
    ]
    wanted = 1 if message.startswith("duplicate") else 0
    return found[wanted] if len(found) > wanted else statement.tokens[0]
