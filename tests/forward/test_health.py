"""The health of all systems, field by field."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.errors import GatewayError
from gateway.forward.health import HealthEndpoint, System, SystemsHealth, Unavailable
from gateway.model.permit import Permit
from gateway.resilience.deadline import Deadline
from tests.forward.conftest import ALICE, Client, a_request, a_route


class Circuit:
    def __init__(self, state: str = "closed", remaining_s: float = 0.0) -> None:
        self.state = state
        self._remaining_s = remaining_s

    def remaining_s(self) -> float:
        return self._remaining_s


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_system(name: str, outcome: Any = None, *circuits: Circuit, timeout_s: float = 2.0) -> System:
    async def probe() -> None:
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            await outcome()

    return System(name, probe, lambda: circuits, timeout_s)


async def test_the_documents_shape_is_the_contracts() -> None:
    clock = Clock()

    async def twelve_ms() -> None:
        clock.now += 0.012

    slow = GatewayError("upstream_timeout", proxy_error="connection_timeout")
    health = SystemsHealth(
        [
            a_system("iam", twelve_ms, Circuit()),
            a_system("workday", slow, Circuit(), Circuit("open", 40.3), timeout_s=1.0),
        ],
        clock=clock,
        wall=lambda: 1776090600.0,
    )
    assert await health.report() == {
        "timestamp": "2026-04-13T14:30:00Z",
        "systems": {
            "iam": {"available": True, "response_time_ms": 12, "circuit": "closed"},
            "workday": {
                "available": False,
                "error": "connect timeout after 1s",
                "circuit": "open",
                "retry_after": 41,
            },
        },
        "summary": {
            "total_systems": 2,
            "available_systems": 1,
            "unavailable_systems": 1,
            "availability_percentage": 50,
        },
    }


async def test_all_are_asked_at_the_same_time_and_each_has_its_own_limit() -> None:
    together = asyncio.Barrier(3)

    async def meet() -> None:
        await together.wait()

    async def hang() -> None:
        await asyncio.Event().wait()

    systems = [a_system(name, meet) for name in "abc"] + [a_system("slow", hang, timeout_s=0.05)]
    report = await asyncio.wait_for(SystemsHealth(systems).report(), 5)
    assert report["summary"]["availability_percentage"] == 75
    assert report["systems"]["slow"] == {"available": False, "error": "no answer in 0.05s", "circuit": "closed"}


async def test_answers_are_shared_for_a_second() -> None:
    clock = Clock()
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)

    health = SystemsHealth([a_system("iam", count)], clock=clock)
    await asyncio.gather(*(health.report() for _ in range(10)))
    clock.now += 0.9
    await health.report()
    assert asked == 1
    clock.now += 0.2
    await health.report()
    assert asked == 2


async def test_a_caller_who_leaves_cancels_nobody_elses_report() -> None:
    gate = asyncio.Event()
    health = SystemsHealth([a_system("iam", gate.wait)])
    first, second = asyncio.create_task(health.report()), asyncio.create_task(health.report())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.set()
    assert (await second)["systems"]["iam"]["available"]


async def test_callers_are_told_in_words_that_name_no_host_and_operators_the_cause() -> None:
    why = "connect 10.0.0.1:80: refused"
    refused = GatewayError("upstream_unreachable", reason=why, proxy_error="connection_refused")
    unreachable = Unavailable("iam_unreachable", "dns iam.test: no such name")
    health = SystemsHealth(
        [a_system("a", refused), a_system("b", Unavailable("status 503")), a_system("c", unreachable)]
    )
    report = await health.report()
    assert [line.get("cause") for line in report["systems"].values()] == [why, None, "dns iam.test: no such name"]
    client = Client(a_request())
    permit = Permit(request=client.request, route=a_route(), subject=ALICE, outcome="allow", source="authenticated")
    await HealthEndpoint(health)(permit, client.exchange, Deadline.after(5))
    report = json.loads(client.body)
    assert report["systems"]["a"]["error"] == "connection refused"
    assert report["systems"]["b"]["error"] == "status 503"
    assert b"10.0.0.1" not in client.body
    assert b"iam.test" not in client.body
    await health.aclose()


async def test_as_a_route_it_is_200_while_everything_is_down() -> None:
    health = SystemsHealth([a_system("iam", Unavailable("connection refused"), Circuit("half_open"))])
    client = Client(a_request())
    permit = Permit(request=client.request, route=a_route(), subject=ALICE, outcome="allow", source="authenticated")
    await HealthEndpoint(health)(permit, client.exchange, Deadline.after(5))
    assert client.status == 200
    assert client.values(b"content-type") == [b"application/json"]
    assert json.loads(client.body)["systems"]["iam"]["circuit"] == "half_open"
    await health.aclose()
