"""Listening sockets and uvicorn servers, the TLS context that is renewed, and how many files may be open."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import logging
import os
import resource
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from starlette.types import ASGIApp

from gateway.model.settings import Address, ClientTls, ServerSettings, ServerTls
from gateway.server import EdgeServer, inner_config
from gateway.server.connection import EdgeProtocol
from gateway.server.factory import ListenerConfig, server_context
from gateway.server.listener import files_for, files_for_connections

# How many files this process may open: each connection is one, and a system's usual limit is low (setrlimit(2)).

_LOG: Final = logging.getLogger("gateway")


def provide_for(connections: int) -> None:
    """Raise this process's own limit as far as these connections need it. Log if the system does not allow it."""
    wanted = files_for(connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, wanted):
        return
    raised = wanted if _enough(hard, wanted) else hard
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    if not _enough(soft, wanted):
        _LOG.warning(
            "this process may open %d files, enough for about %d connections, but server.max_connections is %d; "
            "raise its limit to %d files (ulimit -n, LimitNOFILE of systemd)",
            soft, files_for_connections(soft), connections, wanted,
        )  # fmt: skip


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted


# TLS on the public listener: the context for handshakes of new connections. A new one is made when its files change.
#
# Rules: a renewed pair is used from the next connection on. Open connections keep theirs. A pair that cannot be used
# (only one of the two files is written yet) is logged and changes nothing; the next check finds it complete. A new
# context is made instead of changing the old one, so that authorities removed from `client_ca_file` are not trusted
# any more.


class Listening(Protocol):
    """A listener whose context can be replaced without losing a connection."""

    async def listen_with(self, context: ssl.SSLContext | None) -> None:
        """Use this for new handshakes from now on; None: plain HTTP."""


def material(*files: Path | None) -> tuple[str, ...]:
    """What the files hold now, as hashes: equal while nothing was renewed. A file that is gone differs from any."""
    return tuple(_digest(file) for file in files if file is not None)


def client_material(tls: ClientTls | None) -> tuple[str, ...]:
    """The material of TLS towards an upstream or IAM."""
    return () if tls is None else material(tls.ca_file, tls.cert_file, tls.key_file)


class Certificates:
    """Keeps a listener's context as its files are. `tls`: what it was started with."""

    def __init__(self, listening: Listening, tls: ServerTls | None) -> None:
        self._listening = listening
        self._live = _identity(tls)

    async def renew(self, tls: ServerTls | None) -> None:
        """Let the listener use `tls` as its files are now, if that is another context than the one in use."""
        wanted = _identity(tls)
        if wanted == self._live:
            return
        try:
            context = None if tls is None else server_context(tls)
            await self._listening.listen_with(context)
        except (OSError, ssl.SSLError) as error:
            _LOG.error("the certificate was not renewed, the previous one stays in use: %s", error)
            return
        self._live = wanted
        _LOG.warning("new connections are served %s", "without TLS" if context is None else "with the new certificate")


def _identity(tls: ServerTls | None) -> tuple[ServerTls | None, tuple[str, ...]]:
    return tls, () if tls is None else material(tls.cert_file, tls.key_file, tls.client_ca_file)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


BACKLOG = 2048
HANDSHAKES_S: Final = 0.25
"""How long a listener that closes waits for connections that are being made: about a round trip."""
CLOSING_S: Final = 2.0
"""How long it waits at most while connections still arrive."""
_LOOK_S: Final = 0.01
_TLS_S: Final = 1.0
_ATTACH_FILTER: Final = 26
"""SO_ATTACH_FILTER of Linux (socket(7)), which Python does not name."""
_NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that holds the flags (RFC 9293 section 3.1)
    (0x54, 0, 0, 0x12),  # of it SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone begins a connection:
    (0x06, 0, 0, 0),  # drop it;
    (0x06, 0, 0, 0x40000),  # all else passes
)
ADMIN_CONNECTIONS: Final = 256
"""Probes, scrapers, and operators with the page open."""


class CannotServeError(Exception):
    """A listener cannot be opened: one line for the user."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets of one process. `decisions` is None where there is no decision listener."""

    public: socket.socket
    admin: socket.socket
    decisions: socket.socket | None

    @classmethod
    def of(cls, settings: ServerSettings, take: Callable[[Address], socket.socket]) -> Sockets:
        """`take` is how the addresses of requests are taken: `bind`, or `reserve` for workers."""
        public, admin = take(settings.listen), bind(settings.admin)
        return cls(public, admin, None if settings.decisions is None else take(settings.decisions))

    def shown(self) -> tuple[str, ...]:
        """The addresses, with the ports that the system chose where the file says 0."""
        sockets = (self.public, self.admin, self.decisions)
        return tuple(str(Address(*each.getsockname()[:2])) for each in sockets if each is not None)


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises CannotServeError in words: in use, not ours, not permitted."""
    listener = _bound(address)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot(address, error) from None
    listener.setblocking(False)
    return listener


def reserve(address: Address) -> socket.socket:
    """A socket that keeps an address for the sockets of workers, and listens itself never. Raises CannotServeError."""
    # Sockets that share a port would also share it with another gateway: only one that does not share finds that out.
    alone = _bound(address)
    port = alone.getsockname()[1]
    alone.close()
    return _bound(Address(address.host, port), shared=True)


def another(reserved: socket.socket) -> socket.socket:
    """One more socket on a reserved address, for a worker, which listens when it is ready. Raises OSError."""
    listener = socket.socket(reserved.family, reserved.type, reserved.proto)
    _share(listener)
    listener.bind(reserved.getsockname())
    return listener


def _bound(address: Address, *, shared: bool = False) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise _cannot(address, error) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            _share(listener)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise _cannot(address, error) from None
    return listener


def _share(listener: socket.socket) -> None:
    """The kernel spreads connections evenly over the listening sockets of one port (socket(7))."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _cannot(address: Address, error: OSError) -> CannotServeError:
    return CannotServeError(f"cannot listen on {address}: {error.strerror or error}")


def take_no_handshakes(listener: socket.socket) -> None:
    """Let the kernel begin no new connection here; those that have begun are completed. Where it can't, nothing.

    Closing a listening socket resets what waits in it. A client whose first packet is dropped asks again a second
    later, and is then refused, or served by whoever listens by then.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
    kept = ctypes.create_string_buffer(program)
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            pointer = struct.pack("HL", len(_NO_SYN), ctypes.addressof(kept))
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, pointer)


def inherited(number: int) -> socket.socket:
    """A socket that the supervisor bound; the server listens on it when it is ready."""
    listener = socket.socket(fileno=number)
    listener.setblocking(False)
    return listener


def bind_unix(path: str) -> socket.socket:
    """A listening Unix socket that only this user can reach."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)  # a socket's path, as given
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def admin_config(app: ASGIApp, settings: ServerSettings) -> ListenerConfig:
    """How the admin listener is served: with the limits of the public one, for few, and quick to end."""
    return inner_config(app, settings, "admin", ADMIN_CONNECTIONS)


class Server(EdgeServer):
    """A server on one socket. It handles no signals, and it stops in steps."""

    def __init__(self, config: ListenerConfig, listener: socket.socket) -> None:
        super().__init__(config, listener)
        self._listener = listener
        self.up = asyncio.Event()

    async def run_on_socket(self) -> None:
        """Serve until `end`."""
        await self.serve(sockets=[self._listener])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over no signal."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; `up` is set when connections are accepted."""
        await super().startup(sockets)
        self.up.set()

    async def listen_with(self, context: ssl.SSLContext | None) -> None:
        """Use another context for handshakes of new connections."""
        self.acceptor.context = context

    def close_after_responses(self) -> None:
        """Every answer that has not begun says `Connection: close`."""
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, EdgeProtocol):
                connection.close_after_response()

    async def stop_listening(self) -> None:
        """Accept what the kernel has completed, and take no new connections."""
        self.acceptor.close()
        take_no_handshakes(self._listener)
        await self._take_waiting()
        self._listener.close()
        await self.acceptor.begun(within_s=_TLS_S)

    async def _take_waiting(self) -> None:
        """Until none has come for HANDSHAKES_S; ends right after a look that found none."""
        loop = asyncio.get_running_loop()
        quiet_s = begun_s = loop.time()
        while loop.time() - quiet_s < HANDSHAKES_S and loop.time() - begun_s < CLOSING_S:
            await asyncio.sleep(_LOOK_S)
            if self.acceptor.take(BACKLOG):
                quiet_s = loop.time()

    def end(self, *, within_s: float) -> None:
        """Close what is idle, and what runs after `within_s` seconds at the latest."""
        graceful: Any = within_s  # uvicorn hands it to asyncio as it is
        self.config.timeout_graceful_shutdown = graceful
        self.should_exit = True
