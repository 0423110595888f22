"""A foreign decision point decides for the gateway: Cerbos, asked by its AuthZEN API, killed and started again.

Cerbos takes a caller's roles from the subject's property `cerbos.roles`: a claim of that name, which the route file
lets through to it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.complete_path.foreign import of_npm
from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S, until_served
from tests.e2e.conftest import GatewayProcess, Server, free_port

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

POLICIES = Path(__file__).parent / "cerbos"
START_S = 30.0
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}", discovery: {discovery}, circuit_breaker: {{failure_threshold: 3, open_for: 1s, open_for_max: 1s}}}}
identity: {identity}
upstreams: {{echo: {{url: "{upstream}"}}}}
routes:
  - id: inventory
    path: /inventory/*
    upstream: echo
    authorize:
      GET: ["read system:inventory"]
      "*": ["write system:inventory", "{{method}} route:{{route.path}}"]
  - {{id: payroll, path: /payroll/*, upstream: echo, authorize: ["read system:payroll", "write system:payroll"]}}
  - {{id: unheard, path: /unheard/*, upstream: echo, authorize: ["read planet:mars"]}}
"""


class Cerbos:
    """A Cerbos server on free ports."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._port, self._other = free_port(), free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        settings = {
            "server.httpListenAddr": f"127.0.0.1:{self._port}",
            "server.grpcListenAddr": f"127.0.0.1:{self._other}",
            "storage.driver": "disk",
            "storage.disk.directory": str(POLICIES),
            "telemetry.disabled": "true",
        }
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            "server",
            "--log-level=error",
            *(f"--set={name}={value}" for name, value in settings.items()),
            env={**os.environ, "CERBOS_NO_TELEMETRY": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False) as client:
            while not await self._ready(client):
                assert self._process.returncode is None, "Cerbos ended at once"
                await asyncio.sleep(0.1)

    async def _ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/_cerbos/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def cerbos() -> AsyncIterator[Cerbos]:
    server = Cerbos(of_npm("@cerbos", "cerbos-linux-x64", "cerbos-linux-x64"))
    await server.start()
    yield server
    await server.kill()


def _people(issuer: Issuer) -> dict[str, dict[str, str]]:
    roles = {"alice": ["operator"], "bob": ["viewer"], "mallory": ["stranger"], "nobody": []}
    return {name: issuer.bearer(name, **{"cerbos.roles": has}) for name, has in roles.items()}


@pytest.mark.parametrize("discovery", ["false", "true"])
async def test_cerbos_decides_for_the_gateway(
    start_gateway: Callable[..., Awaitable[GatewayProcess]],
    cerbos: Cerbos,
    upstream: Server,
    issuer: Issuer,
    tmp_path: Path,
    discovery: str,
) -> None:
    text = ROUTES.format(
        iam=cerbos.url,
        discovery=discovery,
        identity=issuer.settings(tmp_path, "claims: [cerbos.roles]"),
        upstream=upstream.url,
    )
    gateway = await start_gateway(text)
    people = _people(issuer)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, trust_env=False) as client:

        async def status(who: str, method: str, target: str) -> int:
            return (await client.request(method, target, headers=people[who])).status_code

        expected: dict[tuple[str, str, str], int] = {
            ("alice", "GET", "/inventory/7"): 200,
            ("alice", "POST", "/inventory/7"): 200,
            ("bob", "GET", "/inventory/7"): 200,
            ("bob", "POST", "/inventory/7"): 403,
            ("mallory", "GET", "/inventory/7"): 403,
            ("nobody", "GET", "/inventory/7"): 403,
            ("alice", "GET", "/payroll/7"): 403,
            ("alice", "GET", "/unheard/7"): 403,
        }
        found = await asyncio.gather(*(status(*question) for question in expected))
        assert dict(zip(expected, found, strict=True)) == expected
        assert sorted(seen.method for seen in upstream.seen) == ["GET", "GET", "POST"]
        await cerbos.kill()
        await _while_it_is_gone(client, people["alice"], upstream)
        await cerbos.start()
        await until_served(lambda: status("alice", "GET", "/inventory/7"), meanwhile=503)
        assert await status("mallory", "GET", "/inventory/7") == 403


async def _while_it_is_gone(client: httpx.AsyncClient, headers: dict[str, Any], upstream: Server) -> None:
    """Unknown is not denied, and nothing is forwarded."""
    before = len(upstream.seen)
    codes = []
    await asyncio.sleep(1.1)  # what answered within the last second is not down
    for _ in range(6):
        reply = await client.get("/inventory/7", headers=headers)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        codes.append(reply.json()["code"])
    assert set(codes) <= {"iam_unreachable", "iam_circuit_open"}
    assert codes[-1] == "iam_circuit_open"
    assert len(upstream.seen) == before
