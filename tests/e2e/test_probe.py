"""`circuit_breaker.probe`: an open circuit is closed early, by the gateway itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"}}
identity: {{opaque: {{}}}}
upstreams: {{inventory: {{url: "{upstream}"}}}}
routes:
  - id: open
    path: /open/*
    upstream: inventory
    authorize: public
    circuit_breaker: {{failure_threshold: 2, open_for: 1h, probe: 200ms}}
"""


async def test_a_route_that_probes_comes_back_by_itself(start_gateway: Any, iam: Any, upstream: Any) -> None:
    gateway = await start_gateway(ROUTES.format(iam=iam.url, upstream=upstream.url))
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/open/x")).status_code == 200
        await upstream.stop()
        await asyncio.sleep(1.05)  # who answered somebody within the last second is not down
        codes = [(await client.get("/open/x")).json()["code"] for _ in range(3)]
        assert codes == ["upstream_unreachable", "upstream_unreachable", "upstream_circuit_open"]
        await upstream.start()
        for _ in range(100):
            if (await client.get("/open/x")).status_code == 200:
                return
            await asyncio.sleep(0.1)
    raise AssertionError("the circuit stayed open")
