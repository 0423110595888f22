"""Listening sockets, and uvicorn servers that leave signals to us."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

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


class Server(uvicorn.Server):
    """A uvicorn server whose signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over no signal."""
        yield
