"""JSON pointers (RFC 6901), and the same with `*` for all members of a list or a mapping.

A pointer is parsed once, at load; looking up never raises. `ABSENT` is not null: a null that is there was said.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

ALL: Final = "*"
_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")


class Absent(enum.Enum):
    """Nothing is there."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT


class Place(NamedTuple):
    """Where a value stands: `container[key]`."""

    container: Any
    key: Any

    @property
    def value(self) -> Any:
        """What stands there."""
        return self.container[self.key]


class WrongShape(ValueError):
    """The document is not built as the pattern says."""


def parse(text: str) -> tuple[str, ...]:
    """The pointer's tokens, unescaped. Raises ValueError for what does not begin with `/` and is not empty."""
    if text and not text.startswith("/"):
        raise ValueError(f"a JSON pointer begins with '/': {text!r}")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def look_up(document: Any, tokens: tuple[str, ...]) -> Any:
    """The value that the tokens lead to, or ABSENT."""
    for token in tokens:
        place = _member(document, token)
        if place is None:
            return ABSENT
        document = place.value
    return document


def find_all(document: Any, tokens: tuple[str, ...]) -> Iterator[Place]:
    """Every place that the pattern matches, in the document's order.

    Deeper down a member that is missing or null just holds nothing. Raises WrongShape when the very first step leads
    nowhere, and for `*` over what is neither a list nor a mapping: such a document is not the one the pattern is for.
    """
    if tokens and tokens[0] != ALL and _member(document, tokens[0]) is None:
        raise WrongShape(f"nothing at /{tokens[0]}")
    yield from _matches(document, tokens)


def _matches(document: Any, tokens: tuple[str, ...]) -> Iterator[Place]:
    token, rest = tokens[0], tokens[1:]
    places = list(_members(document)) if token == ALL else [_member(document, token)]
    for place in places:
        if place is None:
            continue
        if not rest:
            yield place
        elif place.value is not None:
            yield from _matches(place.value, rest)


def _members(value: Any) -> Iterator[Place]:
    if isinstance(value, dict):
        return (Place(value, key) for key in value)
    if isinstance(value, list):
        return (Place(value, index) for index in range(len(value)))
    raise WrongShape("neither a list nor a mapping where its members were expected")


def _member(value: Any, token: str) -> Place | None:
    if isinstance(value, dict):
        return Place(value, token) if token in value else None
    if isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
        return Place(value, int(token))
    return None
