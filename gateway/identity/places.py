"""Tokens in other places than `Authorization`: found, and taken out of the request before anything else reads it.

Rules: the first place that holds a token is used, and a bad one there is refused, with no falling through. What could
be a token is taken out wherever one is looked for, used or not: a query parameter before the target is matched, a
cookie, the last two of `Sec-WebSocket-Protocol: chat, bearer, TOKEN`; a bearer token in `Authorization` if another one
is decided on. The upstream gets query and cookie back only where the route says `forward_token`. The same parameter or
cookie twice is refused: two parsers could take either. A browser sends cookies along with what any page asks for, so a
request whose token is a cookie must come from a page of this host or of an origin that the route's `cors` names,
unless its method changes nothing (RFC 9110 section 9.2.1) and it is no WebSocket handshake, which no browser holds to
the same origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge, authorization_token, limited
from gateway.model.request import Headers, Request, Taken, Target
from gateway.model.route import Route
from gateway.model.settings import HEADER_ONLY, TokenIn, TokenPlace

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORIZATION: Final = b"authorization"
_COOKIE: Final = b"cookie"
_PROTOCOL: Final = b"sec-websocket-protocol"
_SCHEME: Final = b"bearer"
_PORTS: Final = {"http": ":80", "https": ":443"}


class PlacedTokens:
    """Takes tokens out of requests. `places` are in order of precedence."""

    def __init__(self, places: Sequence[TokenPlace], *, challenge: Challenge, max_token: int) -> None:
        self._finders = [(place.kind, _FINDERS[place.kind], place.name.encode()) for place in places]
        self._reads_header = any(place.kind is TokenIn.HEADER for place in places)
        self._challenge = challenge
        self._max_token = max_token

    def take_out(self, request: Request) -> None:
        """Find the token and leave the request without any. Raises `bad_request` where one place holds two."""
        taken = request.taken = Taken()
        for kind, find, name in self._finders:
            token = find(request, taken, name)
            if token and taken.token is None:
                taken.token, taken.kind = token, kind

    def settle(self, request: Request, route: Route, *, public: bool) -> None:
        """The route is known: give back what it forwards. Raises `cross_site`."""
        taken = request.taken
        if taken is None:
            return
        if route.forward_token:
            taken.put_back = True
            request.headers = taken.headers or request.headers
            request.target = replace(request.target, raw=taken.target or request.target.raw)
        if not public and self._reads_header and taken.kind not in (None, TokenIn.HEADER):
            _without_bearer(request)
        if public or taken.kind != TokenIn.COOKIE or (request.method in _SAFE and not _is_handshake(request)):
            return
        if not _from_here(request, route):
            raise GatewayError("cross_site", reason="a token from a cookie without a matching Origin")

    def of(self, request: Request) -> bytes:
        """See Tokens."""
        taken = request.taken
        if taken is None or taken.token is None:
            raise self._challenge.missing()
        return limited(taken.token, self._max_token)


def elsewhere(places: Sequence[TokenPlace]) -> bool:
    """Whether tokens are looked for in other places than `Authorization` alone."""
    return tuple(places) != HEADER_ONLY


def _without_bearer(request: Request) -> None:
    """Another token is decided on, so one in `Authorization` must not reach an upstream that would act on it."""
    if authorization_token(request) is not None:
        request.headers = [field for field in request.headers if field[0] != _AUTHORIZATION]


def _in_header(request: Request, _taken: Taken, _name: bytes) -> bytes | None:
    return authorization_token(request)


def _in_query(request: Request, taken: Taken, name: bytes) -> bytes | None:
    raw = request.target.raw
    path, mark, query = raw.partition(b"?")
    if not mark or b"#" in query:  # a fragment is refused later, with all of it in sight
        return None
    found: list[bytes] = []
    kept: list[bytes] = []
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        (found if _decoded(key) == name else kept).append(pair if _decoded(key) != name else value)
    if not found:
        return None
    if len(found) > 1:
        raise GatewayError("bad_request", "The request has its token in the query twice.")
    taken.target = taken.target or raw
    rest = b"&".join(kept)
    request.target = Target(path + b"?" + rest if rest else path, path, b"", ())
    return _decoded(found[0])


def _in_cookie(request: Request, taken: Taken, name: bytes) -> bytes | None:
    found: list[bytes] = []
    headers: Headers = []
    for field in request.headers:
        if field[0] == _COOKIE:
            rest = _cookies_but(name, field[1], found)
            if rest:
                headers.append((_COOKIE, rest))
        else:
            headers.append(field)
    if not found:
        return None
    if len(found) > 1:
        raise GatewayError("bad_request", "The request has the cookie of its token twice.")
    taken.headers = taken.headers or request.headers
    request.headers = headers
    value = found[0]
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


def _cookies_but(name: bytes, field: bytes, found: list[bytes]) -> bytes:
    """The field without the cookies of that name, whose values go to `found`."""
    kept = []
    for pair in field.split(b";"):
        key, equals, value = pair.partition(b"=")
        if equals and key.strip(b" \t") == name:
            found.append(value.strip(b" \t"))
        else:
            kept.append(pair)
    return b";".join(kept).strip(b" \t")


def _in_protocol(request: Request, taken: Taken, _name: bytes) -> bytes | None:
    offers = [value for key, value in request.headers if key == _PROTOCOL]
    if not offers or not _is_handshake(request):
        return None
    names = [name.strip(b" \t") for name in b",".join(offers).split(b",")]
    if _SCHEME not in names:
        return None
    *kept, scheme, token = names if len(names) > 1 else [b"", b"", b""]
    if scheme != _SCHEME or _SCHEME in kept or not token:
        raise GatewayError("bad_request", "A token in Sec-WebSocket-Protocol is the last one, after bearer.")
    request.headers = _offering(kept, request.headers)
    if taken.headers is not None:
        taken.headers = _offering(kept, taken.headers)
    if not kept:
        request.subprotocol = _SCHEME.decode()
    return token


def _offering(names: Sequence[bytes], headers: Headers) -> Headers:
    others = [field for field in headers if field[0] != _PROTOCOL]
    return [*others, (_PROTOCOL, b", ".join(names))] if names else others


_FINDERS: Final[dict[TokenIn, Callable[[Request, Taken, bytes], bytes | None]]] = {
    TokenIn.HEADER: _in_header,
    TokenIn.QUERY: _in_query,
    TokenIn.COOKIE: _in_cookie,
    TokenIn.WEBSOCKET_PROTOCOL: _in_protocol,
}


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _is_handshake(request: Request) -> bool:
    """Whether a WebSocket is to be opened, here or by the proxy that asks for a decision."""
    return request.websocket or bool(request.values(b"sec-websocket-key"))


def _from_here(request: Request, route: Route) -> bool:
    """Whether the page that asks is of this host, or of an origin that the route names."""
    origins = request.values(b"origin")
    if len(origins) != 1:
        return False
    origin = origins[0].decode("latin-1").lower()
    if route.cors is not None and origin in route.cors.origins:
        return True
    scheme, _, authority = origin.partition("://")
    if scheme not in _PORTS or (request.scheme == "https" and scheme != "https"):
        return False
    port = _PORTS[scheme]
    return bool(authority) and authority.removesuffix(port) in {
        host.lower().removesuffix(port) for host in _own_hosts(request)
    }


def _own_hosts(request: Request) -> list[str]:
    """What the caller may call this host: `Host`, and what a trusted proxy says was asked for."""
    told = request.values(b"x-forwarded-host") if request.trusted else []
    return [request.host, *(value.decode("latin-1") for value in told if len(told) == 1)]
