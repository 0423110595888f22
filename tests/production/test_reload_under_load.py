"""Many reloads, half of them broken, while clients are served: not one request fails, and nothing is left open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.production.backends import Backend, descriptors, pid, post, routes, until, write
from tests.production.load import Load

pytestmark = pytest.mark.hazard
BROKEN = "version: 1\nroutes: [{id: x, path: /x, upstrem: y}]\n"


async def _reload_often(start_gateway: Any, iam: Any, times: int, *arguments: str) -> None:
    """Every other file is broken; the good ones move the upstream back and forth between two backends."""
    backends = [Backend("one"), Backend("two")]
    for backend in backends:
        await backend.start()
    gateway = await start_gateway(routes(iam, backends[0]), *arguments)
    load = Load(gateway.port, ("/guarded/a", "/open/b", "/open/c?sleep=0.05"))
    load.start()
    await until(lambda: _true(load.answered > 50), "load")
    before = descriptors(pid(gateway))
    for number in range(times):
        broken = number % 2 == 1
        write(gateway, BROKEN if broken else routes(iam, backends[number // 2 % 2], more=f"# {number}\n"))
        assert (await post(gateway, "/-/reload")).status_code == (422 if broken else 200)
    answered = load.answered
    await until(lambda: _true(load.answered > answered + 50), "load goes on")
    await load.stop()
    assert load.failures == []
    idle = backends[(times - 1) // 2 % 2 - 1]
    await until(lambda: _true(idle.connections == 0), "the pool that is not used any more closed")
    await until(lambda: _true(len(descriptors(pid(gateway))) <= len(before)), "no descriptor leaked")
    for backend in backends:
        await backend.stop()


async def _true(value: bool) -> bool:
    return value


async def test_a_hundred_reloads_under_load(start_gateway: Any, iam: Any) -> None:
    async with asyncio.timeout(300):
        await _reload_often(start_gateway, iam, 100)


async def test_reloads_of_two_workers_under_load(start_gateway: Any, iam: Any) -> None:
    async with asyncio.timeout(300):
        await _reload_often(start_gateway, iam, 10, "--workers", "2")
