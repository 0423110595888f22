"""One serving process. The sockets start first, then the gateway, then it is ready. It stops so that few requests fail.

SIGTERM, SIGINT and `POST /-/drain` begin the drain (`draining`); a second signal ends it at once. A first signal after
`POST /-/drain` changes nothing: a hook that drains is followed by one. SIGHUP reloads. What every request needs is
closed after the last of them, and telemetry is flushed last.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import uvloop

from gateway.admin.app import admin_app, worker_app
from gateway.admin.feed import Feed
from gateway.admin.recent import Recent
from gateway.app import pauses, readings, words
from gateway.app.draining import drain, notice_s
from gateway.app.listeners import (
    CannotServeError,
    Certificates,
    Server,
    Sockets,
    admin_config,
    bind,
    bind_unix,
    inherited,
    provide_for,
    reserve,
)
from gateway.app.running import Gateway
from gateway.app.watch import reload_on_change
from gateway.app.worker_client import OWN_STATUS, SNAPSHOT
from gateway.app.workers import WORKER_VARIABLE, Place, Supervisor, load_for_worker
from gateway.config import parse_duration
from gateway.config.values import is_loopback
from gateway.model.settings import Address, Configuration, ServerSettings
from gateway.server import uvicorn_config
from gateway.telemetry import Telemetry, build_observer, log_to_stderr

__all__ = ["CannotServeError", "NotAllowedError", "Overrides", "is_worker", "serve", "serve_as_worker"]

EXIT_FORCED: Final = 1
TOKEN_VARIABLE: Final = "GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
# Half of libuv's threads look names up, and four is its number: two names that hang would hold up all others.
_THREADS: Final = ("UV_THREADPOOL_SIZE", "64")
# How long a thread that makes a document or loads a file keeps the event loop waiting; the interpreter's own is 5 ms.
_TURN_S: Final = 0.001
_LOG: Final = logging.getLogger("gateway")


class NotAllowedError(ValueError):
    """The command line asks for what a configuration may not: one line for the user."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says instead of the file."""

    listen: Address | None = None
    admin: Address | None = None
    drain_notice_s: float | None = None
    drain_timeout_s: float | None = None
    admin_token: str | None = field(default=None, repr=False)
    """From the environment, for a file that names none."""

    @classmethod
    def parse(cls, listen: str, admin: str, drain_notice: str = "", drain_timeout: str = "") -> Overrides:
        """From `HOST:PORT` and duration texts, empty for none. Raises ValueError."""
        return cls(
            _address(listen),
            _address(admin),
            parse_duration(drain_notice) if drain_notice else None,
            parse_duration(drain_timeout) if drain_timeout else None,
            os.environ.get(TOKEN_VARIABLE) or None,
        )

    def over(self, configuration: Configuration) -> Configuration:
        """The configuration with what the command line says. NotAllowedError: a file could not say that."""
        server = configuration.server
        changed = dataclasses.replace(
            server,
            listen=self.listen or server.listen,
            admin=self.admin or server.admin,
            drain_notice_s=server.drain_notice_s if self.drain_notice_s is None else self.drain_notice_s,
            drain_timeout_s=server.drain_timeout_s if self.drain_timeout_s is None else self.drain_timeout_s,
            admin_token=server.admin_token or self.admin_token,
        )
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
        for name, seconds in (("--drain-notice", self.drain_notice_s), ("--drain-timeout", self.drain_timeout_s)):
            texts += [name, f"{round(seconds * 1000)}ms"] if seconds is not None else []
        return texts


def _address(text: str) -> Address | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not int(port) < 65536:  # ports have 16 bits
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host.strip("[]") or "0.0.0.0", int(port))  # `:8080` means everywhere, as elsewhere


def serve(configuration: Configuration, overrides: Overrides, *, workers: int = 1) -> None:
    """Serve until told to stop. Raises CannotServeError, and NotAllowedError for overrides.

    A second signal ends the process with 1.
    """
    configuration = overrides.over(configuration)
    _end_at_once_before_serving()
    settings = configuration.server
    provide_for(settings.max_connections)
    if workers == 1:
        _run(Process(configuration, overrides, Sockets.of(settings, bind)).run())
        return
    sockets = Sockets.of(settings, reserve)
    close_log = log_to_stderr(settings)
    try:
        _run(Supervisor(configuration, overrides.arguments(configuration), sockets, close_log).run(workers))
    finally:
        close_log()


def is_worker() -> bool:
    """Whether this process was started by a supervisor, as one of its workers."""
    return WORKER_VARIABLE in os.environ


def serve_as_worker(file: Path, overrides: Overrides) -> None:
    """Serve what the supervisor says. Raises ConfigurationError or ValueError if there is nothing good to serve."""
    _end_at_once_before_serving()
    place = Place.parse(os.environ[WORKER_VARIABLE])
    configuration, problems = load_for_worker(file, place.last_good, place.socket.parent)
    decisions = None if place.decisions is None else inherited(place.decisions)
    sockets = Sockets(inherited(place.listening), bind_unix(str(place.socket)), decisions)
    _run(Process(overrides.over(configuration), overrides, sockets, place=place, problems=problems).run())


def _run(serving: Coroutine[Any, Any, None]) -> None:
    os.environ.setdefault(*_THREADS)
    sys.setswitchinterval(_TURN_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)
    for number in (signal.SIGTERM, signal.SIGINT):  # the loop took its own away
        signal.signal(number, lambda *_: os._exit(EXIT_FORCED))


def _end_at_once_before_serving() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(*_: object) -> NoReturn:
    """The sockets take connections before the loop takes signals: until then there is nothing to drain or to close."""
    os._exit(0)


class Process:
    """One serving process: alone, or one of several workers whose operators ask on a Unix socket.

    `place`: a worker's among the others. `problems`: what is wrong with the file, if `configuration` is not it.
    """

    def __init__(
        self,
        configuration: Configuration,
        overrides: Overrides,
        sockets: Sockets,
        *,
        place: Place | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        self._configuration = configuration
        self._overrides = overrides
        self._sockets = sockets
        self._addresses = () if place else sockets.shown()
        self._place = place
        self._problems = list(problems)
        self._signalled = False
        self._why = "POST /-/drain"

    async def run(self) -> None:
        """Serve until told to stop."""
        recent = Recent()
        telemetry = build_observer(self._configuration.server, os.environ, also=[recent])
        gateway = Gateway(self._configuration, telemetry, self._overrides.over, recent)
        feed = Feed(gateway.status)
        self._take_signals(gateway, telemetry)
        servers, admin = self._servers(gateway, telemetry), self._admin(gateway, telemetry, feed)
        serving = [asyncio.create_task(server.run_on_socket()) for server in servers]
        tasks = [*serving, asyncio.create_task(admin.run_on_socket())]
        watching = asyncio.create_task(reload_on_change(gateway))
        told = asyncio.create_task(gateway.draining.wait())
        pauses.settle()
        gateway.listening = await _come_up((*servers, admin), (told, *tasks))
        if gateway.listening:
            self._began(gateway)
        await asyncio.wait((told, *tasks), return_when=asyncio.FIRST_COMPLETED)
        gateway.draining.set()
        watching.cancel()
        await self._drain(gateway, servers, serving)
        feed.close()
        admin.should_exit = True
        await asyncio.gather(told, watching, *tasks, return_exceptions=True)
        await gateway.aclose()
        await telemetry.aclose()

    def _began(self, gateway: Gateway) -> None:
        """Say it, once for all workers; and keep what serves for those that start later."""
        if self._place is None:
            for line in self._configuration.warnings:
                _LOG.warning("%s", line)
            _LOG.info("%s", words.serving(self._configuration, self._addresses))
            return
        gateway.tells_of_reloads = self._place.number == 0
        gateway.when_changed = self._place.last_good.keep
        if not self._problems:
            self._place.last_good.keep(self._configuration)
            return
        gateway.refused(self._problems)
        for level, line in words.reloaded("failure", "a worker that starts", self._configuration, self._problems):
            _LOG.log(level, "[config] %s", line)

    async def _drain(self, gateway: Gateway, servers: Sequence[Server], serving: Sequence[asyncio.Task[None]]) -> None:
        settings = gateway.composition.configuration.server
        notice = notice_s(settings)
        if self._place is None:
            _LOG.info("%s", words.draining(self._why, notice, settings.drain_timeout_s))
        broken_off = await drain(gateway, servers, serving, settings.drain_timeout_s, notice)
        if self._place is None:
            _LOG.log(logging.WARNING if broken_off else logging.INFO, "%s", words.stopped(broken_off))
        elif broken_off:
            _LOG.warning("a worker has %s", words.stopped(broken_off))

    def _servers(self, gateway: Gateway, telemetry: Telemetry) -> list[Server]:
        """The public listener's, and the decision listener's where there is one."""
        settings = self._configuration.server
        config = uvicorn_config(gateway.pipeline, settings, on_refusal=telemetry.refused, lifespan="off")
        config.listener.refusals.on_count = telemetry.observer.connection_refused
        servers = [Server(config, self._sockets.public)]
        listeners = [config.listener]
        if self._sockets.decisions is not None:
            # Plain HTTP, as the other proxy is beside it; what it asks of the public listener's TLS is its own.
            config = uvicorn_config(
                gateway.decisions, replace(settings, tls=None), on_refusal=telemetry.refused, lifespan="off"
            )
            config.listener.refusals.on_count = telemetry.observer.connection_refused
            servers.append(Server(config, self._sockets.decisions))
            listeners.append(config.listener)
        certificates = Certificates(servers[0], settings.tls)

        async def reloaded(settings: ServerSettings) -> None:
            for listener in listeners:
                listener.update(settings)
            await certificates.renew(settings.tls)

        gateway.when_reloaded = reloaded
        counted = dict(zip(("public", "decisions"), listeners, strict=False))
        telemetry.read(partial(readings.of, gateway, counted))
        return servers

    def _admin(self, gateway: Gateway, telemetry: Telemetry, feed: Feed) -> Server:
        settings = self._configuration.server

        async def snapshot() -> Any:
            return await asyncio.to_thread(telemetry.snapshot)

        own = {SNAPSHOT: snapshot, OWN_STATUS: gateway.own_status}
        operators = worker_app(gateway, own) if self._place is not None else admin_app(gateway, settings, feed)
        return Server(admin_config(operators, settings), self._sockets.admin)

    def _take_signals(self, gateway: Gateway, telemetry: Telemetry) -> None:
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            if self._signalled:
                _LOG.error("stopped by a second signal: requests in flight are aborted")
                telemetry.write_lines()
                os._exit(EXIT_FORCED)
            self._signalled = True
            if not gateway.draining.is_set():
                self._why = name
            gateway.draining.set()

        reloads: set[asyncio.Task[object]] = set()

        def reload() -> None:
            task = loop.create_task(gateway.reload("SIGHUP"))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, reload)
        if self._place is not None:
            self._hold_on_to(self._place.lifeline, gateway)

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
