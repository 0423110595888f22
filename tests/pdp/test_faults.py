"""The drill's switch: each fault is what it says, ends by itself, and can always be taken back from this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gateway.pdp.faults import AMPLE, CONTROL_PATH, BreakableApp, Capacity, FaultSwitch

READ = {"content-type": "application/json"}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Counting:
    """An app that counts how many requests it answers at a time."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        await PlainTextResponse("fine")(scope, receive, send)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def switch(clock: Clock) -> FaultSwitch:
    return FaultSwitch(clock)


@pytest.fixture
async def client(switch: FaultSwitch) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(BreakableApp(Counting(), switch, AMPLE))
    async with httpx.AsyncClient(transport=transport, base_url="http://pdp") as client:
        yield client


async def test_a_fault_ends_by_itself(client: httpx.AsyncClient, clock: Clock):
    reply = await client.post(CONTROL_PATH, json={"mode": "errors", "for_s": 30})
    assert reply.json() == {"mode": "errors", "for_s": 30.0}
    assert (await client.get("/x")).status_code == 500
    clock.now_s += 30
    assert (await client.get("/x")).text == "fine"
    assert (await client.get(CONTROL_PATH)).json() == {"mode": "ok", "for_s": None}


async def test_a_fault_without_an_end_stays_until_it_is_taken_back(client: httpx.AsyncClient, clock: Clock):
    await client.post(CONTROL_PATH, json={"mode": "errors"})
    clock.now_s += 10**6
    assert (await client.get("/x")).status_code == 500
    await client.post(CONTROL_PATH, json={"mode": "ok"})
    assert (await client.get("/x")).text == "fine"


async def test_who_hangs_is_answered_when_the_fault_is_taken_back(client: httpx.AsyncClient):
    await client.post(CONTROL_PATH, json={"mode": "hang"})
    hanging = asyncio.create_task(client.get("/x"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not hanging.done()
    await client.post(CONTROL_PATH, json={"mode": "ok"})
    assert (await hanging).text == "fine"


async def test_slow_waits_and_then_answers(client: httpx.AsyncClient, switch: FaultSwitch):
    await client.post(CONTROL_PATH, json={"mode": "slow", "delay_ms": 1})
    assert switch.delay_s == 0.001
    assert (await client.get("/x")).text == "fine"


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"mode": "broken"},
        {"mode": 1},
        {"mode": "ok", "for_s": -1},
        {"mode": "ok", "for_s": "1"},
        {"mode": "slow", "delay_ms": True},
    ],
)
async def test_what_is_no_fault_is_400_and_changes_nothing(client: httpx.AsyncClient, wanted: Any):
    assert (await client.post(CONTROL_PATH, json=wanted)).status_code == 400
    assert (await client.get(CONTROL_PATH)).json()["mode"] == "ok"


async def test_only_json_from_this_machine_and_from_no_page_breaks_anything(switch: FaultSwitch):
    app = BreakableApp(Counting(), switch, AMPLE)
    body = json.dumps({"mode": "errors"})

    async def control(client: tuple[str, int], headers: dict[str, str], content: str = body) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=client), base_url="http://pdp") as http:
            return (await http.post(CONTROL_PATH, content=content, headers=headers)).status_code

    assert await control(("192.0.2.1", 1), READ) == 403
    assert await control(("127.0.0.1", 1), {**READ, "origin": "http://evil.example"}) == 403
    assert await control(("127.0.0.1", 1), {"content-type": "text/plain"}) == 400
    assert await control(("127.0.0.1", 1), READ, " " * 5000 + body) == 400
    assert switch.mode == "ok"
    assert await control(("::1", 1), READ) == 200
    assert switch.mode == "errors"


async def test_the_control_knows_two_methods(client: httpx.AsyncClient):
    reply = await client.delete(CONTROL_PATH)
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, POST")


async def test_without_the_switch_there_is_no_control():
    transport = httpx.ASGITransport(BreakableApp(Counting(), None, AMPLE))
    async with httpx.AsyncClient(transport=transport, base_url="http://pdp") as client:
        assert (await client.post(CONTROL_PATH, json={"mode": "errors"})).text == "fine"
        assert (await client.get("/x")).text == "fine"


async def test_capacity_bounds_how_many_are_answered_at_a_time():
    for at_once in (2, 0):
        app = Counting()
        transport = httpx.ASGITransport(BreakableApp(app, None, Capacity(at_once)))
        async with httpx.AsyncClient(transport=transport, base_url="http://pdp") as client:
            await asyncio.gather(*(client.get("/x") for _ in range(10)))
        assert app.most <= at_once if at_once else app.most > 2
