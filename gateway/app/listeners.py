"""Listening sockets, and uvicorn servers that leave signals to us."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from gateway.model.settings import Address

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
    """A uvicorn server whose signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over no signal."""
        yield
