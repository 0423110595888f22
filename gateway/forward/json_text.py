"""JSON as it comes from callers and systems, as it goes out again, and pointers into it (RFC 8259, RFC 6901)."""

from __future__ import annotations

import enum
import json
import math
import re
import secrets
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final, NamedTuple, NoReturn

# Rules: text is UTF-8; NaN and infinities are not JSON, a number too large for a double is not either, since it could
# not be written down again as it was; what nests deeper than MAX_DEPTH is refused, so that whoever walks a document
# here need not think of it. A system's numbers are written down again byte for byte. From a caller a key that occurs
# twice is refused, since two parsers would read two things; of a system's document the last one counts, as in a
# browser. All errors are ValueError: whose mistake it is, is for the one who read the bytes to say.

MAX_DEPTH: Final = 200
_BOM: Final = b"\xef\xbb\xbf"


def read_callers(body: bytes) -> Any:
    """A caller's document, strictly."""
    return _decoded(_STRICT, body)


def read_systems(body: bytes) -> Any:
    """A system's document; a byte order mark is looked over (RFC 8259 section 8.1).

    A number that would be written down in another way than it was read is a Written.
    """
    return _decoded(_LENIENT_ZEROS if b"-0" in body else _LENIENT, body.removeprefix(_BOM))


def write(value: Any) -> bytes:
    """The document in UTF-8 without spaces, members in their order. Lone surrogates stay escaped."""
    text = _TEXT.encode(value)
    try:
        written = text.encode()
    except UnicodeEncodeError:
        written = _ASCII.encode(value).encode()
    return _MARKED.sub(rb"\1", written) if _MARK in text else written


class Written:
    """A number as it was written, byte for byte: `1E5`, `-0`, more digits than a double has. It equals its value."""

    __slots__ = ("text", "value")

    def __init__(self, text: str, value: float) -> None:
        self.text = text
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, Written) else other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return self.text


def _decoded(decoder: json.JSONDecoder, body: bytes) -> Any:
    try:
        value = decoder.decode(body.decode())
    except RecursionError:
        raise _too_deep() from None
    # Brackets in strings count at first: cheap, and enough for nearly every document.
    if _depth(body) > MAX_DEPTH and _depth(_STRINGS.sub(b"", body)) > MAX_DEPTH:
        raise _too_deep()
    return value


def _depth(text: bytes) -> int:
    brackets = text.translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _too_deep() -> ValueError:
    return ValueError("nested too deeply")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _number_as_written(text: str) -> float | Written:
    number = _number(text)
    return number if repr(number) == text else Written(text, number)


def _integer_as_written(text: str) -> int | Written:
    return Written(text, 0) if text == "-0" else int(text)


def _marked(value: object) -> str:
    """What stands for a Written while the rest is encoded: text that nobody outside can know."""
    if isinstance(value, Written):
        return _MARK + value.text
    raise TypeError(f"{type(value).__name__} is not JSON")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_STEPS: Final = [{"[": 1, "{": 1, "]": -1, "}": -1}.get(chr(byte), 0) for byte in range(256)]
_NO_BRACKETS: Final = bytes(byte for byte, step in enumerate(_STEPS) if not step)
_STRICT: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_number)
_LENIENT: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_number_as_written)
_LENIENT_ZEROS: Final = json.JSONDecoder(
    parse_constant=_constant, parse_float=_number_as_written, parse_int=_integer_as_written
)
_MARK: Final = secrets.token_hex(16) + ":"
_MARKED: Final = re.compile(rb'"%b([-+0-9.eE]+)"' % _MARK.encode("ascii"))
_TEXT: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_marked
)
_ASCII: Final = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"), default=_marked)


# JSON pointers (RFC 6901), and the same with `*` for all members of a list or a mapping.
#
# A pointer is parsed once, at load; looking up never raises. `ABSENT` is not null: a null that is there was said.

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
