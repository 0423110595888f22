"""The request as every stage sees it: canonical target, method and header list, decided once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.model.route import Route

Header = tuple[bytes, bytes]
Headers = list[Header]


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin form (RFC 9112 section 3.2.1) that only one reading fits.

    `raw` is path and query exactly as received: what is matched, authorized and sent. `path` and `query` are its two
    parts (`query` without `?`). `segments` are the path's segments, percent-decoded once, without the leading slash;
    `oddities` names what only a route's `allow_*` admits: `encoded_slash`, `empty_segment`, `path_parameter`.
    """

    raw: bytes
    path: bytes
    query: bytes
    segments: tuple[str, ...]
    oddities: frozenset[str] = frozenset()


@dataclass(slots=True)
class Taken:
    """What was taken out of a request because it is, or could be, a token (see `identity.places`).

    `token` is the one of the first place that held any, `kind` that place. `target` and `headers` are as they came,
    None where nothing was taken out of them. `put_back`: the upstream gets them like that.
    """

    token: bytes | None = None
    kind: str = ""
    target: bytes | None = None
    headers: Headers | None = None
    put_back: bool = False


@dataclass(slots=True)
class Request:
    """One request, after its head was accepted. `headers`: lower-case names, in order, repeated ones kept apart.

    `client` is the caller's address after the trust list was applied, `peer` the address of the TCP peer.
    `trusted`: the peer is in `server.trusted_proxies`. `request_id` is ours or a trusted proxy's.
    `params` are the path parameters of the chosen route, decoded. `taken`: what other places than `Authorization` held.
    `subprotocol`: the answer to a WebSocket handshake that offered nothing else beside its token.
    """

    method: str
    target: Target
    headers: Headers
    host: str
    scheme: str
    peer: str
    client: str
    trusted: bool
    request_id: str
    http_version: str = "1.1"
    websocket: bool = False
    params: Mapping[str, str] = field(default_factory=dict)
    taken: Taken | None = None
    subprotocol: str | None = None

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header field, in order; `name` in lower case."""
        return [value for key, value in self.headers if key == name]


class Match:
    """The one route that a target belongs to, with its path parameters."""

    __slots__ = ("params", "route")

    def __init__(self, route: Route, params: Mapping[str, str]) -> None:
        self.route: Final = route
        self.params: Final = params
