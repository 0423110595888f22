"""Finds the token of a request, wherever it may stand, and says in 401 what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.errors import GatewayError
from gateway.model.request import Headers, Request, Taken, Target
from gateway.model.route import Route
from gateway.model.settings import HEADER_ONLY, TokenIn, TokenPlace

# Finds the bearer token of a request (RFC 6750 section 2.1), and says in 401 what is missing.
#
# Rules: exactly one `Authorization` field; the scheme in any case, one space, then the token. Anything that a peer
# could read as another token - a second space, a comma, a byte outside of b64token - is refused, so that what was
# decided on, what IAM is asked and what the upstream reads are the same token. Other places than this field: see
# `places`.

_SCHEME: Final = b"bearer "
_START: Final = len(_SCHEME)
_AUTHORIZATION: Final = b"authorization"
_B64TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")


class Challenge:
    """Makes the 401s of one listener, with their `WWW-Authenticate` (RFC 6750 section 3)."""

    __slots__ = ("_realm",)

    def __init__(self, realm: str) -> None:
        self._realm = re.sub(r"[^\x20-\x7e]|[\"\\]", "", realm)

    def missing(self) -> GatewayError:
        """No credentials of a kind that is understood: a challenge without an error code."""
        return self._error("A bearer token is needed.", f'Bearer realm="{self._realm}"')

    def invalid(self, description: str) -> GatewayError:
        """A token was sent and is not good. `description` is a constant sentence, never text of the token."""
        value = f'Bearer realm="{self._realm}", error="invalid_token", error_description="{description}"'
        return self._error(description, value, reason=description)

    def insufficient(self, claim: str, values: Sequence[str]) -> GatewayError:
        """The token is good, but `claim` does not hold all of `values`; all three are of the configuration."""
        wanted = " ".join(values)
        asked = f'scope="{wanted}"' if claim == "scope" else f'error_description="{claim} must hold {wanted}"'
        value = f'Bearer realm="{self._realm}", error="insufficient_scope", {asked}'
        detail = f"The claim {claim} of the token does not hold all of: {wanted}."
        return GatewayError(
            "insufficient_scope", detail, headers=((b"www-authenticate", value.encode()),), reason=detail
        )

    def untrusted(self, reason: str) -> GatewayError:
        """No identity from a trusted proxy. `reason` is for the log."""
        return self._error("The identity of the caller is not known.", f'Bearer realm="{self._realm}"', reason)

    def _error(self, detail: str, value: str, reason: str = "") -> GatewayError:
        headers = ((b"www-authenticate", value.encode()),)
        return GatewayError("unauthenticated", detail, headers=headers, reason=reason or detail)


class Tokens(Protocol):
    """Where the token of a request is."""

    def of(self, request: Request) -> bytes:
        """The token, not yet checked (see `well_formed`).

        Raises `unauthenticated` without one, `bad_request` for several credentials, and `headers_too_large` for a token
        of more than `server.max_token` bytes.
        """


class HeaderTokens:
    """Tokens in `Authorization`, after the scheme."""

    def __init__(self, challenge: Challenge, max_token: int) -> None:
        self._challenge = challenge
        self._longest = _START + max_token

    def of(self, request: Request) -> bytes:
        """See Tokens."""
        value = None
        for name, field in request.headers:  # as `authorization_token`, without the calls: every request comes here
            if name == _AUTHORIZATION:
                if value is not None:
                    raise several()
                value = field
        if value is None or value[:_START].lower() != _SCHEME:
            raise self._challenge.missing()
        return value[_START:] if len(value) <= self._longest else limited(value[_START:], self._longest - _START)


def authorization_token(request: Request) -> bytes | None:
    """What follows the scheme `Bearer`, None without it. Raises `bad_request` for several `Authorization` fields."""
    values = request.values(_AUTHORIZATION)
    if len(values) > 1:
        raise several()
    value = values[0] if values else None
    return value[_START:] if value is not None and value[:_START].lower() == _SCHEME else None


def several() -> GatewayError:
    """Whose credentials count cannot be known."""
    return GatewayError("bad_request", "The request has more than one Authorization header field.")


def limited(token: bytes, max_token: int) -> bytes:
    """The token. Raises `headers_too_large` for one of more than `max_token` bytes."""
    if len(token) > max_token:
        raise GatewayError("headers_too_large", f"The token is longer than {max_token} bytes.")
    return token


def well_formed(token: bytes) -> bool:
    """Whether the bytes are a b64token (RFC 6750 section 2.1), which can be passed on as they are anywhere."""
    return _B64TOKEN.fullmatch(token) is not None


# Tokens in other places than `Authorization`: found, and taken out of the request before anything else reads it.

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE: Final = b"cookie"
_PROTOCOL: Final = b"sec-websocket-protocol"
_BEARER: Final = b"bearer"
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
            # The first place that holds one is used, and the others are taken out all the same.
            if token and taken.token is None:
                taken.token, taken.kind = token, kind

    def settle(self, request: Request, route: Route, *, public: bool) -> None:
        """The route is known: give back what it forwards. Raises `cross_site`."""
        taken = request.taken
        if taken is None:
            return
        # The upstream gets query and cookie back only where the route says so.
        if route.forward_token:
            taken.put_back = True
            request.headers = taken.headers or request.headers
            request.target = replace(request.target, raw=taken.target or request.target.raw)
        if not public and self._reads_header and taken.token is not None and taken.kind != TokenIn.HEADER:
            _without_bearer(request)
        # A browser sends cookies with what any page asks for; what changes nothing may pass, a handshake may not.
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
        # Two parsers could take either.
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
    if _BEARER not in names:
        return None
    *kept, scheme, token = names if len(names) > 1 else [b"", b"", b""]
    if scheme != _BEARER or _BEARER in kept or not token:
        raise GatewayError("bad_request", "A token in Sec-WebSocket-Protocol is the last one, after bearer.")
    request.headers = _offering(kept, request.headers)
    if taken.headers is not None:
        taken.headers = _offering(kept, taken.headers)
    if not kept:
        request.subprotocol = _BEARER.decode()
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
