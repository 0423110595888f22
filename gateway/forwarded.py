"""Who sent a request, and over what: the listener's scope → Request, with the trust list applied.

Rules: `X-Forwarded-*` and `X-Request-ID` are believed only if the TCP peer is in `server.trusted_proxies`. The client's
address is the rightmost entry of `X-Forwarded-For` that is not itself a trusted proxy; an entry that is no address ends
the search there. Everything else about a request comes from the request itself. Nothing here raises for what a client
sent: the target stays as received until the pipeline, which has a record by then, parses it.

Deliberately absent: `Forwarded` (RFC 7239), which is removed, and the PROXY protocol.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeVar

from gateway.ids import random_id
from gateway.model.request import Request, Target
from gateway.model.settings import Network, ServerSettings

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_REMEMBERED: Final = 4096
_MAX_HOPS: Final = 64
"""Entries of `X-Forwarded-For` that are looked at: callers write what stands before our proxies' own."""
_SHORT: Final = 256
_LONGEST_ADDRESS: Final = 64
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
_MAPPED: Final = "::ffff:"


R = TypeVar("R", bound=Request)


class Received(Protocol):
    """What the listener knows of a request beyond ASGI (`scope["extensions"]["gateway.edge"]`)."""

    @property
    def raw_target(self) -> bytes:
        """The request target in origin form, byte for byte as received."""

    @property
    def host(self) -> str:
        """The `Host` field as received, "" where HTTP/1.0 sent none."""


def new_request_id() -> str:
    """32 hexadecimal digits that nobody has used."""
    return random_id()


def plain_address(address: str) -> str:
    """The address of a socket as everybody else writes it, so that the same host is always the same text.

    IPv4 inside IPv6 (`::ffff:192.0.2.1`, RFC 4291 section 2.5.5.2: a caller of a dual-stack listener) is IPv4; a zone
    (`fe80::1%eth0`) says something of our interfaces, and is left out.
    """
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    return address.removeprefix(_MAPPED) if "." in address else address


class Trust:
    """The trust list, with the verdict on each peer remembered: peers are few, requests are many."""

    __slots__ = ("_known", "_networks")

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks
        self._known: dict[str, bool] = {}

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        verdict = self._known.get(address)
        if verdict is None:
            verdict = self._judge(address)
            if len(self._known) < _REMEMBERED:
                self._known[address] = verdict
        return verdict

    def _judge(self, address: str) -> bool:
        try:
            parsed = _parsed(address)
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)

    def client(self, peer: str, chain: list[bytes]) -> str:
        """The address of the caller behind a trusted `peer` whose `X-Forwarded-For` fields are `chain`."""
        client = peer
        entries = b",".join(chain).rsplit(b",", _MAX_HOPS)
        for entry in reversed(entries[-_MAX_HOPS:]):
            address = _address(entry)
            if address is None:
                return client
            client = address
            if address not in self:
                return client
        return client


def _address(entry: bytes) -> str | None:
    """An entry of `X-Forwarded-For`: an IP address, possibly with brackets and a port."""
    return _known_address(entry) if len(entry) <= _LONGEST_ADDRESS else _parsed_address(entry)


def _parsed_address(entry: bytes) -> str | None:
    text = entry.strip(b" \t").decode("latin-1")
    found = _WITH_PORT.fullmatch(text)
    try:
        return str(_parsed(found[1] or found[2] if found else text))
    except ValueError:
        return None


# Callers come back, and parsing an address costs more than all the rest of a request's head.
_known_address = lru_cache(maxsize=_REMEMBERED)(_parsed_address)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, an IPv4 address where it holds one; without a zone, which is any text. Raises ValueError."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return parsed if mapped is None else mapped


def _unparsed(raw: bytes) -> Target:
    return Target(raw, raw.partition(b"?")[0], b"", ())


_remembered = lru_cache(maxsize=4096)(_unparsed)


def unparsed(raw: bytes) -> Target:
    """The target of a request that nobody has looked at: only `raw` and `path` are set."""
    # A query may hold a token, which nothing here keeps.
    return _remembered(raw) if len(raw) <= _SHORT and b"?" not in raw else _unparsed(raw)


class Builder(Generic[R]):
    """ASGI scope of the listener → Request, or its kind `made`. Compiles the trust list once per settings."""

    __slots__ = ("_made", "_settings", "_trust")

    def __init__(self, made: Callable[..., R]) -> None:
        self._made = made
        self._settings: ServerSettings | None = None
        self._trust = Trust(())

    def __call__(self, scope: MutableMapping[str, Any], settings: ServerSettings) -> R:
        """The request with its target unparsed: only `target.raw` and `target.path` are set."""
        if settings is not self._settings:
            self._settings, self._trust = settings, Trust(settings.trusted_proxies)
        edge: Received = scope["extensions"]["gateway.edge"]
        raw = edge.raw_target
        client = scope["client"]
        peer = client[0] if client else ""
        scheme = scope["scheme"]
        trusted = peer in self._trust
        # By position: this is made for every request, and names cost more than all the rest of it.
        request = self._made(
            scope.get("method", "GET"),
            unparsed(raw),
            scope["headers"],
            edge.host,
            _SCHEMES[scheme],
            peer,
            peer,
            trusted,
            "" if trusted else random_id(),
            scope["http_version"],
            scope["type"] == "websocket",
        )
        if trusted:
            self._believe(request)
        return request

    def _believe(self, request: Request) -> None:
        chain: list[bytes] = []
        schemes: list[bytes] = []
        ids: list[bytes] = []
        for name, value in request.headers:
            if name == b"x-forwarded-for":
                chain.append(value)
            elif name == b"x-forwarded-proto":
                schemes.append(value)
            elif name == b"x-request-id":
                ids.append(value)
        request.client = self._trust.client(request.peer, chain)
        if schemes:
            request.scheme = _SCHEMES.get(_last(schemes), request.scheme)
        sane = len(ids) == 1 and _SANE_ID.fullmatch(ids[0])
        request.request_id = ids[0].decode("ascii") if sane else new_request_id()


class RequestBuilder(Builder[Request]):
    """ASGI scope of the public listener → Request."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Request)


def _last(values: list[bytes]) -> str:
    """The last list element of a field: what the nearest proxy said."""
    return values[-1].rpartition(b",")[2].strip(b" \t").decode("latin-1").lower()
