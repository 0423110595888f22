"""Retries, set-asides, circuits and several origins of upstreams, through a running gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.resilience.evidence import RECENT_S
from tests.faults.actors import (
    Actor,
    Answer,
    Caller,
    Fault,
    Gateway,
    Seen,
    acting,
    echo,
    plays,
    reply,
    running,
    until,
)

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s}
iam: {url: "http://127.0.0.1:9"}
identity: {opaque: {}}
upstreams:
  one: {url: "ONE"}
  audit: {url: "ONE"}
  many: {urls: ["ONE", "TWO", "THREE"]}
UPSTREAMS
routes:
ROUTES
  - {id: plain, path: /plain/*, upstream: one, authorize: public, timeout: {read: 10s},
     circuit_breaker: {failure_threshold: 2, open_for: 2s}}
  - {id: audit, path: /audit/*, upstream: audit, authorize: public, policy: audit, retry: {backoff: 50ms}}
  - {id: narrow, path: /narrow/*, upstream: one, authorize: public, max_concurrency: 2}
  - {id: many, path: /many/*, upstream: many, authorize: public}
"""
PATIENT = 8
"""How many patient routes there are: each has an upstream, and so a retry budget, of its own."""
UPSTREAM = '  patient-{0}: {{url: "ONE"}}'
ROUTE = """
  - {{id: patient-{0}, path: /patient-{0}/*, upstream: patient-{0}, authorize: public,
      retry: {{attempts: 3, backoff: 300ms}}, circuit_breaker: {{failure_threshold: 1000}}}}"""
DOWN = plays(end="fin")


class Scene:
    """One gateway before three origins. Every test uses a route of its own, or leaves it as it was."""

    def __init__(self, gateway: Gateway, origins: list[Actor]) -> None:
        self.gateway = gateway
        self.origins = origins
        self.one = origins[0]
        self._patient = 0

    def patient(self) -> str:
        """The id of a route that tries three times and has not been used yet."""
        self._patient += 1
        return f"patient-{self._patient}"

    async def ask(self, target: str, **asked: Any) -> Answer:
        return await self.gateway.ask(target, **asked)

    def fails_first(self, count: int, fault: Fault) -> int:
        """The next `count` requests meet the fault. How many were seen before them."""
        before = len(self.one.seen)

        def script(seen: Seen) -> list[bytes | float]:
            if seen.index + 1 - before >= count:
                self.one.fault = None
            return list(fault.script(seen))

        self.one.fault = Fault(script, fault.end, fault.early)
        return before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    origins = [Actor(echo) for _ in range(3)]
    text = ROUTES.replace("UPSTREAMS", "\n".join(UPSTREAM.format(n + 1) for n in range(PATIENT)))
    text = text.replace("ROUTES", "".join(ROUTE.format(n + 1) for n in range(PATIENT)))
    for name, origin in zip(("ONE", "TWO", "THREE"), origins, strict=True):
        text = text.replace(name, origin.url)
    async with acting(*origins), running(tmp_path_factory.mktemp("circuit"), text) as gateway:
        yield Scene(gateway, origins)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(stage: Scene) -> AsyncIterator[Scene]:
    yield stage
    stage.one.fault = None
    stage.one.behave = echo
    for name in (await stage.gateway.look("/breakers"))["breakers"]:
        await stage.gateway.do(f"/breakers/{name}/close")
        await stage.gateway.do(f"/breakers/{name}/auto")


async def quiet() -> None:
    """Who answered somebody within the last second is not down, whatever fails: let that second pass."""
    await asyncio.sleep(RECENT_S + 0.05)


async def open_circuit(scene: Scene) -> None:
    await quiet()
    scene.one.fault = DOWN
    for _ in range(2):
        assert (await scene.ask("/plain/x")).code == "upstream_protocol_error"
    assert (await scene.gateway.breaker("plain"))["state"] == "open"


async def test_an_open_circuit_asks_nobody_and_one_trial_of_fifty_callers_closes_it(scene: Scene) -> None:
    await open_circuit(scene)
    seen = len(scene.one.seen)
    refused = await asyncio.gather(*(scene.ask("/plain/x") for _ in range(50)))
    assert {answer.code for answer in refused} == {"upstream_circuit_open"}
    assert all(answer.retry_after <= 3 for answer in refused)
    assert len(scene.one.seen) == seen
    scene.one.fault = None

    async def slow(seen: Seen) -> bytes:
        await asyncio.sleep(0.5)
        return echo(seen)

    scene.one.behave = slow
    await asyncio.sleep(min(answer.retry_after for answer in refused))
    answers = await asyncio.gather(*(scene.ask("/plain/x") for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [200, *[503] * 49]
    assert len(scene.one.seen) == seen + 1
    assert (await scene.gateway.breaker("plain"))["state"] == "closed"


async def test_other_routes_to_the_same_upstream_have_circuits_of_their_own(scene: Scene) -> None:
    await open_circuit(scene)
    scene.one.fault = None
    assert (await scene.ask("/plain/x")).code == "upstream_circuit_open"
    assert (await scene.ask("/narrow/x")).status == 200


async def test_a_trial_whose_caller_leaves_frees_its_place(scene: Scene) -> None:
    await open_circuit(scene)
    scene.one.fault = plays(end="hang")
    await asyncio.sleep(2.05)
    caller = await Caller.to(scene.gateway.port)
    leaving = asyncio.create_task(caller.ask("/plain/x"))

    async def on_trial() -> bool:
        return bool((await scene.gateway.breaker("plain"))["trial"])

    async def free() -> bool:
        return not await on_trial()

    await until(on_trial)
    caller.abort()
    await leaving
    await until(free)
    scene.one.fault = None
    assert (await scene.ask("/plain/x")).status == 200
    assert (await scene.gateway.breaker("plain"))["state"] == "closed"


async def test_a_429_holds_back_its_caller_on_that_route_alone(scene: Scene) -> None:
    """The caller sees the upstream's own answer; those after it are answered by us until its time is over."""
    seen = scene.fails_first(1, plays(reply(b"later", "429 Too Many Requests", "Retry-After: 2")))
    first = await scene.ask("/plain/x")
    assert (first.status, first.body, first.value("retry-after")) == (429, b"later", "2")
    second = await scene.ask("/plain/x")
    assert second.code == "upstream_circuit_open"
    assert second.retry_after <= 3
    assert len(scene.one.seen) == seen + 1
    assert (await scene.gateway.breaker("plain"))["state"] == "closed"
    assert (await scene.ask("/narrow/x")).status == 200
    await asyncio.sleep(second.retry_after)
    assert (await scene.ask("/plain/x")).status == 200


async def test_a_503_with_retry_after_holds_back_the_origin_on_every_route(scene: Scene) -> None:
    await quiet()
    seen = scene.fails_first(1, plays(reply(b"later", "503 Service Unavailable", "Retry-After: 2")))
    first = await scene.ask("/plain/x")
    assert (first.status, first.body, first.value("retry-after")) == (503, b"later", "2")
    held = [await scene.ask("/plain/x"), await scene.ask("/narrow/x")]
    assert {answer.code for answer in held} == {"upstream_circuit_open"}
    assert all(1 <= answer.retry_after <= 3 for answer in held)
    assert len(scene.one.seen) == seen + 1
    assert (await scene.gateway.breaker("plain"))["state"] == "closed"
    await asyncio.sleep(2.05)
    assert (await scene.ask("/plain/x")).status == 200


async def test_a_503_with_retry_after_is_not_believed_of_who_answers_others(scene: Scene) -> None:
    assert (await scene.ask("/narrow/x")).status == 200
    scene.fails_first(1, plays(reply(b"later", "503 Service Unavailable", "Retry-After: 200")))
    assert (await scene.ask("/plain/x")).status == 503
    assert (await scene.ask("/plain/x")).status == 200


@pytest.mark.parametrize("fault", [DOWN, plays(end="rst"), plays(reply(b"", "502 Bad Gateway"))])
async def test_a_get_is_tried_again_until_it_succeeds(scene: Scene, fault: Fault) -> None:
    seen, route = scene.fails_first(2, fault), scene.patient()
    answer = await scene.ask(f"/{route}/x")
    assert answer.status == 200
    tried = len(scene.one.seen) - seen
    assert 3 <= tried <= 4, "three attempts; a kept connection that was dead is replaced beside them"
    assert (await scene.gateway.breaker(route))["consecutive_failures"] == 0


@pytest.mark.parametrize("fault", [DOWN, plays(end="rst"), plays(reply(b"", "503 Service Unavailable"))])
async def test_a_post_is_never_sent_twice(scene: Scene, fault: Fault) -> None:
    seen = scene.fails_first(3, fault)
    answer = await scene.ask(f"/{scene.patient()}/x", method="POST", body=b"pay")
    assert answer.status in (502, 503)
    assert len(scene.one.seen) == seen + 1


async def test_a_post_is_tried_again_while_nobody_listens(scene: Scene) -> None:
    """Nothing was sent, so nothing can be done twice."""
    await scene.one.stop()
    seen, route = len(scene.one.seen), scene.patient()
    asking = asyncio.create_task(scene.ask(f"/{route}/x", method="POST", body=b"pay"))
    await asyncio.sleep(0.1)
    await scene.one.start()
    answer = await asking
    assert answer.status == 200
    assert json.loads(answer.body) == {"target": f"/{route}/x", "method": "POST", "body": 3}
    assert len(scene.one.seen) == seen + 1


async def test_a_retry_comes_no_sooner_than_the_upstream_asked(scene: Scene) -> None:
    seen = scene.fails_first(1, plays(reply(b"", "503 Service Unavailable", "Retry-After: 1")))
    begun = time.monotonic()
    assert (await scene.ask(f"/{scene.patient()}/x")).status == 200
    assert time.monotonic() - begun >= 1.0
    assert len(scene.one.seen) == seen + 2


async def test_the_audit_policy_tries_three_times_counts_once_and_the_sixth_request_finds_it_open(scene: Scene) -> None:
    """Any 5xx counts; the log says so. The good requests before are what the budget's fifth is of."""
    assert {answer.status for answer in [await scene.ask("/audit/x") for _ in range(60)]} == {200}
    scene.one.fault = plays(reply(b"", "500 Internal Server Error"))
    await quiet()
    seen = len(scene.one.seen)
    for number in range(5):
        answer = await scene.ask("/audit/x")
        assert answer.status == 500, "the last attempt's own answer"
        assert len(scene.one.seen) == seen + 3 * (number + 1)
    sixth = await scene.ask("/audit/x")
    assert sixth.code == "upstream_circuit_open"
    assert 50 <= sixth.retry_after <= 72
    assert len(scene.one.seen) == seen + 15
    for line in (
        "[resilience] [audit] Retry attempt 2/3 (http_500)",
        "[resilience] [audit] Retry attempt 3/3 (http_500)",
        "[resilience] [audit] Circuit CLOSED → OPEN (5 consecutive failures, last: http_500)",
    ):
        await scene.gateway.until_said(line)


async def test_a_route_at_its_limit_sheds_load_and_the_others_do_not_notice(scene: Scene) -> None:
    gate = asyncio.Event()

    async def held(seen: Seen) -> bytes:
        await gate.wait()
        return echo(seen)

    scene.one.behave = held
    holding = [asyncio.create_task(scene.ask("/narrow/x")) for _ in range(2)]

    async def both() -> bool:
        return (await scene.gateway.look("/status"))["in_flight"] == 2

    await until(both)
    shed = await asyncio.gather(*(scene.ask("/narrow/x") for _ in range(10)))
    assert {(answer.status, answer.code) for answer in shed} == {(503, "overloaded")}
    assert {answer.value("proxy-status") for answer in shed} == {"edge; error=connection_limit_reached"}
    assert all(answer.retry_after <= 2 for answer in shed)
    other = asyncio.create_task(scene.ask("/plain/x"))
    gate.set()
    assert (await other).status == 200
    assert [answer.status for answer in await asyncio.gather(*holding)] == [200, 200]
    assert (await scene.ask("/narrow/x")).status == 200


async def test_of_several_origins_one_may_die_and_no_request_fails(scene: Scene) -> None:
    """Also not those on the way to it; and it is used again some time after it is back."""
    before = [len(origin.seen) for origin in scene.origins]

    async def ask_often(count: int) -> list[int]:
        caller = await Caller.to(scene.gateway.port)
        answers = [await caller.ask(f"/many/{number}") for number in range(count)]
        caller.close()
        return [answer.status for answer in answers]

    asking = [asyncio.create_task(ask_often(60)) for _ in range(8)]
    await asyncio.sleep(0.05)
    await scene.origins[1].stop()
    statuses = [status for asked in await asyncio.gather(*asking) for status in asked]
    assert set(statuses) == {200}
    shares = [len(origin.seen) - seen for origin, seen in zip(scene.origins, before, strict=True)]
    assert shares[0] > 50
    assert shares[2] > 50
    dead = len(scene.origins[1].seen)
    assert set(await ask_often(50)) == {200}
    assert len(scene.origins[1].seen) == dead
    await scene.origins[1].start()
