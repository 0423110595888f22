"""The request as every stage sees it, who asks, and what happened to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

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


# Who asks. Made only in `identity`.

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(init=False, slots=True)
class Subject:
    """Who asks, as IAM and the upstream are told. Made for each request with an opaque token, so not frozen.

    `key` names the subject in caches, queues and coalescing; it never holds a token (opaque: the token's SHA-256).
    `document` is the subject as JSON text for IAM. `claims` fill `{claim.NAME}`.
    `expires_at_s`: Unix time at which the credentials end (a token's `exp` and the leeway), None if they do not say.
    `headers` are the claims that the upstream is told by header, ready to be sent.
    `identified` is False for opaque tokens: nobody was authenticated here.
    """

    type: Final[str]
    id: Final[str]
    key: Final[str]
    document: Final[str]
    properties: Final[Mapping[str, Any]]
    claims: Final[Mapping[str, Any]]
    expires_at_s: Final[float | None]
    identified: Final[bool]
    headers: Final[tuple[Header, ...]]

    def __init__(
        self,
        type: str,  # noqa: A002 - as IAM's API calls it
        id: str,  # noqa: A002
        key: str,
        document: str,
        properties: Mapping[str, Any] = _NOTHING,
        claims: Mapping[str, Any] = _NOTHING,
        expires_at_s: float | None = None,
        identified: bool = True,  # said by name, except where one is made for each request
        headers: tuple[Header, ...] = (),
    ) -> None:
        self.type = type
        self.id = id
        self.key = key
        self.document = document
        self.properties = properties
        self.claims = claims
        self.expires_at_s = expires_at_s
        self.identified = identified
        self.headers = headers

    def __repr__(self) -> str:
        """What may stand in a log: an id or a claim may be a secret."""
        return f"Subject(type={self.type!r}, key={self.key!r}, identified={self.identified!r})"


def claim_of(claims: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """The claim of exactly that name, else what the dotted path leads to; `missing` where there is neither."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return missing
        value = value[step]
    return value


def name_of(subject_id: str) -> str:
    """What a subject is called in stores: the SHA-256 of its id in hex. An opaque token is never kept itself."""
    return sha256(subject_id.encode("utf-8", "surrogatepass")).hexdigest()


# What happened to one request, filled in by the stages, read once at its end for log, metrics and span.


@dataclass(slots=True)
class AccessRecord:
    """One line of the access log (docs/telemetry.md). Times are `time.monotonic()` seconds; durations in seconds.

    `route` and `path_template` come from the configuration ("" before a route was chosen), `path` is the raw path
    without query. `authz_outcome`: allow | deny | stale | local | fallback | fail_open | unknown, "" if never asked.
    `client_left`: the caller went away before the answer was complete.
    """

    started_s: float
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    path_template: str = ""
    status: int = 0
    code: str = ""
    client: str = ""
    subject: str = ""
    authz_outcome: str = ""
    authz_source: str = ""
    authz_code: str = ""
    authz_reason: str = ""
    authz_s: float = 0.0
    upstream: str = ""
    upstream_s: float = 0.0
    retries: int = 0
    degraded: str = ""
    client_left: bool = False
    scheme: str = "http"
    reason: str = ""
