"""Listening sockets, and uvicorn servers that leave signals to us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.model.settings import Address
from gateway.server.connection import EdgeProtocol

BACKLOG = 2048


class CannotServeError(Exception):
    """A listener cannot be had: one line for the user."""


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises CannotServeError in words: in use, not ours, not permitted."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotServeError(f"cannot listen on {address}: {error.strerror or error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotServeError(f"cannot listen on {address}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def inherited(number: int) -> socket.socket:
    """A listening socket that the supervisor bound."""
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


def admin_config(app: ASGIApp) -> uvicorn.Config:
    """How the admin listener is served: plain, and quick to end."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )


class Server(uvicorn.Server):
    """A uvicorn server on one socket. Its signals are somebody else's, and it ends in steps."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
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
        """Shake hands with another context. What waits for being accepted is not lost: the socket stays the same."""
        loop, before = asyncio.get_running_loop(), self.servers
        self.servers = [
            await loop.create_server(self._protocol, sock=self._listener.dup(), ssl=context, backlog=BACKLOG)
        ]
        for server in before:
            server.close()

    def _protocol(self) -> asyncio.Protocol:
        """One connection, as uvicorn makes it."""
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def close_after_responses(self) -> None:
        """Every answer that has not begun says `Connection: close`."""
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, EdgeProtocol):
                connection.close_after_response()

    def stop_listening(self) -> None:
        """Take no new connections."""
        for server in self.servers:
            server.close()
        self._listener.close()

    def end(self, *, within_s: float) -> None:
        """Close what is idle, and what runs after `within_s` seconds at the latest."""
        graceful: Any = within_s  # uvicorn hands it to asyncio as it is
        self.config.timeout_graceful_shutdown = graceful
        self.should_exit = True
