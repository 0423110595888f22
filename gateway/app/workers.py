"""`--workers N`: one process that binds, starts and watches workers, and answers operators for all of them.

The workers share the listening socket, so a worker that ends loses no connection that waits there. A worker that dies
is started again, after a pause that grows while it keeps dying; a worker learns from a pipe that its supervisor died,
and drains. SIGTERM, SIGINT and SIGHUP are passed on; the supervisor ends when the last worker has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.admin.app import admin_app
from gateway.admin.feed import Feed
from gateway.app.draining import notice_s
from gateway.app.listeners import CannotServeError, Server, admin_config
from gateway.app.together import Workers
from gateway.model.settings import Configuration

_LOG: Final = logging.getLogger("gateway")
SOCKET_VARIABLE: Final = "GATEWAY_WORKER"
"""Set for workers: `<number of the listening socket>:<number of the pipe>:<path of the worker's own admin socket>`."""
START_TIMEOUT_S: Final = 60.0
GRACE_S: Final = 10.0
EXIT_FORCED: Final = 1
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 30.0


@dataclass(slots=True)
class Worker:
    """One worker process and its admin socket."""

    socket: Path
    process: asyncio.subprocess.Process | None = None
    pause_s: float = FIRST_PAUSE_S

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs `count` workers on one listening socket."""

    def __init__(
        self, configuration: Configuration, arguments: Sequence[str], public: socket.socket, admin: socket.socket
    ) -> None:
        self._configuration = configuration
        self._arguments = tuple(arguments)
        self._public = public
        self._admin = admin
        self._workers: list[Worker] = []
        self._ending = asyncio.Event()
        self._signalled = False
        self._pipe = os.pipe()
        self.operations = Workers(lambda: [worker.socket for worker in self._workers], self._ending.set)

    async def run(self, count: int) -> None:
        """Until told to end. Raises CannotServeError when the workers do not come up."""
        self._take_signals()
        with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
            self._workers = [Worker(Path(folder) / f"worker{number}.sock") for number in range(count)]
            keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            feed = Feed(self.operations.status)
            operators = admin_app(self.operations, self._configuration.server, feed)
            server = Server(admin_config(operators), self._admin)
            serving = asyncio.create_task(server.run_on_socket())
            try:
                await self._wait_until_up()
                await self._ending.wait()
            finally:
                await self._end_workers(keeping)
                feed.close()
                server.should_exit = True
                await asyncio.gather(*keeping, serving, return_exceptions=True)
                await self.operations.aclose()

    async def _end_workers(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Let them drain. We let go of the listening socket when they do, or connections would wait for nobody."""
        self.operations.draining = True
        timeout_s = self._configuration.server.drain_timeout_s
        self._signal_all(signal.SIGTERM)
        asyncio.get_running_loop().call_later(notice_s(timeout_s), self._public.close)
        await asyncio.wait(keeping, timeout=timeout_s + GRACE_S)
        self._signal_all(signal.SIGKILL)

    async def _wait_until_up(self) -> None:
        end = asyncio.get_running_loop().time() + START_TIMEOUT_S
        waiting = [worker.socket for worker in self._workers]
        while waiting and not self._ending.is_set():
            waiting = [socket for socket in waiting if not await self.operations.up(socket)]
            if waiting and asyncio.get_running_loop().time() > end:
                raise CannotServeError("the workers did not come up")
            await asyncio.sleep(0.05)
        self.operations.started = True

    async def _keep(self, worker: Worker) -> None:
        """Run one worker, again whenever it dies, until the end."""
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            begun_s = loop.time()
            await self._start(worker)
            code = await worker.process.wait() if worker.process is not None else None
            if self._ending.is_set():
                return
            worker.pause_s = FIRST_PAUSE_S if loop.time() - begun_s > STEADY_S else worker.pause_s
            _LOG.error("a worker ended with %s, it is started again in %g s", code, worker.pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), worker.pause_s)
            worker.pause_s = min(worker.pause_s * 2, LONGEST_PAUSE_S)

    async def _start(self, worker: Worker) -> None:
        worker.socket.unlink(missing_ok=True)
        listening, pipe = self._public.fileno(), self._pipe[0]
        worker.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            *self._arguments,
            env={**os.environ, SOCKET_VARIABLE: f"{listening}:{pipe}:{worker.socket}"},
            pass_fds=[listening, pipe],
            start_new_session=True,
        )

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._signalled:
                self._signal_all(signal.SIGKILL)
                os._exit(EXIT_FORCED)
            self._signalled = True
            self._ending.set()

        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGHUP, self._signal_all, signal.SIGHUP)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)
