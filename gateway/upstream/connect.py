"""How connections are made: DNS, every address in turn, TLS.

Rules: one time limit for all of it, shared out over the addresses that are left, so that one address which swallows
packets does not use up the time of the others; at most one DNS look-up per origin at a time, shared by all who wait, so
that a slow resolver cannot take every resolver thread from the other upstreams; what was resolved is used for
RESOLVED_FOR_S. Errors of sockets, DNS and TLS leave here as GatewayErrors.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from gateway.model.settings import Address, ClientTls
from gateway.upstream import failures

RESOLVED_FOR_S: Final = 1.0

AddressInfo = tuple[int, int, int, str, Any]
"""An item of `socket.getaddrinfo`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens (RFC 6454 section 4). `authority` is its `Host`: without the scheme's default port."""

    scheme: str
    address: Address
    authority: bytes

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"

    @classmethod
    def parse(cls, url: str) -> Origin:
        """From `http://host:port` or `https://…`; ValueError for anything else, or anything behind the port."""
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        if default is None or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError(f"not an origin: {parts.scheme}://{parts.hostname}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials do not belong into an origin")
        port = parts.port or default
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == default else f"{host}:{port}"
        return cls(
            parts.scheme, Address(parts.hostname, port), authority.encode("idna" if not host.isascii() else "ascii")
        )


P = TypeVar("P", bound=asyncio.Protocol)


class Connector(Protocol):
    """Connects a protocol of the factory to the origin within so many seconds, or raises GatewayError."""

    async def __call__(self, origin: Origin, factory: Callable[[], P], within_s: float) -> P:
        """The protocol, connected."""


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """The TLS settings of an upstream, read once. OSError, ssl.SSLError or ValueError if a file cannot be used."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class Dialer:
    """The usual Connector of one upstream."""

    __slots__ = ("_lookups", "_resolved", "_server_name", "_tls")

    def __init__(self, origins: tuple[Origin, ...], tls: ClientTls) -> None:
        secure = any(origin.scheme == "https" for origin in origins)
        self._tls = client_context(tls) if secure else None
        self._server_name = tls.server_name
        self._lookups: dict[Origin, asyncio.Task[list[AddressInfo]]] = {}
        self._resolved: dict[Origin, tuple[float, list[AddressInfo]]] = {}

    async def __call__(self, origin: Origin, factory: Callable[[], P], within_s: float) -> P:
        """Connect; raises ConnectFailed, or `upstream_overloaded` when we are out of sockets."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        try:
            async with asyncio.timeout_at(end_s):
                addresses = await self._resolve(origin)
            return await self._try_each(origin, addresses, factory, end_s)
        except TimeoutError:
            raise failures.connect_timed_out(within_s) from None
        except OSError as error:
            raise failures.connect_failed(error) from error

    async def _try_each(
        self, origin: Origin, addresses: list[AddressInfo], factory: Callable[[], P], end_s: float
    ) -> P:
        loop = asyncio.get_running_loop()
        left = len(addresses)
        for address in addresses:
            share_s = (end_s - loop.time()) / left
            left -= 1
            try:
                async with asyncio.timeout(share_s):
                    return await self._open(origin, address, factory)
            except OSError:  # TimeoutError is one
                if not left:
                    raise
        raise OSError("the name has no address")

    async def _open(self, origin: Origin, address: AddressInfo, factory: Callable[[], P]) -> P:
        # The loop makes the socket: uvloop may close the descriptor of one of ours twice, and then somebody else's.
        loop = asyncio.get_running_loop()
        host, port = socket.getnameinfo(address[4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        if origin.scheme == "https":
            name = self._server_name or origin.address.host
            _, protocol = await loop.create_connection(factory, host, int(port), ssl=self._tls, server_hostname=name)
        else:
            _, protocol = await loop.create_connection(factory, host, int(port))
        return protocol

    async def _resolve(self, origin: Origin) -> list[AddressInfo]:
        known = self._resolved.get(origin)
        if known is not None and asyncio.get_running_loop().time() < known[0]:
            return known[1]
        lookup = self._lookups.get(origin)
        if lookup is None:
            lookup = self._lookups[origin] = asyncio.get_running_loop().create_task(self._look_up(origin))
            lookup.add_done_callback(_note)
        return await asyncio.shield(lookup)

    async def _look_up(self, origin: Origin) -> list[AddressInfo]:
        loop = asyncio.get_running_loop()
        try:
            addresses = await _addresses(origin.address)
            self._resolved[origin] = (loop.time() + RESOLVED_FOR_S, addresses)
            return addresses
        finally:
            del self._lookups[origin]


def _note(lookup: asyncio.Task[list[AddressInfo]]) -> None:
    """Take note of how it ended, so that asyncio does not complain when nobody waits for it any more."""
    if not lookup.cancelled():
        lookup.exception()


async def _addresses(address: Address) -> list[AddressInfo]:
    flags = socket.AI_NUMERICHOST if _is_literal(address.host) else 0
    if flags:
        return _infos(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags))
    loop = asyncio.get_running_loop()
    return _infos(await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))


def _infos(found: list[Any]) -> list[AddressInfo]:
    return [(int(family), int(kind), proto, name, sockaddr) for family, kind, proto, name, sockaddr in found]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
