"""`--workers N`: one process that binds, starts and watches workers, and answers operators for all of them.

Each worker has its own listening socket on the same port. So the kernel spreads connections evenly, and a worker that
crashes loses only its own. It listens when it is ready, and before it ends it accepts waiting connections (`draining`).
The supervisor reserves the port with a socket that never listens. A worker that crashes is started again, after a pause
that grows if it crashes repeatedly. If the file is broken by then, it serves what the others serve (`last_good`). If
its supervisor dies, a worker notices this by a pipe, and drains. SIGTERM, SIGINT and SIGHUP are passed on. The
supervisor ends when the last worker has ended.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import fcntl
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.admin.app import admin_app
from gateway.admin.feed import Feed
from gateway.app import words
from gateway.app.draining import notice_s
from gateway.app.listeners import CannotServeError, Server, Sockets, admin_config, another
from gateway.app.worker_client import Workers
from gateway.config import ConfigurationError, load
from gateway.model.settings import Configuration
from gateway.pdp.check import access_problems, needs_access_policies

# The last good configuration of a gateway with workers: what a worker serves that starts while the file is broken.
#
# The workers share a file in memory (`memfd_create(2)`), which the supervisor holds open: nothing of it is on a disk,
# and it outlives every worker. It holds the contents of every file that was read, so that a worker loads exactly the
# configuration that the others serve, by the same checks.

_CHUNK: Final = 1 << 20


class LastGood:
    """The shared file, by its number, which workers inherit."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def create(cls) -> LastGood:
        """An empty one. Raises OSError."""
        return cls(os.memfd_create("gateway-configuration"))

    def keep(self, configuration: Configuration) -> None:
        """This one serves now."""
        held = {str(path): base64.b64encode(content).decode() for path, content in configuration.contents.items()}
        data = json.dumps(held).encode()
        fcntl.lockf(self.number, fcntl.LOCK_EX)
        try:
            os.ftruncate(self.number, 0)
            at = 0
            while at < len(data):
                at += os.pwrite(self.number, data[at : at + _CHUNK], at)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN)

    def load(self, file: Path, environ: Mapping[str, str], folder: Path) -> Configuration:
        """The one that was kept last; its access policies are written below `folder`.

        Raises ConfigurationError, and ValueError if none was kept.
        """
        fcntl.lockf(self.number, fcntl.LOCK_EX)
        try:
            data = os.pread(self.number, os.fstat(self.number).st_size, 0)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN)
        contents = {Path(path): base64.b64decode(content) for path, content in json.loads(data).items()}
        return _with_policies(load(file, environ, contents), folder)


def load_for_worker(file: Path, last_good: LastGood, folder: Path) -> tuple[Configuration, list[str]]:
    """What a worker serves at its start: the file, or the last good one, and what is wrong with the file then.

    Raises ConfigurationError or ValueError if there is no good one either. `folder`: private, not kept.
    """
    try:
        return _checked(file), []
    except (ConfigurationError, ValueError) as error:
        problems = str(error).splitlines()
        try:
            return last_good.load(file, os.environ, folder), problems
        except ValueError:
            raise error from None


def _checked(file: Path) -> Configuration:
    configuration = load(file, os.environ)
    if needs_access_policies(configuration) and (mistakes := access_problems(configuration)):
        raise ValueError("\n".join(map(str, mistakes)))
    return configuration


def _with_policies(configuration: Configuration, folder: Path) -> Configuration:
    """With its access policies in a folder of their own, as the decision point reads them from one."""
    if configuration.access_policies is None:
        return configuration
    home = Path(tempfile.mkdtemp(prefix="policies-", dir=folder))
    for path, content in configuration.contents.items():
        if path.parent == configuration.access_policies:
            (home / path.name).write_bytes(content)
    return dataclasses.replace(configuration, access_policies=home)


_LOG: Final = logging.getLogger("gateway")
WORKER_VARIABLE: Final = "GATEWAY_WORKER"
"""Set for workers: a Place as text."""
START_TIMEOUT_S: Final = 60.0
GRACE_S: Final = 10.0
EXIT_FORCED: Final = 1
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place among the others: numbers of the files that it inherits, and its own admin socket.

    `number` counts workers from 0; `lifeline` is a pipe that ends with the supervisor. `decisions` is None where there
    is no decision listener.
    """

    number: int
    listening: int
    lifeline: int
    last_good: LastGood
    decisions: int | None
    socket: Path

    @classmethod
    def parse(cls, text: str) -> Place:
        """From what `str` gives."""
        number, listening, lifeline, last_good, decisions, path = text.split(":", 5)
        asked = int(decisions) if decisions else None
        return cls(int(number), int(listening), int(lifeline), LastGood(int(last_good)), asked, Path(path))

    def __str__(self) -> str:
        asked = "" if self.decisions is None else self.decisions
        return f"{self.number}:{self.listening}:{self.lifeline}:{self.last_good.number}:{asked}:{self.socket}"


@dataclass(slots=True)
class Worker:
    """One worker process and its admin socket."""

    number: int
    socket: Path
    process: asyncio.subprocess.Process | None = None
    pause_s: float = FIRST_PAUSE_S

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs `count` workers on the addresses that `sockets` keep."""

    def __init__(
        self,
        configuration: Configuration,
        arguments: Sequence[str],
        sockets: Sockets,
        close_log: Callable[[], None],
    ) -> None:
        self._close_log = close_log
        self._configuration = configuration
        self._arguments = tuple(arguments)
        self._sockets = sockets
        self._workers: list[Worker] = []
        self._ending = asyncio.Event()
        self._signalled = False
        self._why = "POST /-/drain"
        self._pipe = os.pipe()
        self._last_good = LastGood.create()
        self.operations = Workers(lambda: [worker.socket for worker in self._workers], self._ending.set)

    async def run(self, count: int) -> None:
        """Until told to end. Raises CannotServeError when the workers do not come up."""
        self._take_signals()
        with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
            self._workers = [Worker(number, Path(folder) / f"worker{number}.sock") for number in range(count)]
            keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            feed = Feed(self.operations.status)
            operators = admin_app(self.operations, self._configuration.server, feed)
            server = Server(admin_config(operators, self._configuration.server), self._sockets.admin)
            serving = asyncio.create_task(server.run_on_socket())
            try:
                await self._wait_until_up()
                self._say_that_it_serves(count)
                await self._ending.wait()
            finally:
                await self._end_workers(keeping)
                feed.close()
                server.should_exit = True
                await asyncio.gather(*keeping, serving, return_exceptions=True)
                await self.operations.aclose()

    def _say_that_it_serves(self, count: int) -> None:
        if self.operations.started:
            for line in self._configuration.warnings:
                _LOG.warning("%s", line)
            _LOG.info("%s", words.serving(self._configuration, self._sockets.shown(), count))

    async def _end_workers(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Let them drain, then make those end that do not."""
        self.operations.draining = True
        settings = self._configuration.server
        notice, timeout_s = notice_s(settings), settings.drain_timeout_s
        _LOG.info("%s", words.draining(self._why, notice, timeout_s))
        self._signal_all(signal.SIGTERM)
        _, left = await asyncio.wait(keeping, timeout=notice + timeout_s + GRACE_S)
        self._signal_all(signal.SIGKILL)
        for kept in (self._sockets.public, self._sockets.decisions):
            if kept is not None:
                kept.close()
        if left:
            _LOG.warning("stopped: %s had to be killed", words.several(len(left), "worker"))
        else:
            _LOG.info("stopped: all workers have ended")

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
        with ExitStack() as held:
            listening = held.enter_context(another(self._sockets.public)).fileno()
            asked = self._sockets.decisions
            decisions = None if asked is None else held.enter_context(another(asked)).fileno()
            place = Place(worker.number, listening, self._pipe[0], self._last_good, decisions, worker.socket)
            numbers = [listening, self._pipe[0], self._last_good.number, *([] if decisions is None else [decisions])]
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                "serve",
                *self._arguments,
                env={**os.environ, WORKER_VARIABLE: str(place)},
                pass_fds=numbers,
                start_new_session=True,
            )

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            if self._signalled:
                _LOG.error("stopped by a second signal: requests in flight are aborted")
                self._signal_all(signal.SIGKILL)
                self._close_log()
                os._exit(EXIT_FORCED)
            self._signalled = True
            if not self._ending.is_set():
                self._why = name
            self._ending.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._signal_all, signal.SIGHUP)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)
