"""Connections without sockets: bytes go to an actor, and what it answers comes back in later turns of the loop."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

CONNECT_S = 0.01


class Actor(Protocol):
    """A server. `refuses` and `swallows` say what becomes of a connection; `on_request` gets whole requests."""

    refuses: bool
    swallows: bool

    def on_request(self, wire: Wire, head: bytes, body: bytes) -> None:
        """A whole request has come."""


class Poll:
    """`select.poll` for one wire: readable if something has arrived that its protocol was not given yet."""

    def register(self, wire: Wire, _: int) -> None:
        self.wire = wire

    def poll(self, _: int) -> list[Any]:
        return [(0, 1)] if self.wire.arrived else []


class Wire(asyncio.Transport):
    """The gateway's side of a connection; the actor's calls are `send`, `end` and `reset`."""

    def __init__(self, protocol: Any, actor: Actor, port: int) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.protocol, self.actor, self.port = protocol, actor, port
        self.arrived: list[bytes | Exception | None] = []
        self.closing = self.paused = self.lost = False
        self.received = b""
        self.busy = False

    # the gateway's side

    def write(self, data: Any) -> None:
        if not self.closing:
            self.received += bytes(data)
            self.loop.call_soon(self._requests)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.loop.call_soon(self._deliver)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", self.port), "socket": self}.get(name, default)

    def fileno(self) -> Wire:
        """What `Poll` registers."""
        return self

    # the actor's side

    def send(self, data: bytes) -> None:
        self._arrive(data)

    def end(self) -> None:
        self._arrive(None)

    def reset(self) -> None:
        self._arrive(ConnectionResetError("reset by the simulation"))

    def _arrive(self, what: bytes | Exception | None) -> None:
        if not self.closing:
            self.arrived.append(what)
            self.loop.call_soon(self._deliver)  # there is a turn in which it lies in the socket

    def _deliver(self) -> None:
        while self.arrived and not self.paused and not self.closing:
            what = self.arrived.pop(0)
            if isinstance(what, bytes):
                self.protocol.data_received(what)
            elif what is None:
                if not self.protocol.eof_received():
                    self._close(None)
            else:
                self._close(what)

    def _close(self, error: Exception | None) -> None:
        if self.closing:
            return
        self.closing = True
        self.loop.call_soon(self.protocol.connection_lost, error)

    def _requests(self) -> None:
        if self.busy or self.closing:
            return
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(rest) >= length:
            self.received = rest[length:]
            self.busy = True
            self.actor.on_request(self, head, rest[:length])

    def answered(self) -> None:
        """The actor is done with a request, and looks for the next."""
        self.busy = False
        self.loop.call_soon(self._requests)


async def connect(actor: Actor, factory: Any, port: int) -> tuple[Wire, Any]:
    """What `create_connection` does."""
    await asyncio.sleep(CONNECT_S)
    if actor.swallows:
        await asyncio.Event().wait()
    if actor.refuses:
        raise ConnectionRefusedError("refused by the simulation")
    protocol = factory()
    wire = Wire(protocol, actor, port)
    protocol.connection_made(wire)
    return wire, protocol
