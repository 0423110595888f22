"""Starts all of the demo, breaks parts of it on request, and ends all of it.

IAM and the gateway are processes of their own, so that a killed IAM is a killed process; the toy systems live here.
`POST /break` on the control address (loopback, with the run's secret) takes `{"part": "iam" | system, "mode": …}`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.demo import state as demo_state
from gateway.demo.state import PEOPLE, DemoState, Issuer
from gateway.demo.systems import MODES, SYSTEMS, Breakable, system
from gateway.model.settings import Address, Configuration

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 0.7
"""Whoever ends a demo waits for the prompt: what is still in flight then is broken off."""


class CannotStartError(Exception):
    """A port is taken, a part did not come up, or the gateway ended by itself: one line for the user."""


class ToySystem:
    """One toy system on its port; `down` stops listening."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self._address = address
        self._app: Breakable = system(name)
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = _server(self._app)
        listener = _listen(self._address)
        self._task = asyncio.create_task(_serve(self._server, listener))

    async def stop(self) -> None:
        """Stop listening and break open connections; who hangs or waits is let go."""
        self._app.mode = "ok"
        if self._server is not None and self._task is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._task
            self._server = None

    async def set_mode(self, mode: str) -> None:
        """One of MODES."""
        self._app.mode = mode if mode != "down" else "ok"
        if mode == "down":
            await self.stop()
        elif self._server is None:
            await self.start()


class Child:
    """A part that is a process of its own: this program with other arguments. It ends with us, however we end."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str], *, quiet: bool) -> None:
        self._arguments = arguments
        self._environ = environ
        self._quiet = quiet
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Run it, in a session of its own so that Ctrl-C reaches only the supervisor."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.demo.tied",
            *self._arguments,
            env={**os.environ, **self._environ},
            start_new_session=True,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL if self._quiet else None,
        )

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None and self.running:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            await self.kill()


class Supervisor:
    """All parts of one run."""

    def __init__(
        self, configuration: Configuration, issuer: Issuer, jwks_file: Path, *, quiet: bool, offset: int = 0
    ) -> None:
        """`offset`: what was added to the ports of the configuration, so that a drill finds this demo."""
        if not configuration.iam.urls:
            raise CannotStartError("the demo needs an IAM with a url")
        self._configuration = configuration
        self.offset = offset
        self._iam_address = _address(configuration.iam.urls[0])
        self._secret = secrets.token_urlsafe(24)
        self.toys = {
            name: ToySystem(name, _address(upstream.urls[0]))
            for name, upstream in configuration.upstreams.items()
            if name in SYSTEMS
        }
        policies = configuration.file.parent / "policies" / "access"
        self._iam = Child(
            ["iam", "--policies", str(policies), "--listen", str(self._iam_address), "--control"], {}, quiet=True
        )
        self._gateway = Child(
            ["serve", "-c", str(configuration.file), "--drain-notice", "0s"],
            {"GATEWAY_JWKS_FILE": str(jwks_file)},
            quiet=quiet,
        )
        self.tokens = {person: issuer.token(person) for person in PEOPLE}

    async def run(self, until: asyncio.Event, announce: asyncio.Event) -> None:
        """Start everything, set `announce`, and end everything when `until` is set.

        Raises CannotStartError, also when the gateway ended before that.
        """
        self._check_ports()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            for toy in self.toys.values():
                await toy.start()
            await self._iam.start()
            await self._up(self._iam, f"http://{self._iam_address}/.well-known/authzen-configuration", "IAM")
            await self._gateway.start()
            await self._up(self._gateway, f"{self.admin_url}/readyz", "the gateway")
            await self._serve_control(stack)
            stack.callback(demo_state.forget, self.offset)
            announce.set()
            while not until.is_set() and self._gateway.running:
                await _wait(until, 0.5)
            if not until.is_set():
                raise CannotStartError("the gateway has ended by itself, and with it the demo")

    async def _end(self) -> None:
        """All at the same time, so that it takes no longer than the slowest part."""
        toys = (toy.stop() for toy in self.toys.values())
        await asyncio.gather(self._gateway.stop(), self._iam.stop(), *toys, return_exceptions=True)

    @property
    def gateway_url(self) -> str:
        """Where callers go."""
        return f"http://{self._configuration.server.listen}"

    @property
    def admin_url(self) -> str:
        """Where operators look."""
        return f"http://{self._configuration.server.admin}"

    @property
    def iam_url(self) -> str:
        """Where the gateway asks."""
        return f"http://{self._iam_address}"

    def _check_ports(self) -> None:
        server = self._configuration.server
        addresses = {"the gateway": server.listen, "the admin listener": server.admin, "IAM": self._iam_address}
        addresses |= {toy.name: _address(self._configuration.upstreams[toy.name].urls[0]) for toy in self.toys.values()}
        taken = [f"{address} ({name})" for name, address in addresses.items() if not _free(address)]
        if taken:
            raise CannotStartError(f"cannot start: address in use: {', '.join(taken)}")

    async def _up(self, child: Child, url: str, name: str) -> None:
        """Wait until a part answers."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
            while asyncio.get_running_loop().time() < deadline and child.running:
                try:
                    if (await client.get(url)).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise CannotStartError(f"cannot start: {name} did not come up")

    async def _serve_control(self, stack: AsyncExitStack) -> None:
        listener = _listen(Address("127.0.0.1", 0))
        server = _server(Starlette(routes=[Route("/break", self._break, methods=["POST"])]))
        task = asyncio.create_task(_serve(server, listener))

        async def stop() -> None:
            server.should_exit = server.force_exit = True
            await task

        stack.push_async_callback(stop)
        control = f"http://127.0.0.1:{listener.getsockname()[1]}"
        demo_state.write(
            DemoState(os.getpid(), self.gateway_url, self.admin_url, control, self._secret, self.tokens),
            self.offset,
        )

    async def _break(self, request: Request) -> Response:
        if not secrets.compare_digest(request.headers.get("authorization", ""), f"Bearer {self._secret}"):
            return JSONResponse({"error": "wrong secret"}, 401)
        wanted = await request.json()
        part, mode = wanted["part"], wanted["mode"]
        if mode not in MODES:
            return JSONResponse({"error": f"no mode {mode!r}"}, 400)
        if part == "iam":
            await self._break_iam(mode)
        elif part in self.toys:
            await self.toys[part].set_mode(mode)
        else:
            return JSONResponse({"error": f"the demo has no {part!r}: {', '.join(self.toys)}"}, 404)
        return JSONResponse({"part": part, "mode": mode})

    async def _break_iam(self, mode: str) -> None:
        if mode == "down":
            await self._iam.kill()
            return
        if not self._iam.running:
            await self._iam.start()
            await self._up(self._iam, f"{self.iam_url}/.well-known/authzen-configuration", "IAM")
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            (await client.post(f"{self.iam_url}/-/fault", json={"mode": mode})).raise_for_status()


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return Address(parts.hostname or "127.0.0.1", parts.port or 80)


def _listen(address: Address) -> socket.socket:
    # asyncio sends at once, without waiting for acknowledgements, only on sockets that say that they are TCP.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _free(address: Address) -> bool:
    try:
        _listen(address).close()
    except OSError:
        return False
    return True


def _server(app: Starlette | Breakable) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """`Server.serve` without its signal handlers: signals are the supervisor's."""
    await server._serve([listener])  # noqa: SLF001 - the public `serve` takes over SIGINT and SIGTERM
    listener.close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
