"""Runs the decision point as a server of its own: `gateway iam`.

Rules: the address is bound before anything else is started, so a port in use is one clear line; SIGINT and SIGTERM end
it cleanly, a second SIGINT at once; SIGHUP loads the policies again, all or nothing: a folder with a mistake leaves
the last good ones in force. Heads, times and connections are limited as on the public listener, by the same code: a
decision point that one caller can fill is an outage for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from gateway.model.settings import Address, ServerSettings
from gateway.pdp.authzen import authzen_app
from gateway.pdp.faults import AMPLE, CONTROL_PATH, BreakableApp, Capacity, FaultSwitch
from gateway.pdp.point import EmbeddedDecisionPoint
from gateway.pdp.problem import PolicyError
from gateway.server import EdgeServer, inner_config
from gateway.server.connection import EdgeProtocol
from gateway.server.factory import ListenerConfig

CONNECTIONS: Final = 1000
"""Gateways keep a few each."""
SHUTDOWN_S: Final = 2
MAX_PORT: Final = 65535


class CannotListenError(Exception):
    """The address cannot be bound: one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IamOptions:
    """What `gateway iam` was asked to do. `control` opens `/-/fault`, for drills."""

    folder: Path
    listen: Address
    verbose: bool = False
    control: bool = False
    capacity: Capacity = AMPLE


def parse_address(text: str) -> Address:
    """`127.0.0.1:8181`, `[::1]:8181`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        raise ValueError(f"'{text}' is not HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text}' is not HOST:PORT: an IPv6 address stands in brackets")
    return Address(host, int(port))


def serve(options: IamOptions, say: Callable[[str], None]) -> None:
    """Serve until told to stop. `say` gets lines for people. Raises PolicyError, CannotListenError."""
    point = EmbeddedDecisionPoint.load(options.folder)
    with _listening(options.listen) as listener:
        host, port = listener.getsockname()[:2]
        policies = _Policies(options.folder, point, say)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ready = _ready_line(options, point, Address(host, port))
            runner.run(_serve(options, policies, listener, lambda: say(ready)))


def _ready_line(options: IamOptions, point: EmbeddedDecisionPoint, address: Address) -> str:
    what = f"{point.policy_count} policies and {point.entity_count} entities of {options.folder}"
    drills = ", faults by POST /-/fault" if options.control else ""
    return f"gateway iam: serving {what} at http://{address} (AuthZEN{drills})"


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio sends at once, without waiting for acknowledgements, only on sockets that say that they are TCP.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise CannotListenError(f"cannot listen on {address}: {error.strerror or error}") from None
        yield listener


class _Policies:
    """The point in force; replaced as a whole."""

    def __init__(self, folder: Path, point: EmbeddedDecisionPoint, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self.point = point

    def reload(self) -> None:
        try:
            self.point = EmbeddedDecisionPoint.load(self._folder)
        except PolicyError as error:
            self._say(f"{error}\ngateway iam: the policies were not reloaded; the last good ones stay in use")
        else:
            self._say(f"gateway iam: reloaded {self.point.policy_count} policies of {self._folder}")


class _Server(EdgeServer):
    """A stop by signal is a clean end of the process, and readiness is announced."""

    def __init__(
        self,
        config: ListenerConfig,
        listening: socket.socket,
        on_hangup: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config, listening)
        self._on_hangup = on_hangup
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ask the loop for signals, so that none is raised again after a clean end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


async def _serve(
    options: IamOptions, policies: _Policies, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    switch = FaultSwitch() if options.control else None
    app = authzen_app(lambda: policies.point, verbose=options.verbose)
    config = inner_config(
        app if switch is None and options.capacity == AMPLE else BreakableApp(app, switch, options.capacity),
        ServerSettings(name="iam"),
        "iam",
        CONNECTIONS,
        http=EdgeProtocol if switch is None else partial(Breakable, switch),
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    await _Server(config, listener, policies.reload, on_ready).serve()


class Breakable:
    """A connection that is reset while the switch is `down`, unless it is for the switch itself."""

    def __init__(self, switch: FaultSwitch, **known: Any) -> None:
        self._switch = switch
        self._edge = EdgeProtocol(**known)
        self._spared: bool | None = None

    def __getattr__(self, name: str) -> Any:
        """All else is the listener's own."""
        return getattr(self._edge, name)

    def data_received(self, data: bytes) -> None:
        """Not for the listener while IAM is down."""
        if self._spared is None:
            self._spared = CONTROL_PATH.encode() in data.partition(b"\r\n")[0]
        if self._switch.mode == "down" and not self._spared:
            self._edge.reset()
        else:
            self._edge.data_received(data)
