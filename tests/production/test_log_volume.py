"""An outage is no flood of lines: two thousand refused requests on a real process, and what it wrote."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.production.backends import Backend, routes

pytestmark = pytest.mark.hazard
REQUESTS = 2000
CONNECTIONS = 20
ASK = b"GET /guarded/x HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer allow\r\n\r\n"


async def _ask(port: int, times: int) -> int:
    """How often the answer was 503, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    refused = 0
    for _ in range(times):
        writer.write(ASK)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        refused += head.startswith(b"HTTP/1.1 503")
    writer.close()
    return refused


@pytest.mark.parametrize("access_log", ["json", '"off"'])
async def test_two_thousand_refused_requests_are_few_lines(
    start_gateway: Any, iam: Any, backend: Backend, access_log: str
) -> None:
    gateway = await start_gateway(routes(iam, backend, server=f", access_log: {access_log}"))
    await iam.stop()
    async with asyncio.timeout(120):
        each = [_ask(gateway.port, REQUESTS // CONNECTIONS) for _ in range(CONNECTIONS)]
        assert sum(await asyncio.gather(*each)) == REQUESTS
    assert await gateway.stop() == 0
    lines = [*gateway.output.splitlines(), *gateway.errors.splitlines()]
    assert len(lines) < 400
    read = [json.loads(line) for line in gateway.output.splitlines()]
    requests = [line for line in read if line["event"] == "request"]
    counted = sum(line["count"] for line in read if line["event"] == "refusals")
    assert len(requests) + counted == REQUESTS, "each is written or counted"
    if "off" in access_log:
        assert not requests, "off is off"
