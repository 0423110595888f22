"""How connections are made: every address of a name in turn, racing (RFC 8305), TLS included."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from gateway.errors import GatewayError
from gateway.model.settings import Address, ClientTls
from gateway.upstream import failures
from gateway.upstream.names import AddressInfo, Names

# TLS towards upstreams: its settings, how far a dial has come, and what is wrong with a certificate.
#
# Rules: a failed verification stays a failure. Only to say when a certificate expired it is fetched once more without
# verification: nothing is sent on that connection, and nothing of it is used but the dates.

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL."""


class ClientContext(ssl.SSLContext):
    """Knows which handshakes have begun: an event loop says nothing between the start of TCP and the end of TLS.

    A dial is known by its server name, a string object of its own (uvloop takes no subclass of str).
    """

    shaking: set[int]

    def wrap_bio(self, *arguments: Any, **more: Any) -> ssl.SSLObject:
        """See ssl.SSLContext; called when TCP is connected."""
        self.shaking.add(id(more.get("server_hostname")))
        return super().wrap_bio(*arguments, **more)

    def has_begun(self, name: str) -> bool:
        """Whether the handshake of the dial with this very string has begun; forgets it."""
        begun = id(name) in self.shaking
        self.shaking.discard(id(name))
        return begun


def client_context(tls: ClientTls) -> ClientContext:
    """The TLS settings of an upstream, read once. OSError, ssl.SSLError or ValueError if a file cannot be used."""
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.shaking = set()
    if tls.ca_file is not None:
        context.load_verify_locations(tls.ca_file)
    else:
        context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


async def date_of_fault(error: Exception, host: str, port: int, name: str, within_s: float) -> str:
    """The day on which a certificate expired, or becomes valid, as ` 2026-03-01`; empty if that is not what is wrong.

    `error` is the failed verification. `host` is a literal address. Takes at most `within_s` seconds.
    """
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code not in (_EXPIRED, _NOT_YET_VALID):
        return ""
    try:
        async with asyncio.timeout(within_s):
            begins, ends = await _validity(host, port, name)
    except (OSError, ValueError):  # TimeoutError and ssl.SSLError are OSErrors
        return ""
    at = ends if code == _EXPIRED else begins
    past = at < dt.datetime.now(dt.UTC)
    return f" {at:%Y-%m-%d}" if past == (code == _EXPIRED) else ""  # else it is another one of the chain


async def _validity(host: str, port: int, name: str) -> tuple[dt.datetime, dt.datetime]:
    from cryptography import x509  # only after a failure

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, host, port, ssl=context, server_hostname=name)
    try:
        shown = cast("ssl.SSLObject", transport.get_extra_info("ssl_object")).getpeercert(binary_form=True)
    finally:
        transport.abort()
    certificate = x509.load_der_x509_certificate(shown or b"")
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def ended_in_order(transport: asyncio.BaseTransport) -> bool:
    """Whether an end that was read is one that the peer meant.

    Over TLS only `close_notify` tells the end from a cut (RFC 9112 section 9.8); asyncio reports both alike.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


# Rules: the next address is tried after NEXT_AFTER_S, or at once when one fails; the first that is connected wins,
# the others are dropped. Every dial has the whole time limit, TLS included, so that nobody's number of addresses
# makes it shorter; all together take at most NEXT_AFTER_S longer for each further address. The first look-up of a
# name is part of the limit; a later one is not, as the last known addresses serve after a moment (see `names`).
# Errors of sockets, DNS and TLS leave here as GatewayErrors that say which address it was and what was wrong with it.

NEXT_AFTER_S: Final = 0.25
"""RFC 8305 section 5: the Connection Attempt Delay."""
_DATE_WITHIN_S: Final = 1.0


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


@dataclass(frozen=True, slots=True)
class _Limit:
    """How long one dial may take: what was asked for, as errors say it, and what the look-up left of it."""

    whole_s: float
    left_s: float


class Dialer:
    """The usual Connector of one upstream."""

    __slots__ = ("_names", "_server_name", "_tls")

    def __init__(self, origins: tuple[Origin, ...], tls: ClientTls) -> None:
        secure = any(origin.scheme == "https" for origin in origins)
        self._tls = client_context(tls) if secure else None
        self._server_name = tls.server_name
        self._names = Names()

    async def __call__(self, origin: Origin, factory: Callable[[], P], within_s: float) -> P:
        """Connect; raises ConnectFailed, or `upstream_overloaded` when we are out of sockets."""
        loop = asyncio.get_running_loop()
        begun_s, known = loop.time(), self._names.knows(origin.address)
        addresses = await self._names.addresses(origin.address, within_s)
        limit = _Limit(within_s, within_s if known else within_s - (loop.time() - begun_s))
        if len(addresses) == 1:
            _, protocol = await self._dial(origin, addresses[0], factory, limit)
            return protocol
        return await self._race(origin, addresses, factory, limit)

    async def _race(self, origin: Origin, addresses: list[AddressInfo], factory: Callable[[], P], limit: _Limit) -> P:
        untried = addresses[::-1]
        errors: list[GatewayError] = []
        running: dict[asyncio.Task[tuple[asyncio.BaseTransport, P]], AddressInfo] = {}
        try:
            while untried or running:
                if untried:
                    address = untried.pop()
                    running[asyncio.create_task(self._dial(origin, address, factory, limit))] = address
                ended, _ = await asyncio.wait(
                    running, timeout=NEXT_AFTER_S if untried else None, return_when=asyncio.FIRST_COMPLETED
                )
                for dial in ended:
                    failure = dial.exception()
                    if failure is None:
                        del running[dial]
                        self._are_slower(running)
                        return dial.result()[1]
                    del running[dial]
                    if not isinstance(failure, GatewayError):
                        raise failure
                    errors.append(failure)
            raise failures.all_failed(errors)
        finally:
            for dial in running:
                dial.cancel()
                dial.add_done_callback(_let_go)

    def _are_slower(self, running: dict[asyncio.Task[tuple[asyncio.BaseTransport, P]], AddressInfo]) -> None:
        """Another one was connected first, though these began before it."""
        for address in [*running.values()]:
            self._names.dead(address)

    async def _dial(
        self, origin: Origin, address: AddressInfo, factory: Callable[[], P], limit: _Limit
    ) -> tuple[asyncio.BaseTransport, P]:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit.left_s
        host, port = socket.getnameinfo(address[4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        name = (self._server_name or origin.address.host).encode().decode()  # a string of its own, see ClientContext
        context = self._tls if origin.scheme == "https" else None
        try:
            async with asyncio.timeout_at(end_s):
                connected = await self._open(host, int(port), factory, context, name)
        except OSError as error:  # TimeoutError is one
            self._names.dead(address)
            if context is None or not context.has_begun(name):
                raise failures.connect_failed(error, f"{Address(host, int(port))}", limit.whole_s) from error
            left_s = min(_DATE_WITHIN_S, end_s - loop.time())
            date = await date_of_fault(error, host, int(port), name, left_s)
            raise failures.handshake_failed(error, f"{origin.address}", limit.whole_s, date) from error
        finally:
            if context is not None:
                context.shaking.discard(id(name))
        self._names.alive(address)
        return connected

    async def _open(
        self, host: str, port: int, factory: Callable[[], P], context: ClientContext | None, name: str
    ) -> tuple[asyncio.BaseTransport, P]:
        # The loop makes the socket: uvloop may close the descriptor of one of ours twice, and then somebody else's.
        loop = asyncio.get_running_loop()
        if context is None:
            return await loop.create_connection(factory, host, port)
        return await loop.create_connection(factory, host, port, ssl=context, server_hostname=name)


def _let_go(dial: asyncio.Task[tuple[asyncio.BaseTransport, P]]) -> None:
    """Nobody waits for it any more; it may have been connected all the same."""
    if not dial.cancelled() and dial.exception() is None:
        cast("asyncio.Transport", dial.result()[0]).abort()


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end, as `10.1.2.3:443`; empty if it is not known any more."""
    peer = transport.get_extra_info("peername")
    return f"{Address(peer[0], peer[1])}" if isinstance(peer, tuple) else ""
