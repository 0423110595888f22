"""The login storm: a hundred users, five systems, and hardly more calls to IAM than there are full batches."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.iam.build import build_iam
from gateway.model.settings import IamSettings
from gateway.resilience.breaker import Breaker
from gateway.telemetry.observer import Observer

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: navigation
    path: /registry/navigation
    authorize: authenticated
    navigation: {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}"}
"""
DOCUMENT = {
    "systems": [{"menus": [{"action": "read", "resource": f"system:{name}"}]} for name in "abcde"],
}
USERS, MAX_SIZE, IN_FLIGHT = 100, 50, 8


class SlowIam(httpx.AsyncBaseTransport):
    """Permits all, in 50 ms a call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(await request.aread())["evaluations"]
        self.calls.append(len(asked))
        await asyncio.sleep(0.05)
        return httpx.Response(200, json={"evaluations": [{"decision": True}] * len(asked)})


async def test_a_hundred_users_cost_no_more_calls_than_full_batches_and_what_was_in_flight(kit, tmp_path):
    transport, settings, observer = SlowIam(), IamSettings(urls=("http://iam.example",)), Observer()
    breaker = Breaker("iam", "iam", settings.breaker, observer=observer)
    iam = build_iam(settings, http=[transport], breaker=breaker, observer=observer)
    async with kit.world_of(tmp_path, ROUTES, ["registry"]) as world:
        ready = asyncio.Barrier(USERS)

        async def answer(*_):
            await ready.wait()
            return 200, DOCUMENT

        world.systems["registry"].answer = answer
        world.authorizer._iam = iam
        users = [world.call("/registry/navigation", who=f"user-{number}") for number in range(USERS)]
        callers = await asyncio.gather(*users)
        assert all(
            item["enabled"] for caller in callers for system in caller.json["systems"] for item in system["menus"]
        )
    await iam.aclose()
    assert sum(transport.calls) == USERS * 5
    assert len(transport.calls) <= USERS * 5 / MAX_SIZE + IN_FLIGHT
