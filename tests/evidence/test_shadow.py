"""A second IAM changes nothing: a real gateway before IAMs that agree, differ, lie, hang and die."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.evidence.shadow import Shadow
from gateway.model.permit import Decision, Question
from gateway.model.settings import IamSettings, ShadowSettings
from gateway.telemetry.observer import Observer
from tests.authorize.conftest import Bench, checks, fault, route
from tests.complete_path.patience import until
from tests.config.texts import JWT, whole
from tests.e2e.conftest import Server, iam, permits, start_gateway, upstream
from tests.evidence.test_lines import told

__all__ = ["iam", "start_gateway", "upstream"]
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", trusted_proxies: [127.0.0.0/8]LOG}
iam: {url: "IAM"}
iam_shadow:
  url: "SHADOW"
  timeout: {connect: 1s, read: 500ms, total: 800ms}
  circuit_breaker: {failure_threshold: 3, open_for: 60s, probe: off}
identity: {header: {name: X-User}}
upstreams: {a: {url: "UPSTREAM"}}
routes:
  - {id: r, path: /r/*, upstream: a, authorize: ["read system:r"]}
"""


@pytest.fixture
async def shadow() -> AsyncIterator[Server]:
    server = Server(permits(lambda evaluation: evaluation["subject"]["id"] in ("allow", "only-shadow")))
    await server.start()
    yield server
    await server.stop()


def text(iam: Any, shadow: Any, upstream: Any, log: str = "") -> str:
    made = ROUTES.replace("IAM", iam.url).replace("SHADOW", shadow.url).replace("UPSTREAM", upstream.url)
    return made.replace("LOG", log)


async def agreement(client: httpx.AsyncClient, gateway: Any) -> dict[str, float]:
    lines = (await client.get(f"{gateway.admin}/metrics")).text.splitlines()
    found = [line for line in lines if line.startswith("gateway_shadow_total{")]
    return {line.split('agreement="')[1].split('"')[0]: float(line.split()[-1]) for line in found}


async def ask(client: httpx.AsyncClient, who: str, times: int = 1) -> list[int]:
    return [(await client.get("/r/7", headers={"x-user": who})).status_code for _ in range(times)]


async def counted(client: httpx.AsyncClient, gateway: Any, wanted: dict[str, float]) -> None:
    found: dict[str, float] = {}
    end = time.monotonic() + 20
    while found != wanted:
        assert time.monotonic() < end, f"{found} instead of {wanted}"
        found = await agreement(client, gateway)


@pytest.mark.hazard
@pytest.mark.integration
async def test_it_agrees_differs_lies_and_dies_and_nobody_notices(
    start_gateway: Any, iam: Server, shadow: Server, upstream: Server, tmp_path: Path
) -> None:
    gateway = await start_gateway(text(iam, shadow, upstream, ", decision_log: {path: d.jsonl}"))
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as client:
        assert await ask(client, "allow", 2) + await ask(client, "nobody") == [200, 200, 403]
        await counted(client, gateway, {"same": 3})
        assert await ask(client, "only-shadow") == [403]
        await counted(client, gateway, {"same": 3, "different": 1})
        log = tmp_path / "d.jsonl"
        await until(lambda: '"different"' in log.read_text().splitlines()[-1])
        different = json.loads(log.read_text().splitlines()[-1])
        assert (different["outcome"], different["subject"]["id"]) == ("different", "only-shadow")
        (question,) = different["questions"]
        assert (question["was"], question["decision"], question["source"]) == (False, True, "iam_shadow")

        shadow.answer = lambda _: (200, {}, b'{"evaluations": "lies"}')
        assert await ask(client, "allow", 20) == [200] * 20
        await counted(client, gateway, {"same": 3, "different": 1, "unknown": 20})
        end = time.monotonic() + 20
        while b"[resilience] [iam_shadow] Circuit CLOSED" not in gateway.errors:
            assert time.monotonic() < end
            assert await ask(client, "allow") == [200]
        assert b"[resilience] [iam] " not in gateway.errors
        await shadow.stop()
        asked = len(iam.seen)
        assert await ask(client, "allow", 20) == [200] * 20
        assert len(iam.seen) > asked
        breakers = (await client.get(f"{gateway.admin}/breakers")).json()["breakers"]
        assert (breakers["iam"]["state"], breakers["iam_shadow"]["state"]) == ("closed", "open")
        status = (await client.get(f"{gateway.admin}/status")).json()
        assert "open" not in json.dumps(status["iam"])


@pytest.mark.hazard
@pytest.mark.integration
async def test_one_that_hangs_delays_nothing_and_without_a_log_differences_are_logged(
    start_gateway: Any, iam: Server, shadow: Server, upstream: Server
) -> None:
    gateway = await start_gateway(text(iam, shadow, upstream))
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as client:
        assert await ask(client, "only-shadow", 5) == [403] * 5
        await until(lambda: b"[evidence] [r] iam_shadow permits what IAM denies" in gateway.errors)
        assert b"only-shadow" not in gateway.errors
        shadow.mode = "hang"
        begun = time.monotonic()
        assert await ask(client, "allow", 50) == [200] * 50
        hanging = time.monotonic() - begun
        assert hanging / 50 < 0.4, "the timeout of the second IAM is 0.8 s"
        await counted(client, gateway, {"different": 5, "unknown": 50})
    assert await gateway.stop() == 0


def test_it_has_every_key_of_iam_and_how_often(load_text: Any) -> None:
    made = load_text(whole(identity=JWT) + "iam_shadow: {url: https://b.example, sample: 10%, max_concurrency: 2}\n")
    assert (made.iam_shadow.sample, made.iam_shadow.iam.urls) == (0.1, ("https://b.example",))
    assert made.iam_shadow.iam.max_concurrency == 2
    assert load_text(whole()).iam_shadow is None


@pytest.mark.parametrize(
    ("shadow", "routes", "id_"),
    [
        ("{sample: 10%}", "", "missing-key"),
        ("{url: https://b, sample: 0%}", "", "bad-share"),
        ("{url: https://b, smaple: 1%}", "", "unknown-key"),
        ("{api: embedded}", "", "no-access-policies"),
        ("{url: https://b}", "routes:\n  - {id: iam_shadow, path: /, upstream: a, authorize: public}", "same-name"),
    ],
)
def test_mistakes_in_it_are_told(mistakes: Any, shadow: str, routes: str, id_: str) -> None:
    parts = {"routes": routes} if routes else {}
    assert [each.id for each in mistakes(whole(identity=JWT, **parts) + f"iam_shadow: {shadow}\n")] == [id_]


def test_a_route_may_have_its_name_where_there_is_none(load_text: Any) -> None:
    assert load_text(whole(routes="routes:\n  - {id: iam_shadow, path: /, upstream: a, authorize: public}"))


class Refusing:
    """A second IAM whose circuit is open, as its client says it."""

    def __init__(self) -> None:
        self.calls = 0
        self.code = "iam_circuit_open"

    async def decide(self, questions: Sequence[Question], **_: Any) -> list[Decision]:
        self.calls += 1
        return [fault(self.code)] * len(questions)

    async def aclose(self) -> None:
        """It holds nothing."""


class Counting(Observer):
    def __init__(self) -> None:
        self.said: Counter[str] = Counter()

    def shadow(self, route: str, agreement: str, said: str = "") -> None:
        self.said[agreement] += 1


async def test_while_its_circuit_is_open_nothing_is_taken_along() -> None:
    """Each decision is counted as unknown, and costs no task, no timer and no question."""
    now = [100.0]
    (decided,) = await told(Bench(), route(checks("read system:inventory")))
    point, observer = Refusing(), Counting()
    made = Shadow(ShadowSettings(IamSettings()), point, observer, None, clock=lambda: now[0])

    async def see(times: int) -> None:
        for _ in range(times):
            made.saw(decided)

    async def seen(calls: int, unknown: int) -> None:
        await until(lambda: (point.calls, observer.said["unknown"]) == (calls, unknown))

    await asyncio.create_task(see(5))
    await seen(1, 5)
    await asyncio.create_task(see(1000))
    assert (point.calls, observer.said["unknown"]) == (1, 1005)
    now[0] += 1.5
    point.code = "iam_timeout"
    await asyncio.create_task(see(1))
    await seen(2, 1006)
    await asyncio.create_task(see(1))
    await seen(3, 1007)
    await made.aclose()
