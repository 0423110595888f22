r"""Which route a request belongs to: the canonical target, and a trie by segment (docs/configuration.md, "Matching").

`parse_target` decides on the bytes as received and never rewrites them: what two parsers could read differently is
`bad_request`, so that the target that was matched and authorized is the one that is sent, byte for byte.

Rules of the target: origin form (RFC 9112 section 3.2.1); the path in the alphabet of RFC 3986 section 3.3, valid UTF-8
once decoded; no dot segment in any encoding, no `\\`, no control character, nothing doubly encoded, no fragment. `%2F`,
empty segments and `;` are `oddities`: refused unless the route admits them. The query is opaque visible ASCII.

Rules of the match: whole segments, decoded once, case-sensitive; at every segment a literal before `{x}` before `*`,
left to right; among routes of the same path one with the request's `host` before one without; one trailing slash is as
none. The path chooses the route, then the method is looked at: there is no falling through to a looser route.

Deliberately absent: normalisation, regular expressions in routes, wildcard hosts, priorities.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.errors import GatewayError
from gateway.model.request import Match, Target
from gateway.model.route import Route

ENCODED_SLASH: Final = "encoded_slash"
EMPTY_SEGMENT: Final = "empty_segment"
PATH_PARAMETER: Final = "path_parameter"

_NONE: Final[frozenset[str]] = frozenset()
_DOTS: Final = frozenset({".", ".."})
# The path of nearly every request: no escape, no oddity and no dot segment, so there is nothing to decode or refuse.
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9\-._~!$&'()*+,=:@]+)*/?")
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(rb"[!\"$-~]*")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_STILL_ENCODED: Final = re.compile("%[0-9A-Fa-f]{2}")
_SHORT: Final = 256
_DELIMITERS: Final = frozenset("/\\%;?#")


def parse_target(raw: bytes) -> Target:
    """The target of the request line in origin form → Target. Raises `bad_request` for all that is ambiguous."""
    return _remembered(raw) if len(raw) <= _SHORT else _parse(raw)


def _parse(raw: bytes) -> Target:
    path, _, query = raw.partition(b"?")
    if not _QUERY.fullmatch(query):
        raise _ambiguous("a fragment, or a byte in the query that is not visible ASCII")
    if path and _PLAIN_PATH.fullmatch(path):
        return Target(raw, path, query, _split(path.decode("ascii")), _NONE)
    if not _PATH.fullmatch(path):
        raise _ambiguous("a path outside RFC 3986, or not in origin form")
    return _decoded_target(raw, path, query)


# Callers ask for the same targets again and again; a Target depends on nothing but its bytes. At most some MB.
_remembered = lru_cache(maxsize=4096)(_parse)


def _decoded_target(raw: bytes, path: bytes, query: bytes) -> Target:
    try:
        segments = tuple(unquote_to_bytes(part).decode() for part in _split(path.decode("ascii")))
    except UnicodeDecodeError:
        raise _ambiguous("a path that is not UTF-8") from None
    for segment in segments:
        _refuse_ambiguous(segment)
    return Target(raw, path, query, segments, frozenset(_oddities(path, segments)))


def _split(path: str) -> tuple[str, ...]:
    """The segments without the leading slash; one trailing slash makes no segment."""
    inner = path[1:-1] if path[-1] == "/" else path[1:]
    return tuple(inner.split("/")) if len(path) > 1 else ()


def _refuse_ambiguous(segment: str) -> None:
    """Raise for a decoded segment that another decoder could take for something else."""
    if _CONTROL.search(segment) or "\\" in segment:
        raise _ambiguous("an encoded control character or backslash")
    if _STILL_ENCODED.search(segment):
        raise _ambiguous("a doubly encoded character")
    plain = segment if segment.isascii() else _compatible(segment)
    if "." in plain and any(_is_dots(part) for part in plain.split("/")):
        raise _ambiguous("a dot segment")


def _compatible(segment: str) -> str:
    """The segment as a parser sees it that applies NFKC: look-alike delimiters (U+FF0F, U+FE52 …) are refused."""
    normal = unicodedata.normalize("NFKC", segment)
    if any(mark in normal and mark not in segment for mark in _DELIMITERS):
        raise _ambiguous("a character that normalises to a delimiter")
    return normal


def _is_dots(part: str) -> bool:
    """Whether the part is a dot segment once path parameters and white space are dropped, as some servers do."""
    return part.partition(";")[0].strip() in _DOTS


def _oddities(path: bytes, segments: tuple[str, ...]) -> Iterator[str]:
    if b";" in path:
        yield PATH_PARAMETER
    for segment in segments:
        if "/" in segment:
            yield ENCODED_SLASH
        if "" in segment.split("/"):
            yield EMPTY_SEGMENT


def _ambiguous(reason: str) -> GatewayError:
    return GatewayError("bad_request", "The request target is malformed or ambiguous.", reason=f"target with {reason}")


class _Node:
    """One position in the paths of all routes. `ends` and `rests` hold routes by host, "" for any."""

    __slots__ = ("children", "ends", "param", "rests")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.param: _Node | None = None
        self.ends: dict[str, _Entry] = {}
        self.rests: dict[str, _Entry] = {}


class _Entry:
    """A route with what a match needs of it, made once."""

    __slots__ = ("admits", "allow", "methods", "names", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.names = tuple(segment.param for segment in route.segments if segment.param is not None)
        self.methods = route.methods | {"HEAD"} if "GET" in route.methods else route.methods
        self.allow = ((b"allow", ", ".join(sorted(self.methods)).encode("ascii")),)
        flags = (
            (ENCODED_SLASH, route.allow_encoded_slashes),
            (EMPTY_SEGMENT, route.allow_empty_segments),
            (PATH_PARAMETER, route.allow_path_parameters),
        )
        self.admits = frozenset(oddity for oddity, allowed in flags if allowed)


class Router:
    """All routes of one configuration. The cost of a match grows with the path, not with the number of routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """`routes` hold no two that tie: `config` refused those."""
        self._root = _Node()
        self._by_host = any(route.host for route in routes)
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.segments:
            if segment.rest:
                node.rests[_host_key(route.host or "")] = _Entry(route)
                return
            if segment.param is not None:
                node.param = node.param or _Node()
                node = node.param
            else:
                node = node.children.setdefault(segment.literal or "", _Node())
        node.ends[_host_key(route.host or "")] = _Entry(route)

    def match(self, method: str, target: Target, host: str) -> Match:
        """The one route of this target and host (as in the `Host` field).

        Raises `route_not_found`; `bad_request` for an oddity that the route does not admit; `method_not_allowed` with
        `Allow`. OPTIONS on a route with `cors` always matches: `method_not_allowed(route)` is for what is no preflight.
        """
        values: list[str] = []
        entry = _find(self._root, target.segments, 0, _host_key(host) if self._by_host else "", values)
        if entry is None:
            raise _ambiguous("an oddity and no route") if target.oddities else _not_found()
        if target.oddities and not target.oddities <= entry.admits:
            raise _ambiguous(", ".join(sorted(target.oddities - entry.admits)))
        if method not in entry.methods and not (method == "OPTIONS" and entry.route.cors is not None):
            raise _method_not_allowed(entry)
        return Match(entry.route, dict(zip(entry.names, values, strict=False)) if values else {})


def method_not_allowed(route: Route) -> GatewayError:
    """The refusal of a method that the route does not have."""
    return _method_not_allowed(_Entry(route))


def _find(node: _Node, segments: tuple[str, ...], at: int, host: str, values: list[str]) -> _Entry | None:
    """Depth first in order of precedence. Every node has one way to it, so none is visited twice."""
    if at == len(segments):
        return _of_host(node.ends, host) or _of_host(node.rests, host)
    segment = segments[at]
    child = node.children.get(segment)
    if child is not None and (found := _find(child, segments, at + 1, host, values)):
        return found
    if node.param is not None and segment:
        values.append(segment)
        if found := _find(node.param, segments, at + 1, host, values):
            return found
        values.pop()
    return _of_host(node.rests, host)


def _of_host(entries: dict[str, _Entry], host: str) -> _Entry | None:
    if not entries:
        return None
    return entries.get(host) or entries.get("")


def _host_key(host: str) -> str:
    """The host without port and trailing dot, in lower case (RFC 3986 section 3.2.2: not case-sensitive)."""
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return name.removesuffix(".").lower()


def _not_found() -> GatewayError:
    return GatewayError("route_not_found", "No route matches this path.")


def _method_not_allowed(entry: _Entry) -> GatewayError:
    return GatewayError("method_not_allowed", "This route does not accept the method.", headers=entry.allow)
