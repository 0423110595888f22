"""IAM hangs under the load of 64 callers: what each kind of route does before and after the circuit opens.

Bounds are generous; the figures are printed (`pytest -s`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import ceil

import pytest
import pytest_asyncio

from tests.faults.actors import Actor, Answer, Caller, Gateway, acting, by_name, decides, echo, plays, running, until

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

CALLERS = 64
TOTAL_S, SLACK_S = 0.8, 3.0
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s, trusted_proxies: [127.0.0.0/8]}
iam:
  url: "IAM"
  timeout: {connect: 500ms, read: 500ms, total: 800ms}
  circuit_breaker: {failure_threshold: 5, open_for: 20s, probe: off}
identity: {header: {name: X-User}}
upstreams: {inventory: {url: "UPSTREAM"}}
routes:
  - {id: closed, path: /closed/*, upstream: inventory, authorize: ["read system:closed"]}
  - {id: stale, path: /stale/*, upstream: inventory, authorize: ["read system:stale"],
     on_iam_failure: {degrade: stale, max_stale: 5m}}
  - {id: fallback, path: /fallback/*, upstream: inventory, authorize: ["read system:fallback"],
     on_iam_failure: {degrade: fallback, response: {status: 200, json: {}}}}
  - {id: public, path: /public/*, upstream: inventory, authorize: public}
"""
KINDS = ("closed", "stale", "fallback", "public")


@dataclass
class Load:
    """64 callers, sixteen at each kind of route, each asking as soon as it was answered."""

    gateway: Gateway
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    async def run(self, seconds: float) -> None:
        self.answers = {kind: [] for kind in KINDS}
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._call(number, end) for number in range(CALLERS)))

    async def _call(self, number: int, end: float) -> None:
        kind = KINDS[number % len(KINDS)]
        caller = await Caller.to(self.gateway.port)
        while time.monotonic() < end:
            self.answers[kind].append(await caller.ask(f"/{kind}/7", headers={"X-User": f"user{number}"}))
        caller.close()

    def p99_s(self, kind: str) -> float:
        taken = sorted(answer.seconds for answer in self.answers[kind])
        return taken[min(int(len(taken) * 0.99), len(taken) - 1)]

    def statuses(self, kind: str) -> Counter[tuple[int, str, str | None]]:
        marks = [(answer.degraded or "").partition("; age")[0] or None for answer in self.answers[kind]]
        return Counter(
            (answer.status, answer.code, mark) for answer, mark in zip(self.answers[kind], marks, strict=True)
        )

    def report(self, phase: str) -> None:
        for kind in KINDS:
            print(f"{phase:8} {kind:9} {len(self.answers[kind]):6} answers, p99 {self.p99_s(kind) * 1000:6.0f} ms")  # noqa: T201


@dataclass
class Scene:
    gateway: Gateway
    iam: Actor
    upstream: Actor


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    iam, upstream = Actor(decides(by_name)), Actor(echo)
    text = ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url)
    async with acting(iam, upstream), running(tmp_path_factory.mktemp("hanging"), text) as gateway:
        yield Scene(gateway, iam, upstream)


async def test_nothing_hangs_before_the_circuit_opens_and_all_is_fast_after_it(scene: Scene) -> None:
    load = Load(scene.gateway)
    await load.run(0.7)
    load.report("healthy")
    assert all(set(load.statuses(kind)) == {(200, "", None)} for kind in KINDS)
    scene.iam.fault = plays(end="hang")
    opening = asyncio.create_task(load.run(1.5))

    async def opened() -> bool:
        return (await scene.gateway.breaker())["state"] == "open"

    await until(opened)
    await opening
    load.report("hanging")
    never_hung(load)
    calls = len(scene.iam.seen)
    await load.run(0.7)
    load.report("open")
    assert len(scene.iam.seen) == calls, "no request causes a call while the circuit is open"
    never_hung(load)
    assert set(load.statuses("closed")) == {(503, "iam_circuit_open", None)}
    assert all(load.p99_s(kind) < 1.0 for kind in KINDS)


def never_hung(load: Load) -> None:
    """Every answer within IAM's total, each as its route says; the public route never noticed."""
    assert all(answer.seconds < TOTAL_S + SLACK_S for kind in KINDS for answer in load.answers[kind])
    assert load.p99_s("public") < 1.0
    assert set(load.statuses("closed")) <= {(503, "iam_timeout", None), (503, "iam_circuit_open", None)}
    assert set(load.statuses("stale")) == {(200, "", "iam; mode=stale")}
    assert set(load.statuses("fallback")) == {(200, "", "iam; mode=fallback")}
    assert set(load.statuses("public")) == {(200, "", None)}


async def test_a_burst_of_a_thousand_is_answered_at_once_without_a_call(scene: Scene) -> None:
    """503 with `Retry-After` never above what remains and a fifth, rounded up."""
    breaker = await scene.gateway.breaker()
    assert breaker["state"] == "open"
    calls, forwarded = len(scene.iam.seen), len(scene.upstream.seen)
    callers = [await Caller.to(scene.gateway.port) for _ in range(250)]
    remaining_s = (await scene.gateway.breaker())["remaining_s"]

    async def ask_four(caller: Caller) -> list[Answer]:
        return [await caller.ask("/closed/7", method="POST", headers={"X-User": "alice"}) for _ in range(4)]

    begun = time.monotonic()
    answers = [answer for asked in await asyncio.gather(*map(ask_four, callers)) for answer in asked]
    taken_s = time.monotonic() - begun
    for caller in callers:
        caller.close()
    assert {(answer.status, answer.code) for answer in answers} == {(503, "iam_circuit_open")}
    assert max(answer.retry_after for answer in answers) <= ceil(1.2 * remaining_s)
    assert min(answer.retry_after for answer in answers) >= remaining_s - taken_s - 1
    assert len({answer.retry_after for answer in answers}) > 1, "spread, so that they do not come back together"
    assert (len(scene.iam.seen), len(scene.upstream.seen)) == (calls, forwarded)
    p99_s = sorted(answer.seconds for answer in answers)[989]
    print(f"burst of 1000: {taken_s * 1000:.0f} ms, p99 {p99_s * 1000:.0f} ms at 250 connections")  # noqa: T201
    assert p99_s < 1.0


async def test_after_the_storm_nothing_is_left_behind(scene: Scene) -> None:
    scene.iam.fault = None
    await scene.gateway.do("/breakers/iam/close")
    await scene.gateway.do("/breakers/iam/auto")
    answer = await scene.gateway.ask("/closed/7", headers={"X-User": "alice"})
    assert (answer.status, answer.degraded) == (200, None)
    status = await scene.gateway.until_idle()
    assert status["iam"]["queue"] == 0
    assert len(scene.iam.open) <= 8
