"""Connections from the kernel to their protocol: accepted, counted, and only then anything is made of them.

Why the loop's own server is not enough: it shakes hands before anybody can count, and ends without a word what finds
no free file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.forwarded import new_request_id, plain_address
from gateway.server.connection import EdgeProtocol
from gateway.server.listener import Admission, Listener
from gateway.server.response import refusal

AT_ONCE: Final = 64
PAUSE_S: Final = 0.1
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Takes the connections of one listening socket. Stands in uvicorn's list of servers.

    `context`: what new connections shake hands with, None for plain HTTP; it may be replaced.
    """

    def __init__(
        self,
        listening: socket.socket,
        listener: Listener,
        make: Callable[[Admission], EdgeProtocol],
        context: ssl.SSLContext | None,
    ) -> None:
        self.context = context
        self._listening = listening
        self._listener = listener
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._open = False

    def start(self, backlog: int) -> None:
        """Listen, and take what comes."""
        self._listening.listen(backlog)
        self._listening.setblocking(False)
        self._open = True
        self._loop.add_reader(self._listening, self.take)

    def take(self, at_most: int = AT_ONCE) -> int:
        """Take what waits in the kernel now. How many there were."""
        # So many in one turn of the loop, then others have theirs.
        for number in range(at_most):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return number
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._pause()
                return number
            self._judge(connection, plain_address(address[0]) if isinstance(address, tuple) else "")
        return at_most

    def close(self) -> None:
        """Take no more. Those that shake hands go on."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listening)

    async def wait_closed(self) -> None:
        """End what still shakes hands."""
        beginning = tuple(self._beginning)
        for task in beginning:
            task.cancel()
        await asyncio.gather(*beginning, return_exceptions=True)

    async def begun(self, *, within_s: float) -> None:
        """Wait until everything that was taken is served, or for so long."""
        if self._beginning:
            await asyncio.wait(tuple(self._beginning), timeout=within_s)

    def _pause(self) -> None:
        self._listener.refusals.count("open_files", "")
        if self._open:
            self._loop.remove_reader(self._listening)
            # No more files may be open: the kernel keeps what waits meanwhile.
            self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._listening, self.take)

    def _judge(self, connection: socket.socket, peer: str) -> None:
        admission = self._listener.admit(peer, connection.fileno(), self._loop.time())
        if isinstance(admission, GatewayError):
            self._refuse(connection, admission)
            return
        task = self._loop.create_task(self._begin(connection, admission))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _refuse(self, connection: socket.socket, error: GatewayError) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError), connection:
            # Told so, if it speaks plain HTTP, and closed at once.
            if self.context is None:
                answer = refusal(
                    error,
                    server_name=self._listener.settings.name,
                    request_id=new_request_id(),
                    defaults=[],
                    head_request=False,
                )
                connection.send(answer)
                connection.shutdown(socket.SHUT_WR)

    async def _begin(self, connection: socket.socket, admission: Admission) -> None:
        """Let the loop serve it. A handshake that fails or takes too long is nobody's error but the client's."""
        tls: dict[str, Any] = {}
        if self.context is not None:
            # The request head has what the handshake leaves of this time.
            tls = {"ssl": self.context, "ssl_handshake_timeout": self._listener.settings.header_timeout_s}
        connection.setblocking(False)
        protocol = self._make(admission)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock=connection, **tls)
        except OSError:
            admission.release()
        except BaseException:
            admission.release()
            raise
