"""Which of several origins a request goes to, and what one bad origin costs. No sockets, no waiting."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gateway import build
from gateway.errors import GatewayError
from gateway.model.request import AccessRecord
from gateway.model.route import BreakerPolicy, Resilience
from gateway.model.settings import UpstreamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.upstream import Outgoing, Upstream
from gateway.upstream.guarded import GuardedUpstream

pytestmark = pytest.mark.skipif(
    build().endswith("(compiled)"),
    reason="puts its own object in the place of a pool, which a compiled upstream refuses",
)


class Reply:
    arrived = True
    content_length = 0

    def __init__(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        self.status = status
        self.headers = list(headers)

    async def aclose(self) -> None: ...


def reset() -> GatewayError:
    return GatewayError("upstream_protocol_error", proxy_error="connection_terminated")


FAULTS = {
    "reset": reset,
    "503": lambda: Reply(503),
    "come back": lambda: Reply(503, (b"retry-after", b"120")),
    "silent": lambda: GatewayError("upstream_timeout"),
    "garbled": lambda: GatewayError("upstream_protocol_error"),
}


BRIEF = [*(fault for name, fault in FAULTS.items() if name != "come back"), lambda: Reply(503, (b"retry-after", b"1"))]
"""Those in which no origin says anything for longer than it is so."""


class Origin:
    """In place of a pool. `fault`: what happens to a request; a poisoned one fails anywhere."""

    load = 0

    def __init__(self, pool: Any) -> None:
        self.origin = pool.origin
        self.fault: Any = None
        self.asked = 0

    def send_away(self) -> None: ...

    async def exchange(self, outgoing: Outgoing, timeouts: Any, deadline: Deadline) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        fault = reset if outgoing.target == b"/poison" else self.fault
        outcome = fault() if fault else Reply(200)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class World:
    def __init__(self, count: int = 3) -> None:
        self.now, self.tick_s = 1000.0, 0.0
        urls = tuple(f"http://127.0.0.1:{port}" for port in range(1, count + 1))
        self.upstream = Upstream(UpstreamSettings(name="u", urls=urls), clock=self.clock)
        self.origins = [Origin(member.pool) for member in self.upstream.members]
        for member, origin in zip(self.upstream.members, self.origins, strict=True):
            member.pool = origin  # type: ignore[assignment]
        self.breaker = Breaker("r", "upstream", BreakerPolicy(), observer=Observer(), clock=self.clock)
        self.guarded = GuardedUpstream(
            name="r",
            upstream=self.upstream,
            resilience=Resilience(),
            breaker=self.breaker,
            budget=RetryBudget(clock=self.clock),
            observer=Observer(),
            clock=self.clock,
            wall=lambda: 0.0,
        )

    def clock(self) -> float:
        self.now += self.tick_s
        return self.now

    async def ask(self, subject: str = "bob", target: bytes = b"/", method: bytes = b"GET") -> str:
        outgoing = Outgoing(method, target, [], share_key=subject)
        try:
            answer = await self.guarded.exchange(
                outgoing,
                deadline=Deadline.after(30.0),
                span=NO_SPAN,
                replayable=outgoing.replayable,
                record=AccessRecord(started_s=0.0),
            )
        except GatewayError as error:
            return error.code
        return str(answer.status)

    async def for_s(self, seconds: float, each_s: float = 0.05, **asked: Any) -> list[str]:
        said = []
        for _ in range(round(seconds / each_s)):
            said.append(await self.ask(**asked))
            self.now += each_s
        return said


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_one_bad_origin_of_three_costs_no_repeatable_request(fault: Any) -> None:
    world = World()
    world.origins[0].fault = fault
    assert set(await world.for_s(60)) == {"200"}
    assert world.origins[0].asked <= 8, "after 1, 2, 4, 8, 16 and 30 seconds"
    assert world.breaker.state == "closed"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_origin_that_was_set_aside_comes_back(fault: Any) -> None:
    world = World()
    world.origins[0].fault = fault
    await world.for_s(60)
    world.origins[0].fault = None
    await world.for_s(121, each_s=0.5)
    before = world.origins[0].asked
    await world.for_s(5)
    assert world.origins[0].asked - before > 15


async def test_it_comes_back_where_no_request_can_be_repeated() -> None:
    world = World(2)
    world.origins[0].fault = reset
    await world.for_s(10, method=b"POST")
    world.origins[0].fault = None
    await world.for_s(70, method=b"POST")
    assert world.upstream.members[0].failures == 0


async def test_a_request_that_cannot_be_repeated_does_not_move_on() -> None:
    world = World()
    for origin in world.origins:
        origin.fault = reset
    assert await world.ask(method=b"POST") == "upstream_protocol_error"
    assert sum(origin.asked for origin in world.origins) == 1


async def test_moving_on_happens_once_and_counts_once() -> None:
    world = World()
    for origin in world.origins:
        origin.fault = reset
    assert await world.ask() == "upstream_protocol_error"
    assert sorted(origin.asked for origin in world.origins) == [0, 1, 1]
    assert world.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_poisoned_request_takes_the_origins_from_nobody() -> None:
    world = World()
    for _ in range(200):
        poison = asyncio.create_task(world.ask("mallory", b"/poison"))
        assert await world.ask() == "200"
        await poison
        world.now += 0.05
    assert world.breaker.state == "closed"


async def test_with_all_set_aside_those_who_come_at_once_do_not_all_go_to_the_same() -> None:
    world = World(2)
    for origin in world.origins:
        origin.fault = reset
    await world.ask()
    world.origins[1].fault = None
    world.tick_s = 0.001
    said = await asyncio.gather(*(world.ask(f"user{number}", method=b"POST") for number in range(2)))
    assert "200" in said


async def test_a_request_that_fails_at_one_origin_after_the_other_takes_the_well_one_from_nobody() -> None:
    """One origin is bad; the poison fails at both, in moments in which nobody else is answered."""
    world = World(2)
    world.origins[0].fault = reset
    await world.for_s(3)
    for _ in range(60):
        await world.ask("mallory", b"/poison")
        world.now += 0.01
        assert await world.ask("alice") == "200"
        world.now += 0.04
    assert world.breaker.state == "closed"


async def test_whose_requests_always_fail_does_not_use_up_the_retries_of_others() -> None:
    world = World(2)
    for _ in range(6):
        await asyncio.gather(world.ask("mallory", b"/poison"), world.ask("alice"), world.ask("bob"))
    for origin in world.origins:
        origin.fault = reset
        assert await world.ask("alice") == "200", "it moves on"
        origin.fault = None


async def test_when_all_want_to_be_asked_nothing_that_is_said_without_asking() -> None:
    world = World(2)
    for origin in world.origins:
        origin.fault = FAULTS["come back"]
    await world.ask()
    asked = sum(origin.asked for origin in world.origins)
    assert await world.ask() == "upstream_circuit_open"
    assert sum(origin.asked for origin in world.origins) == asked
    world.now += 121
    world.origins[0].fault = world.origins[1].fault = None
    assert await world.ask() == "200"


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_mixed_a_healthy_upstream_stays_open_to_all_and_a_dead_one_does_not(seed: int) -> None:
    """Callers, faults, poison and leaving callers at random; always one origin is well, and then none is.

    All are well at first: of an upstream that has never answered, five failures are all that is known.
    """
    random.seed(seed)  # by which an origin is chosen
    dice = random.Random(seed)  # noqa: S311 - a test has to be repeatable
    world = World()
    failed = 0
    for step in range(600):
        if step and step % 40 == 0:
            well = dice.randrange(3)
            for number, origin in enumerate(world.origins):
                origin.fault = None if number == well or dice.random() < 0.5 else dice.choice(BRIEF)
        leaving = asyncio.create_task(world.ask("eve"))
        poison = asyncio.create_task(world.ask("mallory", b"/poison" if dice.random() < 0.3 else b"/"))
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            leaving.cancel()
        said = await world.ask(dice.choice(["bob", "carol", "dave"]))
        await asyncio.gather(leaving, poison, return_exceptions=True)
        failed += said != "200"
        assert world.breaker.state == "closed"
        world.now += dice.random() * 0.2
    assert failed < 30, "only in the first moments of a fault, when the budget is used up"
    for origin in world.origins:
        origin.fault = reset
    world.now += 0.1
    begun, codes = world.now, []
    while world.breaker.state == "closed" and world.now < begun + 5:
        codes.append(await world.ask(dice.choice(["bob", "carol", "dave"])))
        world.now += 0.1
    assert world.now - begun <= 1.0 + 0.2
    assert len(codes) >= 5
    for origin in world.origins:
        origin.fault = None
    world.now += 30
    assert await world.ask() == "200"
    assert world.breaker.state == "closed"
