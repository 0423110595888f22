"""Text with placeholders: parsed once at load, filled in per request after everything around it was parsed.

A value can therefore never change a check's shape, a path's segments or a JSON document. Rules (docs/configuration.md):
a value that is missing, repeated or over 1 KiB is `bad_request`; values are percent-decoded once; where they fill in a
path or query they are percent-encoded again. In a question no two sets of values give the same text
(`Template.fill_distinctly`). A header field is a value only if the upstream gets it like that.
Deliberately absent: expressions, defaults, nesting.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from gateway.errors import GatewayError
from gateway.model.request import Request, Subject, claim_of

MAX_VALUE_BYTES: Final = 1024
PLAIN: Final = ("method", "route.id", "route.path", "subject.id")
NAMED: Final = ("path", "claim", "query", "header", "item")
_FIXED: Final = frozenset({"route.id", "route.path"})
"""What has the same value in every request that a template is filled in for."""
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_DASHED: Final = bytes.maketrans(b"_.", b"--")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MEANS_ITSELF: Final = {
    ord("&"): b"",
    ord("="): b"",
    ord("+"): b"",
    ord(" "): rb"[+ ]",
    ord("%"): rb"%(?![0-9A-Fa-f]{2})",
}
_KNOWN: Final = re.compile(rf"\{{({'|'.join(map(re.escape, PLAIN))}|(?:{'|'.join(NAMED)})\.[^{{}}\s]+)\}}")


class TemplateError(ValueError):
    """The text is not a template: says what is wrong with which placeholder."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`{kind.name}`, or `{kind}` of PLAIN with an empty name. `item` is for navigation documents."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{{{self.kind}.{self.name}}}" if self.name else f"{{{self.kind}}}"


@dataclass(frozen=True, slots=True)
class Template:
    """Literal text and placeholders in order. `literal` is the whole text where there is no placeholder."""

    parts: tuple[str | Placeholder, ...]

    @property
    def literal(self) -> str | None:
        """The text, if nothing has to be filled in."""
        if not self.parts:
            return ""
        only = self.parts[0]
        return only if len(self.parts) == 1 and isinstance(only, str) else None

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """The placeholders in order."""
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    @property
    def runs_together(self) -> bool:
        """Whether two values stand next to each other: where one ends and the other begins could not be told."""
        kinds = [None if isinstance(part, str) else part.kind for part in self.parts]
        return any(one and other and not {one, other} & _FIXED for one, other in itertools.pairwise(kinds))

    def fill_distinctly(self, value: Callable[[Placeholder], str]) -> str:
        """As `fill`, and other values would have given another text.

        So that nobody can move the border between two values: each ends where what follows it in the template is
        found first, or this is `bad_request`. The last value may hold anything.
        """
        filled = [part if isinstance(part, str) else value(part) for part in self.parts]
        chosen = [at for at, part in enumerate(self.parts) if not isinstance(part, str) and part.kind not in _FIXED]
        for at, following in itertools.pairwise(chosen):
            between = "".join(filled[at + 1 : following])
            if (filled[at] + between).find(between) != len(filled[at]):
                detail = f"The value for {self.parts[at]} holds what stands between it and the next one."
                raise GatewayError("bad_request", detail)
        return "".join(filled)

    def fill(self, value: Callable[[Placeholder], str]) -> str:
        """The text with every placeholder replaced by its value as it is."""
        return "".join(part if isinstance(part, str) else value(part) for part in self.parts)

    def fill_url(self, value: Callable[[Placeholder], str]) -> str:
        """The text with every value percent-encoded (RFC 3986 unreserved characters only), for a path or query.

        A value that would be a dot segment by itself is `bad_request`: no encoding protects it.
        """
        return "".join(part if isinstance(part, str) else _encoded(value(part)) for part in self.parts)


def _encoded(value: str) -> str:
    if value in ("", ".", ".."):
        raise GatewayError("bad_request", "A value of the request cannot stand in a path.")
    return quote(value, safe="")


def parse(text: str) -> Template:
    """Text → Template. Raises TemplateError on an unknown or malformed placeholder."""
    parts: list[str | Placeholder] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        _literal(parts, text[end : found.start()])
        parts.append(_placeholder(found.group(1)))
        end = found.end()
    _literal(parts, text[end:])
    return Template(tuple(parts))


def parse_json_text(text: str) -> Template:
    """A string inside an aggregate's `json`: braces of other languages (GraphQL) are literal text.

    Only what is exactly a known placeholder is one; its misspelling is therefore text, which the upstream will refuse.
    """
    parts: list[str | Placeholder] = []
    end = 0
    for found in _KNOWN.finditer(text):
        if found.start() > end:
            parts.append(text[end : found.start()])
        parts.append(_placeholder(found.group(1)))
        end = found.end()
    if end < len(text):
        parts.append(text[end:])
    return Template(tuple(parts))


def fill_tree(tree: Any, value: Callable[[Placeholder], str]) -> Any:
    """A tree of str → Template | number | bool | None | list | dict with every template filled in."""
    if isinstance(tree, Template):
        return tree.fill(value)
    if isinstance(tree, Mapping):
        return {key: fill_tree(member, value) for key, member in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [fill_tree(member, value) for member in tree]
    return tree


def _literal(parts: list[str | Placeholder], text: str) -> None:
    if "{" in text or "}" in text:
        raise TemplateError("a lone '{' or '}'")
    if text:
        parts.append(text)


def _placeholder(inner: str) -> Placeholder:
    kind, dot, name = inner.partition(".")
    if inner in PLAIN:
        return Placeholder(inner)
    if dot and name and kind in NAMED:
        return Placeholder(kind, name.lower() if kind == "header" else name)
    raise TemplateError(f"unknown placeholder {{{inner}}}")


class RequestValues:
    """Looks up what placeholders stand for in one request. Raises `bad_request` for what is not exactly one value."""

    __slots__ = ("_item", "_request", "_route_id", "_route_path", "_subject")

    def __init__(
        self,
        request: Request,
        route_id: str,
        route_path: str,
        subject: Subject | None,
        item: Mapping[str, Any] | None = None,
    ) -> None:
        self._request = request
        self._route_id = route_id
        self._route_path = route_path
        self._subject = subject
        self._item = item

    def __call__(self, placeholder: Placeholder) -> str:
        """The value, checked: present once, valid UTF-8, at most 1 KiB."""
        value = self._plain(placeholder.kind) if not placeholder.name else self._named(placeholder)
        if value is None or not _is_text(value):
            raise GatewayError("bad_request", f"The request has no single usable value for {placeholder}.")
        if len(value) > MAX_VALUE_BYTES or len(value.encode()) > MAX_VALUE_BYTES:
            raise GatewayError("bad_request", f"The value for {placeholder} is too long.")
        return value

    def _plain(self, kind: str) -> str | None:
        match kind:
            case "method":
                return self._request.method
            case "route.id":
                return self._route_id
            case "route.path":
                return self._route_path
        return self._subject.id if self._subject else None

    def _named(self, placeholder: Placeholder) -> str | None:
        match placeholder.kind:
            case "path":
                return self._request.params.get(placeholder.name)
            case "claim":
                return _scalar(claim_of(self._subject.claims, placeholder.name)) if self._subject else None
            case "query":
                return _query_value(self._request.target.query, placeholder.name)
            case "header":
                return _header_value(self._request, placeholder.name.encode("latin-1"))
        return _item_value(self._item, placeholder.name) if self._item else None


def _is_text(value: str) -> bool:
    """Whether it can be sent: JSON can spell half a surrogate pair, which no encoding has."""
    return value.isascii() or not _LONE_SURROGATE.search(value)


def _item_value(item: Mapping[str, Any], name: str) -> str | None:
    """A member of the item; of `NAME:type` and `NAME:id` one half of a member like `system:inventory`."""
    member, _, half = name.partition(":")
    value = _scalar(item.get(member))
    if not half or value is None:
        return value
    type_, _, id_ = value.partition(":")
    return (type_ if half == "type" else id_) or None


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) else None


def _query_value(query: bytes, name: str) -> str | None:
    found = _parameter(name).findall(query)
    return _decoded(found[0].replace(b"+", b" ")) if len(found) == 1 else None


@lru_cache(maxsize=1024)
def _parameter(name: str) -> re.Pattern[bytes]:
    """Finds the values of a parameter, its name spelled in any way that decodes to `name`.

    One pass, because callers choose how many parameters there are; names come from the configuration.
    """
    return re.compile(rb"(?:\A|&)" + b"".join(map(_spellings, name.encode())) + rb"(?=[=&]|\Z)=?([^&]*)")


def _spellings(byte: int) -> bytes:
    """The ways to write a byte of a name: as it is, where that means itself, and percent-encoded in either case."""
    plain = _MEANS_ITSELF.get(byte, re.escape(bytes((byte,))))
    escape = b"%" + b"".join(b"[%c%c]" % (digit, ord(chr(digit).upper())) for digit in b"%02x" % byte)
    return b"(?:" + escape + (b"|" + plain if plain else b"") + b")"


def _header_value(request: Request, name: bytes) -> str | None:
    """The value that the upstream will read too.

    None for a field that `Connection` takes off on the way, or that has a double which some servers read as the same.
    """
    alike = name.translate(_DASHED)
    found = [field for field in request.headers if field[0].translate(_DASHED) == alike]
    if len(found) != 1 or found[0][0] != name or _taken_off(request, name):
        return None
    try:
        return found[0][1].decode() or None
    except UnicodeDecodeError:
        return None


def _taken_off(request: Request, name: bytes) -> bool:
    options = (option for value in request.values(b"connection") for option in value.split(b","))
    return any(option.strip(b" \t").lower() == name for option in options)


def _decoded(raw: bytes) -> str | None:
    try:
        return unquote_to_bytes(raw).decode() or None
    except UnicodeDecodeError:
        return None
