"""One subject, one route or one upstream at its limits, while the others keep their answers and their latency."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.faults.actors import Actor, Answer, Gateway, Seen, acting, by_name, decides, echo, running, until

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server:
  listen: "127.0.0.1:PORT"
  admin: "127.0.0.1:ADMIN"
  drain_timeout: 1s
  deadline: 20s
  max_concurrency: 100
  trusted_proxies: [127.0.0.0/8]
iam:
  url: "IAM"
  timeout: {connect: 5s, read: 20s, total: 20s}
  batch: {max_size: 5}
  max_concurrency: 1
  max_queue: 100
identity: {header: {name: X-User}}
upstreams:
  hung: {url: "HUNG"}
  small: {url: "HUNG", max_connections: 2, max_pending: 4}
  good: {url: "GOOD"}
routes:
  - {id: greedy, path: /greedy/*, upstream: hung, authorize: public, max_concurrency: 10, timeout: {read: 20s}}
  - {id: half, path: /half/*, upstream: hung, authorize: public, timeout: {read: 20s}}
  - {id: small, path: /small/*, upstream: small, authorize: public, timeout: {read: 20s}}
  - {id: good, path: /good/*, upstream: good, authorize: public}
  - {id: asked, path: /asked/*, upstream: good, authorize: ["read item:{query.n}"],
     on_iam_failure: {degrade: allow, acknowledge_fail_open: true}}
"""


class Held(Actor):
    """Answers while its gate is open."""

    def __init__(self, behave: object) -> None:
        super().__init__(self.answer)
        self.gate = asyncio.Event()
        self.gate.set()
        self._behaves = behave

    async def answer(self, seen: Seen) -> bytes:
        await self.gate.wait()
        answer: bytes = self._behaves(seen)
        return answer


@dataclass
class Scene:
    gateway: Gateway
    iam: Held
    hung: Held

    async def in_flight(self, count: int) -> None:
        async def there() -> bool:
            return bool((await self.gateway.look("/status"))["in_flight"] == count)

        await until(there)

    async def others_are_served(self) -> None:
        """Twenty callers elsewhere, all answered in time that is nothing beside the hanging."""
        answers = await asyncio.gather(*(self.gateway.ask(f"/good/{n}") for n in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert max(answer.seconds for answer in answers) < 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    iam, hung, good = Held(decides(by_name)), Held(echo), Actor(echo)
    text = ROUTES.replace("IAM", iam.url).replace("HUNG", hung.url).replace("GOOD", good.url)
    async with acting(iam, hung, good), running(tmp_path_factory.mktemp("fair"), text) as gateway:
        yield Scene(gateway, iam, hung)


def _codes(answers: list[Answer]) -> Counter[tuple[int, str]]:
    return Counter((answer.status, answer.code) for answer in answers)


async def _crowd(scene: Scene, path: str, size: int) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(scene.gateway.ask(f"{path}/{n}")) for n in range(size)]


@pytest.mark.parametrize(
    ("path", "size", "held", "code"),
    [
        pytest.param("/greedy", 40, 10, "overloaded", id="a route at its own max_concurrency"),
        pytest.param("/half", 80, 50, "overloaded", id="a route at half of the gateway's"),
        pytest.param("/small", 40, 6, "upstream_overloaded", id="an upstream at max_connections and max_pending"),
    ],
)
async def test_whoever_is_at_its_limit_is_refused_at_once_and_alone(
    scene: Scene, path: str, size: int, held: int, code: str
) -> None:
    scene.hung.gate.clear()
    crowd = await _crowd(scene, path, size)
    await scene.in_flight(held)
    await until(lambda: _done(crowd, size - held))
    refused = [task.result() for task in crowd if task.done()]
    assert _codes(refused) == {(503, code): size - held}
    assert max(answer.seconds for answer in refused) < 3
    assert all(answer.retry_after <= 2 for answer in refused)
    await scene.others_are_served()
    scene.hung.gate.set()
    assert _codes(await asyncio.gather(*crowd)) == {(503, code): size - held, (200, ""): held}
    status = await scene.gateway.until_idle()
    assert {breaker["consecutive_failures"] for breaker in status["breakers"].values()} == {0}


async def _done(tasks: list[asyncio.Task[Answer]], count: int) -> bool:
    return sum(task.done() for task in tasks) >= count


async def test_a_flood_of_one_subject_waits_and_keeps_nobody_else_waiting(scene: Scene) -> None:
    """Its questions take turns with the others'; what is over all limits is `iam_overloaded` and opens no door."""
    scene.iam.gate.clear()

    async def ask(user: str, number: int) -> Answer:
        return await scene.gateway.ask(f"/asked/x?n={number}", headers={"X-User": user})

    greedy = [asyncio.create_task(ask("greedy", number)) for number in range(30)]
    await scene.in_flight(30)
    others = [asyncio.create_task(ask(f"user{number}", number)) for number in range(15)]
    await scene.in_flight(45)
    scene.iam.gate.set()
    assert _codes(await asyncio.gather(*others)) == {(200, ""): 15}
    assert _codes(await asyncio.gather(*greedy)) == {(200, ""): 30}
    assert (await scene.gateway.breaker())["consecutive_failures"] == 0
