"""The health of all systems through the running gateway: as a route, for operators, and as a command."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import free_port
from tests.faults.actors import Caller, Fault, Seen, as_json, plays, reply
from tests.partial.stage import OPERATOR, Stage, eventually, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

UPSTREAMS = """
  well: {url: "http://127.0.0.1:well_PORT", health: {path: /up}}
  tcp: {url: "http://127.0.0.1:tcp_PORT"}
  ill: {url: "http://127.0.0.1:ill_PORT", health: {path: /up}}
  moved: {url: "http://127.0.0.1:moved_PORT", health: {path: /up}}
  hung: {url: "http://127.0.0.1:hung_PORT", health: {path: /up, timeout: 300ms}}
  gone: {url: "http://127.0.0.1:GONE"}
  full: {url: "http://127.0.0.1:FULL", health: {timeout: 800ms}}
  fuller: {url: "http://127.0.0.1:FULL", health: {path: /up, timeout: 700ms}}
  several: {urls: ["http://127.0.0.1:one_PORT", "http://127.0.0.1:other_PORT"], health: {path: /up, interval: 100ms}}
  small: {url: "http://127.0.0.1:small_PORT", max_connections: 1, health: {path: /up, timeout: 1s}}
"""
ROUTES = """
  - id: health
    path: /health/systems
    methods: [GET]
    authorize: authenticated
    health: {}
  - id: ill
    path: /ill
    upstream: ill
    authorize: public
    circuit_breaker: {failure_threshold: 2, open_for: 40s}
  - id: ill-too
    path: /ill-too
    upstream: ill
    authorize: public
  - id: several
    path: /several
    upstream: several
    authorize: public
  - id: small
    path: /small
    upstream: small
    authorize: public
"""
NAMES = ["well", "tcp", "ill", "moved", "hung", "one", "other", "small"]
HANGS = Fault(lambda _: (), "hang")


@pytest.fixture(scope="module")
def full() -> Iterator[int]:
    """A port where connections are neither accepted nor refused: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any, full: int) -> AsyncIterator[Stage]:
    upstreams = UPSTREAMS.replace("GONE", str(free_port())).replace("FULL", str(full))
    async with stage(tmp_path_factory.mktemp("health"), ROUTES, NAMES, upstream_keys=upstreams) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def fresh(world: Stage) -> None:
    await asyncio.sleep(1.0)  # nothing that was shared before is still shared
    await world.reset()
    for name, fault in (
        ("ill", plays(reply(b"", "503 Ill"))),
        ("moved", plays(reply(b"", "302 Found", "Location: /login"))),
        ("hung", HANGS),
    ):
        world.systems[name].fault = fault


async def test_every_system_is_told_as_it_is_and_the_slowest_limit_is_the_wholes(world: Stage) -> None:
    began = time.monotonic()
    answer = await world.admin.get("/health/systems")
    assert time.monotonic() - began < 0.8 + 1
    document = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["timestamp"])
    systems = document["systems"]
    assert next(iter(systems)) == "iam"
    well = {name for name, line in systems.items() if line["available"]}
    assert well == {"iam", "well", "tcp", "several", "small", "one", "other"}
    for name in well:
        assert 0 <= systems[name].pop("response_time_ms") < 1000
        assert json.dumps(systems[name]) == '{"available": true, "circuit": "closed"}'
    assert {name: line["error"] for name, line in systems.items() if name not in well} == {
        "ill": "status 503",
        "moved": "status 302",
        "hung": "no answer in 0.3s",
        "gone": "connection refused",
        "full": "connect timeout after 0.8s",
        "fuller": "connect timeout after 0.7s",
    }
    assert json.dumps(document["summary"]) == json.dumps(
        {"total_systems": 13, "available_systems": 7, "unavailable_systems": 6, "availability_percentage": 54}
    )


async def test_the_route_shows_the_same_and_all_share_one_look_for_a_second(world: Stage) -> None:
    shown = await asyncio.gather(
        *(world.get("/health/systems") for _ in range(20)), *(world.admin.get("/health/systems") for _ in range(20))
    )
    callers, operators = {answer.text for answer in shown[:20]}, {answer.text for answer in shown[20:]}
    assert (len(callers), len(operators)) == (1, 1)
    for_operators = json.loads(operators.pop())
    causes = [line.pop("cause") for line in for_operators["systems"].values() if "cause" in line]
    assert any(cause.endswith(": refused") for cause in causes)
    assert json.loads(callers.pop()) == for_operators
    assert shown[0].headers["cache-control"] == "no-store"
    assert (await world.get("/health/systems")).text == shown[0].text
    assert Counter(seen.target for seen in world.systems["well"].seen) == {"/up": 1}
    assert len(world.iam.seen) == 1
    (seen,) = world.systems["well"].seen
    assert [name for name, _ in seen.headers] == ["host"]
    await asyncio.sleep(1.1)
    assert (await world.get("/health/systems")).json()["timestamp"] != shown[0].json()["timestamp"]
    assert len(world.systems["well"].seen) == 2


async def test_the_worst_circuit_is_shown_with_its_wait(world: Stage) -> None:
    for _ in range(2):
        assert (await world.client.get("/ill")).status_code == 503
    system = (await world.admin.get("/health/systems")).json()["systems"]["ill"]
    assert 38 <= system.pop("retry_after") <= 40
    assert json.dumps(system) == json.dumps({"available": False, "error": "status 503", "circuit": "open"})
    breakers = (await world.admin.get("/breakers")).json()["breakers"]
    assert (breakers["ill"]["consecutive_failures"], breakers["ill-too"]["state"]) == (
        2,
        "closed",
    )  # looks do not count
    await world.admin.post("/breakers/ill/close", headers=OPERATOR)


async def test_iam_hanging_is_one_system_that_is_ill(world: Stage) -> None:
    world.iam.fault = HANGS
    began = time.monotonic()
    document = (await world.get("/health/systems")).json()
    assert time.monotonic() - began < 1 + 1
    assert json.dumps(document["systems"]["iam"]) == json.dumps(
        {"available": False, "error": "iam_timeout", "circuit": "closed"}
    )
    assert document["systems"]["well"]["available"]


async def test_a_caller_who_leaves_takes_nobodys_report_along(world: Stage) -> None:
    caller = await Caller.to(world.gateway.port)
    leaving = asyncio.create_task(caller.ask("/health/systems", headers=world.who()))
    await eventually(lambda: len(world.systems["hung"].seen) == 1)
    staying = asyncio.create_task(world.get("/health/systems"))
    caller.abort()
    assert (await staying).json()["systems"]["well"]["available"]
    await asyncio.gather(leaving, return_exceptions=True)


async def test_a_busy_system_is_not_an_ill_one(world: Stage) -> None:
    """Its one connection is in use, and others wait for it."""
    gate = asyncio.Event()

    async def held(seen: Seen) -> bytes:
        if seen.target == "/small":
            await gate.wait()
        return as_json({})

    world.systems["small"].behave = held
    asking = [asyncio.create_task(world.client.get("/small")) for _ in range(3)]
    await eventually(lambda: len(world.systems["small"].seen) == 1)
    assert (await world.admin.get("/health/systems")).json()["systems"]["small"]["available"]
    gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3


async def test_of_several_origins_the_ill_one_gets_no_requests_until_it_is_well(world: Stage) -> None:
    one, other = world.systems["one"], world.systems["other"]

    def ill(seen: Seen) -> bytes:
        return reply(b"", "503 Ill" if seen.target == "/up" else "200 OK")

    async def asked() -> Counter[str]:
        for system in (one, other):
            system.seen.clear()
        for _ in range(20):
            assert (await world.client.get("/several")).status_code == 200
        named = {"one": one, "other": other}
        return Counter(name for name, system in named.items() for seen in system.seen if seen.target == "/several")

    assert set(await asked()) == {"one", "other"}
    one.behave = ill
    await eventually(lambda: b"[health] [several] http://127.0.0.1:" in world.gateway.errors)
    assert b"is passed over (status 503)" in world.gateway.errors
    assert set(await asked()) == {"other"}
    assert (await world.admin.get("/health/systems")).json()["systems"]["several"]["available"]
    other.behave = ill
    await eventually(lambda: world.gateway.errors.count(b"is passed over") == 2)
    assert sum((await asked()).values()) == 20  # when all are ill, the least bad one is tried
    await asyncio.sleep(1.0)
    assert (await world.admin.get("/health/systems")).json()["systems"]["several"]["error"] == "status 503"
    one.behave = other.behave = lambda _: as_json({})
    await eventually(lambda: world.gateway.errors.count(b"is used again") == 2)
    assert set(await asked()) == {"one", "other"}


async def test_the_command_shows_a_table_or_json_and_obeys_require(world: Stage) -> None:
    async def command(*arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "health", "--admin", world.gateway.admin, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    table, document, required = await asyncio.gather(
        command(), command("--output", "json", "--require", "54"), command("--require", "80")
    )
    assert table[0] == document[0] == 0
    assert table[1].splitlines()[0] == "system\tstate\tanswer\tcircuit\tretry after"
    assert "hung\tDOWN\tno answer in 0.3s\tclosed\t" in table[1].splitlines()
    assert table[1].splitlines()[-1] == "7 of 13 systems available (54 %)"
    assert list(json.loads(document[1])) == ["timestamp", "systems", "summary"]
    assert (required[0], required[2]) == (1, "54 % of the systems are available, 80 % are required\n")
