"""A gateway with an IAM and an upstream, and its admin listener as an operator uses it.

Most tests share one gateway (or one with two workers) of their module, and leave it as they found it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.conftest import GatewayProcess, Server, echo, free_port, permits

OPERATOR = {"x-gateway-admin": "1"}
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}", drain_timeout: 4s}}
iam:
  url: "{iam}"
  timeout: {{connect: 1s, read: 500ms, total: 800ms}}
  retry: {{attempts: 1}}
  circuit_breaker: {{failure_threshold: 3, open_for: 4s, open_for_max: 4s}}
identity: {{opaque: {{}}}}
upstreams: {{inventory: {{url: "{upstream}"}}}}
routes:
  - id: inventory
    path: /inventory/*
    upstream: inventory
    authorize: ["read system:inventory"]
  - id: monitoring
    path: /monitoring/*
    methods: [GET, HEAD]
    upstream: inventory
    authorize: ["read system:monitoring"]
    on_iam_failure: {{degrade: stale, max_stale: 60s}}
  - {{id: counted, path: /counted/*, upstream: inventory, authorize: ["read system:inventory"]}}
  - {{id: open, path: /open/*, upstream: inventory, authorize: public}}
  - id: user-audit
    path: /audit/{{{{email}}}}
    methods: [GET]
    authorize: public
    aggregate:
      systems:
        Workday: {{upstream: inventory, path: "/workday/{{path.email}}"}}
        Entra: {{upstream: inventory, path: "/entra/{{path.email}}"}}
"""


def routes(iam: Any, upstream: Any) -> str:
    return ROUTES.format(iam=iam.url, upstream=upstream.url).replace("{{email}}", "{email}")


@dataclass
class ActiveConfig:
    """A running gateway and who it talks to. `workers` is how many processes serve."""

    process: GatewayProcess
    operator: httpx.AsyncClient
    iam: Server
    upstream: Server
    workers: int


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1, 2], ids=["one process", "two workers"])
async def site(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ActiveConfig]:
    """A gateway for all tests of a module, as one process and as two workers."""
    async with running(tmp_path_factory.mktemp("site"), request.param) as made:
        yield made


@asynccontextmanager
async def running(
    folder: Path, workers: int, write: Callable[[Any, Any], str] = routes, **environ: str
) -> AsyncIterator[ActiveConfig]:
    """A gateway, its IAM where the subject `allow` may do everything, and an upstream that tells what it saw.

    `write` makes the routes.yaml of the two.
    """
    iam, upstream = Server(permits(lambda asked: asked["subject"]["id"] == "allow")), Server(echo)
    await iam.start()
    await upstream.start()
    port, admin, file = free_port(), free_port(), folder / "routes.yaml"
    file.write_text(write(iam, upstream).replace("{port}", str(port)).replace("{admin}", str(admin)))
    process = GatewayProcess(file, port, admin, environ, ("--workers", str(workers)))
    try:
        await process.start()
        async with httpx.AsyncClient(base_url=process.admin, trust_env=False, timeout=20) as operator:
            yield ActiveConfig(process, operator, iam, upstream, workers)
    finally:
        assert await process.stop() == 0
        await iam.stop()
        await upstream.stop()
