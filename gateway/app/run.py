"""One serving process: sockets first, then the gateway, then ready; and the way back, in the order that hurts least.

SIGTERM, SIGINT and `POST /-/drain` begin the drain (`draining`); a second signal ends it at once. A first signal after
`POST /-/drain` changes nothing: a hook that drains is followed by one. SIGHUP reloads. What every request needs is
closed after the last of them, and telemetry is flushed last.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import uvloop

from gateway.admin.app import admin_app, worker_app
from gateway.admin.feed import Feed
from gateway.admin.recent import Recent
from gateway.app import garbage
from gateway.app.certificates import Certificates
from gateway.app.draining import drain
from gateway.app.listeners import CannotServeError, Server, admin_config, bind, bind_unix, inherited
from gateway.app.running import Gateway
from gateway.app.together import OWN_STATUS, SNAPSHOT
from gateway.app.watch import reload_on_change
from gateway.app.workers import SOCKET_VARIABLE, Supervisor
from gateway.config.addresses import is_loopback
from gateway.model.settings import Address, Configuration, ServerSettings
from gateway.server import uvicorn_config
from gateway.telemetry import Telemetry, build_observer

__all__ = ["CannotServeError", "NotAllowedError", "Overrides", "serve"]

EXIT_FORCED = 1


class NotAllowedError(ValueError):
    """The command line asks for what a configuration may not: one line for the user."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says instead of the file."""

    listen: Address | None = None
    admin: Address | None = None

    @classmethod
    def parse(cls, listen: str, admin: str) -> Overrides:
        """From `HOST:PORT` texts, empty for none. Raises ValueError."""
        return cls(_address(listen), _address(admin))

    def over(self, configuration: Configuration) -> Configuration:
        """The configuration with what the command line says. NotAllowedError: a file could not say that."""
        server = configuration.server
        changed = dataclasses.replace(server, listen=self.listen or server.listen, admin=self.admin or server.admin)
        if not is_loopback(changed.admin.host) and not changed.admin_token:
            raise NotAllowedError(
                f"the admin listener on {changed.admin} is not on loopback: it needs server.admin_token"
            )
        if changed.listen == changed.admin and changed.admin.port:
            raise NotAllowedError(f"both listeners can't be on {changed.admin}")
        return dataclasses.replace(configuration, server=changed)

    def arguments(self, configuration: Configuration) -> list[str]:
        """The command line that says the same to a worker."""
        texts = ["-c", str(configuration.file)]
        for name, address in (("--listen", self.listen), ("--admin", self.admin)):
            texts += [name, str(address)] if address is not None else []
        return texts


def _address(text: str) -> Address | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not int(port) < 65536:  # noqa: PLR2004 - ports have 16 bits
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host.strip("[]") or "0.0.0.0", int(port))  # `:8080` means everywhere, as elsewhere


def serve(configuration: Configuration, overrides: Overrides, *, workers: int = 1) -> None:
    """Serve until told to stop. Raises CannotServeError, and NotAllowedError for overrides.

    A second signal ends the process with 1.
    """
    configuration = overrides.over(configuration)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_before_serving)
    inherited_from = os.environ.get(SOCKET_VARIABLE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if inherited_from:
            listening, pipe, path = inherited_from.split(":", 2)
            sockets = inherited(int(listening)), bind_unix(path)
            runner.run(Process(configuration, overrides, *sockets, lifeline=int(pipe)).run())
            return
        public, admin = bind(configuration.server.listen), bind(configuration.server.admin)
        if workers > 1:
            supervisor = Supervisor(configuration, overrides.arguments(configuration), public, admin)
            runner.run(supervisor.run(workers))
        else:
            runner.run(Process(configuration, overrides, public, admin).run())


def _end_before_serving(*_: object) -> NoReturn:
    """The sockets take connections before the loop takes signals: until then there is nothing to drain or to close."""
    os._exit(0)


class Process:
    """One serving process: alone, or one of several workers whose operators ask on a Unix socket.

    `lifeline`: a worker's pipe from its supervisor, which ends with it.
    """

    def __init__(
        self,
        configuration: Configuration,
        overrides: Overrides,
        public: socket.socket,
        admin: socket.socket,
        *,
        lifeline: int | None = None,
    ) -> None:
        self._configuration = configuration
        self._overrides = overrides
        self._sockets = (public, admin)
        self._lifeline = lifeline
        self._signalled = False

    async def run(self) -> None:
        """Serve until told to stop."""
        recent = Recent()
        telemetry = build_observer(self._configuration.server, os.environ, also=[recent])
        gateway = Gateway(self._configuration, telemetry, self._overrides.over, recent)
        feed = Feed(gateway.status)
        self._take_signals(gateway)
        public, admin = self._servers(gateway, telemetry, feed)
        tasks = [asyncio.create_task(public.run_on_socket()), asyncio.create_task(admin.run_on_socket())]
        watching = asyncio.create_task(reload_on_change(gateway))
        told = asyncio.create_task(gateway.draining.wait())
        garbage.settle()
        gateway.listening = await _come_up((public, admin), (told, *tasks))
        await asyncio.wait((told, *tasks), return_when=asyncio.FIRST_COMPLETED)
        gateway.draining.set()
        watching.cancel()
        await drain(gateway, public, tasks[0], gateway.composition.configuration.server.drain_timeout_s)
        feed.close()
        admin.should_exit = True
        await asyncio.gather(told, watching, *tasks, return_exceptions=True)
        await gateway.aclose()
        await telemetry.aclose()

    def _servers(self, gateway: Gateway, telemetry: Telemetry, feed: Feed) -> tuple[Server, Server]:
        settings = self._configuration.server
        config = uvicorn_config(gateway.pipeline, settings, on_refusal=telemetry.refused, lifespan="off")
        public = Server(config, self._sockets[0])
        certificates = Certificates(public, settings.tls)

        async def reloaded(settings: ServerSettings) -> None:
            config.listener.update(settings)
            await certificates.renew(settings.tls)

        gateway.when_reloaded = reloaded
        own = {SNAPSHOT: telemetry.snapshot, OWN_STATUS: gateway.own_status}
        operators = worker_app(gateway, own) if self._lifeline is not None else admin_app(gateway, settings, feed)
        return public, Server(admin_config(operators), self._sockets[1])

    def _take_signals(self, gateway: Gateway) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._signalled:
                os._exit(EXIT_FORCED)
            self._signalled = True
            gateway.draining.set()

        reloads: set[asyncio.Task[object]] = set()

        def reload() -> None:
            task = loop.create_task(gateway.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)
        if self._lifeline is not None:
            self._hold_on_to(self._lifeline, gateway)

    def _hold_on_to(self, lifeline: int, gateway: Gateway) -> None:
        """Without a supervisor nobody could end or reload this worker, and its port would never be free."""
        loop = asyncio.get_running_loop()

        def alone() -> None:
            loop.remove_reader(lifeline)
            gateway.draining.set()

        loop.add_reader(lifeline, alone)


async def _come_up(servers: Sequence[Server], or_any: Sequence[asyncio.Task[Any]]) -> bool:
    """Wait until all servers accept connections (True), or until one of the tasks is over."""
    coming = asyncio.gather(*(server.up.wait() for server in servers))
    await asyncio.wait((coming, *or_any), return_when=asyncio.FIRST_COMPLETED)
    if coming.done():
        return True
    coming.cancel()
    return False
