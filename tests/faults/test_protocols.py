"""Every way of asking IAM, through a running gateway: allowed, denied, not answered as asked, and not there.

Each protocol has a gateway and an IAM of its own; all of them permit everybody but mallory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import (
    Actor,
    Answer,
    Gateway,
    Seen,
    acting,
    all_running,
    as_json,
    by_name,
    decides,
    echo,
    plays,
    running,
)

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s, trusted_proxies: [127.0.0.1/32]}
iam: IAM
identity: {header: {name: X-User}}
upstreams: {inventory: {url: "UPSTREAM"}}
routes:
  - {id: inventory, path: /inventory/*, upstream: inventory,
     authorize: ["read system:inventory", "use route:{route.path}", "{method} host:north"]}
"""
LIMITS = "timeout: {connect: 300ms, read: 300ms, total: 500ms}, circuit_breaker: {failure_threshold: 1000}"
WELL_KNOWN = "/.well-known/authzen-configuration"
CEDAR = 'permit (principal, action, resource); forbid (principal == Identity::"mallory", action, resource);'


def plain(seen: Seen) -> bytes:
    """The seed's own IAM."""
    asked = json.loads(seen.body)
    allowed = [{"allowed": check["subject"] != "mallory"} for check in asked.get("checks", [asked])]
    return as_json({"results": allowed} if "checks" in asked else allowed[0])


def opa(seen: Seen) -> bytes:
    """OPA's data API."""
    return as_json({"result": [by_name(one) for one in json.loads(seen.body)["input"]["evaluations"]]})


def discoverable(*, batch: bool) -> Callable[[Actor], Callable[[Seen], bytes]]:
    """AuthZEN that says itself where it is asked."""

    def made(actor: Actor) -> Callable[[Seen], bytes]:
        document = {"policy_decision_point": actor.url, "access_evaluation_endpoint": f"{actor.url}/one"}
        if batch:
            document["access_evaluations_endpoint"] = f"{actor.url}/many"

        def answer(seen: Seen) -> bytes:
            if seen.target == WELL_KNOWN:
                return as_json(document)
            return decides(by_name)(seen) if seen.target == "/many" else as_json({"decision": by_name(_one(seen))})

        return answer

    return made


def _one(seen: Seen) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(seen.body)
    return asked


@dataclass(frozen=True)
class Protocol:
    """`calls`: how often IAM is asked for one request with three checks, and where; `wrong`: an answer that is none."""

    name: str
    iam: str
    behave: Callable[[Actor], Callable[[Seen], bytes]]
    calls: tuple[str, ...]
    wrong: Any


PROTOCOLS = [
    Protocol(
        "authzen",
        "api: authzen",
        lambda _: decides(by_name),
        ("/access/v1/evaluations",),
        {"evaluations": [{"decision": "true"}] * 3},
    ),
    Protocol("json", "api: json", lambda _: plain, ("/iam/authorize/batch",), {"results": [{"allowed": "true"}] * 3}),
    Protocol(
        "json one by one", "api: json, batch_path: null", lambda _: plain, ("/iam/authorize",) * 3, {"allowed": 1}
    ),
    Protocol("opa", "api: opa, path: gateway/allow", lambda _: opa, ("/v1/data/gateway/allow",), {}),
    Protocol("discovery", "api: authzen, discovery: true", discoverable(batch=True), ("/many",), {"evaluations": []}),
    Protocol(
        "discovery without batches",
        "api: authzen, discovery: true",
        discoverable(batch=False),
        ("/one",) * 3,
        {"decision": None},
    ),
]


@dataclass
class Scene:
    gateway: Gateway
    iam: Actor
    upstream: Actor

    async def ask(self, user: str) -> Answer:
        return await self.gateway.ask("/inventory/7", headers={"X-User": user})


def _text(protocol: Protocol, iam: Actor, upstream: Actor) -> str:
    settings = f'{{{protocol.iam}, url: "{iam.url}", {LIMITS}}}'
    return ROUTES.replace("IAM", settings).replace("UPSTREAM", upstream.url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Scene]]:
    upstream, iams = Actor(echo), [Actor(echo) for _ in PROTOCOLS]
    texts = []
    for protocol, iam in zip(PROTOCOLS, iams, strict=True):
        iam.behave = protocol.behave(iam)
        texts.append((tmp_path_factory.mktemp("protocol"), _text(protocol, iam, upstream)))
    async with acting(upstream, *iams), all_running(*texts) as gateways:
        played = zip(PROTOCOLS, gateways, iams, strict=True)
        yield {protocol.name: Scene(gateway, iam, upstream) for protocol, gateway, iam in played}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
async def test_a_protocol_decides_and_fails_like_every_other(scenes: dict[str, Scene], protocol: Protocol) -> None:
    scene = scenes[protocol.name]
    assert (await scene.ask("alice")).status == 200
    asked, forwarded = len(scene.iam.seen), len(scene.upstream.seen)
    assert (await scene.ask("bob")).status == 200
    assert tuple(seen.target for seen in scene.iam.seen[asked:]) == protocol.calls
    denied = await scene.ask("mallory")
    assert (denied.status, denied.code) == (403, "iam_denied")
    scene.iam.fault = plays(as_json(protocol.wrong))
    assert (await scene.ask("alice")).code == "iam_invalid_response"
    scene.iam.fault = plays(end="hang")
    assert (await scene.ask("alice")).code == "iam_timeout"
    scene.iam.fault = None
    await scene.iam.stop()
    gone = await scene.ask("alice")
    assert (gone.status, gone.code) == (503, "iam_unreachable")
    await scene.iam.start()
    assert (await scene.ask("alice")).status == 200
    assert len(scene.upstream.seen) == forwarded + 2


async def test_a_burst_shares_calls_as_far_as_the_protocol_can(scenes: dict[str, Scene]) -> None:
    """Sixty callers with three questions each."""
    for protocol in PROTOCOLS:
        scene = scenes[protocol.name]
        asked = len(scene.iam.seen)
        answers = await asyncio.gather(*(scene.ask(f"user{number}") for number in range(60)))
        assert {answer.status for answer in answers} == {200}
        calls = len(scene.iam.seen) - asked
        assert calls == 180 if len(protocol.calls) == 3 else calls <= 40


async def test_the_embedded_policies_need_no_server(tmp_path: Path) -> None:
    (tmp_path / "policies" / "access").mkdir(parents=True)
    (tmp_path / "policies" / "access" / "all.cedar").write_text(CEDAR)
    upstream = Actor(echo)
    text = ROUTES.replace("IAM", "{api: embedded}").replace("UPSTREAM", upstream.url)
    async with acting(upstream), running(tmp_path, text) as gateway:
        allowed = await gateway.ask("/inventory/7", headers={"X-User": "alice"})
        denied = await gateway.ask("/inventory/7", headers={"X-User": "mallory"})
    assert (allowed.status, allowed.degraded) == (200, None)
    assert (denied.status, denied.code, denied.degraded) == (403, "iam_denied", None)
    assert len(upstream.seen) == 1
