"""Everybody logs in at the same moment, and IAM can only answer four calls at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.actors import (
    Actor,
    Answer,
    Caller,
    Gateway,
    Seen,
    acting,
    as_json,
    by_name,
    decides,
    evaluations,
    running,
    until,
)

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

USERS, SYSTEMS, MAX_SIZE, IN_FLIGHT = 100, 5, 50, 8
AT_A_TIME, CALL_S, EVALUATION_S = 4, 0.005, 0.00005
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s, deadline: 30s, trusted_proxies: [127.0.0.0/8]}
iam: {url: "IAM", timeout: {connect: 5s, read: 20s, total: 20s}}
identity: {header: {name: X-User}}
upstreams: {registry: {url: "UPSTREAM"}}
routes:
  - {id: systems, path: "/systems/{system}", upstream: registry, authorize: ["read system:{path.system}"]}
  - id: navigation
    path: /navigation
    authorize: authenticated
    navigation: {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}"}
"""
DOCUMENT = {
    "systems": [
        {"name": f"system{n}", "menus": [{"title": "Open", "action": "read", "resource": f"system:{n}"}]}
        for n in range(SYSTEMS)
    ]
}


class SmallIam(Actor):
    """Answers four calls at a time, each in 5 ms and 0.05 ms for every evaluation, while its gate is open."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.gate = asyncio.Event()
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def answer(self, seen: Seen) -> bytes:
        await self.gate.wait()
        async with self._places:
            await asyncio.sleep(CALL_S + EVALUATION_S * len(evaluations(seen)))
        return decides(by_name)(seen)


def registry(seen: Seen) -> bytes:
    return as_json(DOCUMENT)


@dataclass
class Scene:
    gateway: Gateway
    iam: SmallIam

    async def storm(self, ask: Callable[[Caller, int], Awaitable[Answer]], size: int) -> tuple[list[Answer], float]:
        """All at once: IAM answers when the last of them is in. The answers, and the time from then to the last one."""
        self.iam.gate.clear()
        callers = [await Caller.to(self.gateway.port) for _ in range(size)]
        asking = [asyncio.create_task(ask(caller, number)) for number, caller in enumerate(callers)]

        async def all_in() -> bool:
            return bool((await self.gateway.look("/status"))["in_flight"] == size)

        await until(all_in)
        begun = time.monotonic()
        self.iam.gate.set()
        answers = await asyncio.gather(*asking)
        taken_s = time.monotonic() - begun
        for caller in callers:
            caller.close()
        return answers, taken_s


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    iam, upstream = SmallIam(), Actor(registry)
    text = ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url)
    folder: Path = tmp_path_factory.mktemp("storm")
    async with acting(iam, upstream), running(folder, text) as gateway:
        yield Scene(gateway, iam)


def _asked(iam: Actor, before: int) -> list[int]:
    return [len(evaluations(seen)) for seen in iam.seen[before:]]


async def test_five_hundred_requests_at_once_cost_few_calls(scene: Scene) -> None:
    """A hundred users at five systems: five hundred different questions, and nobody is refused or waits long."""
    before = len(scene.iam.seen)

    async def ask(caller: Caller, number: int) -> Answer:
        user, system = divmod(number, SYSTEMS)
        return await caller.ask(f"/systems/{system}", headers={"X-User": f"user{user}"})

    answers, taken_s = await scene.storm(ask, USERS * SYSTEMS)
    assert {answer.status for answer in answers} == {200}
    sizes = _asked(scene.iam, before)
    assert sum(sizes) == USERS * SYSTEMS
    assert len(sizes) <= ceil(USERS * SYSTEMS / MAX_SIZE) + IN_FLIGHT
    assert taken_s < 10, "generously: bench/storm.py measures it"


async def test_a_hundred_users_load_navigation_at_once_for_no_more_calls_than_full_batches(scene: Scene) -> None:
    before = len(scene.iam.seen)

    async def ask(caller: Caller, number: int) -> Answer:
        return await caller.ask("/navigation", headers={"X-User": f"user{number}"})

    answers, _ = await scene.storm(ask, USERS)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body.count(b'"enabled":true') == SYSTEMS for answer in answers)
    sizes = _asked(scene.iam, before)
    assert sum(sizes) == USERS * SYSTEMS
    assert len(sizes) <= ceil(USERS * SYSTEMS / MAX_SIZE) + IN_FLIGHT


async def test_the_same_question_of_many_is_asked_once(scene: Scene) -> None:
    """Two hundred tabs of one user."""
    before = len(scene.iam.seen)

    async def ask(caller: Caller, _: int) -> Answer:
        return await caller.ask("/systems/1", headers={"X-User": "user1"})

    answers, _ = await scene.storm(ask, 200)
    assert {answer.status for answer in answers} == {200}
    assert set(_asked(scene.iam, before)) == {1}
    assert len(scene.iam.seen) - before == 1
