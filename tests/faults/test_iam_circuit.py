"""IAM's circuit as callers and operators of a running gateway see it: opening, the one trial, and coming back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from math import ceil

import pytest
import pytest_asyncio

from tests.faults.actors import (
    Actor,
    Answer,
    Caller,
    Gateway,
    acting,
    all_running,
    by_name,
    decides,
    echo,
    plays,
    until,
)
from tests.faults.actors import Seen as Question

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s}
iam:
  url: "IAM"
  timeout: {connect: 500ms, read: 5s, total: 6s}
  retry: {attempts: 1}
  circuit_breaker: BREAKER
identity: {opaque: {}}
upstreams: {inventory: {url: "UPSTREAM"}}
routes:
  - {id: inventory, path: /inventory/*, upstream: inventory, authorize: ["read system:inventory"]}
"""
BREAKERS = {
    "counting": "{failure_threshold: 3, open_for: 1s, open_for_max: 3s, probe: off}",
    "rating": "{failure_threshold: 1000, failure_rate: 50%, min_calls: 10, window: 60s, open_for: 60s, probe: 200ms}",
}
HEADERS = {"Authorization": "Bearer alice"}
DOWN = plays(end="fin")


class Scene:
    """One gateway; every test leaves its circuit closed and its IAM well."""

    def __init__(self, gateway: Gateway, iam: Actor, upstream: Actor) -> None:
        self.gateway = gateway
        self.iam = iam
        self.upstream = upstream

    async def ask(self) -> Answer:
        return await self.gateway.ask("/inventory/7", headers=HEADERS)

    async def open_circuit(self) -> None:
        """Three failures, and a second since the last answer."""
        self.iam.fault = DOWN
        for _ in range(3):
            assert (await self.ask()).code == "iam_unreachable"
        await until(self.refused)

    async def refused(self) -> bool:
        return (await self.ask()).code == "iam_circuit_open"

    async def until_trial_is_due(self) -> None:
        async def due() -> bool:
            return (await self.gateway.breaker())["remaining_s"] == 0

        await until(due)

    async def on_trial(self) -> bool:
        return bool((await self.gateway.breaker())["trial"])

    async def until_closed(self) -> None:
        async def closed() -> bool:
            return (await self.gateway.breaker())["state"] == "closed"

        await until(closed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Scene]]:
    iam, upstream = Actor(decides(by_name)), Actor(echo)
    text = ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url)
    texts = [(tmp_path_factory.mktemp(name), text.replace("BREAKER", BREAKERS[name])) for name in BREAKERS]
    async with acting(iam, upstream), all_running(*texts) as gateways:
        made = dict(zip(BREAKERS, gateways, strict=True))
        yield lambda name: Scene(made[name], iam, upstream)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(scenes: Callable[[str], Scene]) -> AsyncIterator[Scene]:
    made = scenes("counting")
    yield made
    made.iam.fault = None
    made.iam.behave = decides(by_name)
    await made.gateway.do("/breakers/iam/close")
    await made.gateway.do("/breakers/iam/auto")


async def test_fifty_callers_at_half_open_wait_for_one_trial_of_another(scene: Scene) -> None:
    """The trial closes the circuit; the others are told to come back, at once."""
    await scene.open_circuit()
    scene.iam.fault = None

    async def slow(seen: Question) -> bytes:
        await asyncio.sleep(0.5)
        return decides(by_name)(seen)

    scene.iam.behave = slow
    await scene.until_trial_is_due()
    calls = len(scene.iam.seen)
    first = asyncio.create_task(scene.ask())
    await until(scene.on_trial)
    refused = await asyncio.gather(*(scene.ask() for _ in range(50)))
    assert {answer.code for answer in refused} == {"iam_circuit_open"}
    assert all(answer.retry_after <= 2 for answer in refused)
    assert (await first).status == 200
    assert len(scene.iam.seen) == calls + 1
    assert (await scene.gateway.breaker())["state"] == "closed"
    assert (await scene.ask()).status == 200


async def test_a_trial_whose_caller_leaves_frees_its_place(scene: Scene) -> None:
    """Neither a success nor a failure: the next caller is the next trial."""
    await scene.open_circuit()
    await scene.until_trial_is_due()
    scene.iam.fault = plays(end="hang")
    caller = await Caller.to(scene.gateway.port)
    leaving = asyncio.create_task(caller.ask("/inventory/7", headers=HEADERS))
    await until(scene.on_trial)
    assert (await scene.ask()).code == "iam_circuit_open"
    caller.abort()
    await leaving

    async def free() -> bool:
        return not await scene.on_trial()

    await until(free)
    assert (await scene.gateway.breaker())["state"] == "half_open"
    scene.iam.fault = None
    assert (await scene.ask()).status == 200
    assert (await scene.gateway.breaker())["state"] == "closed"


async def test_failed_trials_double_the_open_time_up_to_its_maximum(scene: Scene) -> None:
    await scene.open_circuit()
    said = []
    for longest_s in (2.2, 3.0):
        await scene.until_trial_is_due()
        assert (await scene.ask()).code == "iam_unreachable"
        remaining_s = (await scene.gateway.breaker())["remaining_s"]
        refused = await scene.ask()
        assert refused.code == "iam_circuit_open"
        assert refused.retry_after <= ceil(1.2 * longest_s)
        assert remaining_s <= longest_s
        said.append(remaining_s)
    assert 1.0 < said[0] < said[1], "doubled once, and once more up to the maximum"


async def test_an_open_circuit_never_says_less_than_it_means(scene: Scene) -> None:
    """Nobody who comes back after `Retry-After` is refused by the same opening."""
    await scene.open_circuit()
    refused = [await scene.ask() for _ in range(20)]
    scene.iam.fault = None
    await asyncio.sleep(min(answer.retry_after for answer in refused))
    assert (await scene.ask()).status == 200


async def test_an_operator_decides_until_told_otherwise(scene: Scene) -> None:
    await scene.gateway.do("/breakers/iam/open")
    calls = len(scene.iam.seen)
    assert (await scene.ask()).code == "iam_circuit_open"
    assert len(scene.iam.seen) == calls
    await scene.gateway.do("/breakers/iam/auto")
    assert (await scene.ask()).status == 200


async def test_failures_that_alternate_with_successes_open_by_their_rate_and_the_probe_closes_early(
    scenes: Callable[[str], Scene],
) -> None:
    """No caller is needed, and none waits for the sixty seconds."""
    scene = scenes("rating")
    for number in range(20):
        scene.iam.fault = DOWN if number % 2 else None
        await scene.ask()
        if (await scene.gateway.breaker())["state"] == "open":
            break
    assert 9 <= number <= 11, "as soon as ten calls are known"
    opened = await scene.gateway.breaker()
    assert 50 < opened["remaining_s"] <= 60
    scene.iam.fault = None
    begun = time.monotonic()
    await scene.until_closed()
    assert time.monotonic() - begun < 10
    assert (await scene.ask()).status == 200
