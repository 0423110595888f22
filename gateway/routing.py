r"""Which route a request belongs to: the canonical target, and a trie by segment (docs/configuration.md, "Matching").

What two parsers could read differently is `bad_request`, so the target that was matched and authorized is the one that
is sent, byte for byte. Deliberately absent: normalisation, regular expressions in routes, wildcard hosts, priorities.
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
# The path of nearly every request: no escape, no oddity and no dot segment, so there is nothing to decode or refuse.
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9\-._~!$&'()*+,=:@]+)*/?")
# The alphabet of RFC 3986 section 3.3, and `[ ] | ^`, which browsers send as they are.
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]|^]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(rb"[!\"$-~]*")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_STILL_ENCODED: Final = re.compile("%[0-9A-Fa-f]{2}")
_SHORT: Final = 256
_ENCODED_SLASH: Final = re.compile(rb"%2[fF]")
# Also where some servers cut off what makes it another segment: parameters, white space, a query.
_DOT_SEGMENT: Final = re.compile(r"(?:\A|[/\\])\s*\.\.?\s*(?:[;?#][^/\\]*)?(?=[/\\]|\Z)")
_EMPTY: Final = re.compile(r"(?:\A|[/\\])(?=[/\\]|\Z)")


def parse_target(raw: bytes) -> Target:
    """The target of the request line in origin form → Target. Raises `bad_request` for all that is ambiguous."""
    return _remembered(raw) if len(raw) <= _SHORT else _parse(raw)


def _parse(raw: bytes) -> Target:
    path, _, query = raw.partition(b"?")
    # The query is opaque visible ASCII.
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
    """The target of a path with escapes or oddities. All of it at once: a path may have thousands of segments."""
    if b"%00" in path:
        raise _ambiguous("an encoded control character")
    try:
        text = unquote_to_bytes(_ENCODED_SLASH.sub(b"\0", path)).decode()  # NUL: so that it makes no segment
    except UnicodeDecodeError:
        raise _ambiguous("a path that is not UTF-8") from None
    segments = _split(text)
    inner = "/".join(segments).replace("\0", "/")
    _refuse_ambiguous(inner)
    if "\0" in text:
        segments = tuple(segment.replace("\0", "/") for segment in segments)
    return Target(raw, path, query, segments, frozenset(_oddities(path, text, inner)))


def _split(path: str) -> tuple[str, ...]:
    """The segments without the leading slash; one trailing slash makes no segment."""
    inner = path[1:-1] if path[-1] == "/" else path[1:]
    return tuple(inner.split("/")) if len(path) > 1 else ()


def _refuse_ambiguous(path: str) -> None:
    """Raise for a decoded path that another decoder could take for something else."""
    if _CONTROL.search(path):
        raise _ambiguous("an encoded control character")
    if _STILL_ENCODED.search(path):
        raise _ambiguous("a doubly encoded character")
    if _DOT_SEGMENT.search(path if path.isascii() else _compatible(path)):
        raise _ambiguous("a dot segment")


def _compatible(path: str) -> str:
    """The path as a parser sees it that applies NFKC: look-alikes of slash and backslash (U+FF0F, U+FE68) are refused.

    Such a parser may decode once more what only now is an escape (U+FF05, then `2F`), so that is looked at too.
    """
    normal = unicodedata.normalize("NFKC", path)
    if _STILL_ENCODED.search(normal):
        normal = unquote_to_bytes(normal).decode(errors="replace")
    if "\0" in normal or any(normal.count(mark) != path.count(mark) for mark in "/\\"):
        raise _ambiguous("a character that normalises to a delimiter")
    return normal


def _oddities(path: bytes, text: str, inner: str) -> Iterator[str]:
    """`text`: the decoded path with NUL for `%2F`; `inner`: as every reader has it, without the slashes around it."""
    if b";" in path:
        yield PATH_PARAMETER
    if "\0" in text or "\\" in text:
        yield ENCODED_SLASH
    if len(text) > 1 and _EMPTY.search(inner):
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
        # `%2F`, `%5C`, empty segments and `;` are refused unless the route admits them.
        if target.oddities and not target.oddities <= entry.admits:
            raise _ambiguous(", ".join(sorted(target.oddities - entry.admits)))
        # The path chose the route: there is no falling through to a looser one.
        if method not in entry.methods and not (method == "OPTIONS" and entry.route.cors is not None):
            raise _method_not_allowed(entry)
        return Match(entry.route, dict(zip(entry.names, values, strict=False)) if values else {})

    def owner(self, segments: tuple[str, ...], host: str) -> Route | None:
        """The route that targets of these decoded segments belong to, whatever their method."""
        entry = _find(self._root, segments, 0, _host_key(host), [])
        return None if entry is None else entry.route


def method_not_allowed(route: Route) -> GatewayError:
    """The refusal of a method that the route does not have."""
    return _method_not_allowed(_Entry(route))


def _find(node: _Node, segments: tuple[str, ...], at: int, host: str, values: list[str]) -> _Entry | None:
    """Depth first in order of precedence. Every node has one way to it, so none is visited twice."""
    if at == len(segments):
        return _of_host(node.ends, host) or _of_host(node.rests, host)
    segment = segments[at]
    child = node.children.get(segment)
    # A literal before `{x}` before `*`, left to right.
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
    # Of one path, a route with the request's `host` before one without.
    return entries.get(host) or entries.get("")


def _host_key(host: str) -> str:
    """The host without port and trailing dot, in lower case (RFC 3986 section 3.2.2: not case-sensitive)."""
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return name.removesuffix(".").lower()


def _not_found() -> GatewayError:
    return GatewayError("route_not_found", "No route matches this path.")


def _method_not_allowed(entry: _Entry) -> GatewayError:
    return GatewayError("method_not_allowed", "This route does not accept the method.", headers=entry.allow)
