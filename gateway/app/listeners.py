"""Listening sockets, and uvicorn servers that leave signals to us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp

from gateway.model.settings import Address, ServerSettings
from gateway.server import EdgeServer, inner_config
from gateway.server.connection import EdgeProtocol
from gateway.server.factory import ListenerConfig

BACKLOG = 2048
HANDSHAKES_S: Final = 0.25
"""How long a listener that closes waits for connections that are being made: about a round trip."""
CLOSING_S: Final = 2.0
"""How long it goes on at most, while connections still arrive."""
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
    """A listener cannot be had: one line for the user."""


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
    os.chmod(path, 0o600)  # noqa: PTH101 - a socket's path, as given
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def admin_config(app: ASGIApp, settings: ServerSettings) -> ListenerConfig:
    """How the admin listener is served: with the limits of the public one, for few, and quick to end."""
    return inner_config(app, settings, "admin", ADMIN_CONNECTIONS)


class Server(EdgeServer):
    """A server on one socket. Its signals are somebody else's, and it ends in steps."""

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
        """Let new connections shake hands with another context."""
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
