"""Every fault of an upstream under every rule: the answer, the breaker's count, and that the next request is its own.

One gateway for each rule plays all faults once; the tests look at what was seen.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Actor, Answer, Gateway, acting, by_name, decides, echo, running
from tests.faults.upstream_faults import FAULTS, UpstreamFault

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_S, SLACK_S = 1.0, 3.0
RULES = {
    "error": "error",
    "stale": "{degrade: stale, max_stale: 60s}",
    "fallback": "{degrade: fallback, response: {status: 203, json: {instead: true}}}",
}
ROUTES = """
version: 1
server: {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s}
iam: {url: "IAM"}
identity: {opaque: {}}
upstreams: {sick: {url: "UPSTREAM"}}
routes:
  - {id: sick, path: /sick/*, upstream: sick, authorize: ["read system:sick"], deadline: 1s,
     timeout: {connect: 500ms, read: 300ms, write: 500ms}, circuit_breaker: {failure_threshold: 1000},
     on_upstream_failure: RULE}
"""
HEADERS = {"Authorization": "Bearer alice"}
HOP_BY_HOP = {"x-hop", "keep-alive", "proxy-authenticate", "upgrade", "trailer", "transfer-encoding"}


@dataclass
class Outcome:
    """What became of one request, of the one after it, and of the breaker's count in between."""

    answer: Answer
    failures: int
    after: Answer
    target: str
    status: dict[str, Any]


async def play(gateway: Gateway, upstream: Actor, fault: UpstreamFault, number: int) -> Outcome:
    target = f"/sick/{number}"
    known = await gateway.ask(target, headers=HEADERS)
    assert known.status == 200, known
    upstream.fault = fault.fault
    answer = await gateway.ask(target, method=fault.method, headers=HEADERS, body=b"x" * fault.size)
    upstream.fault = None
    failures = (await gateway.breaker("sick"))["consecutive_failures"]
    after = await gateway.ask(f"{target}/after", headers=HEADERS)
    return Outcome(answer, failures, after, target, await gateway.until_idle())


async def play_all(folder: Path, rule: str) -> dict[tuple[str, str], Outcome]:
    iam, upstream = Actor(decides(by_name)), Actor(echo)
    text = ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url).replace("RULE", RULES[rule])
    async with acting(iam, upstream), running(folder, text) as gateway:
        return {(fault.name, rule): await play(gateway, upstream, fault, number) for number, fault in enumerate(FAULTS)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    folders = {rule: tmp_path_factory.mktemp(rule) for rule in RULES}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play_all(folders[rule], rule)) for rule in RULES]
    return {key: outcome for task in tasks for key, outcome in task.result().items()}


CASES = [pytest.param(fault, rule, id=f"{rule}: {fault.name}") for rule in RULES for fault in FAULTS]


@pytest.mark.parametrize(("fault", "rule"), CASES)
async def test_the_caller_sees_the_truth_and_nobody_after_it_is_harmed(
    played: dict[tuple[str, str], Outcome], fault: UpstreamFault, rule: str
) -> None:
    outcome = played[fault.name, rule]
    answered(fault, rule, outcome)
    assert outcome.failures == (1 if fault.counts or outcome.answer.code or outcome.answer.degraded else 0)
    after = outcome.after
    assert (after.status, after.degraded) == (200, None)
    assert json.loads(after.body)["target"] == f"{outcome.target}/after"
    assert len(outcome.status["upstreams"]["sick"]["origins"]) == 1, "and until_idle saw no place taken"


def answered(fault: UpstreamFault, rule: str, outcome: Outcome) -> None:
    answer = outcome.answer
    assert answer.seconds < DEADLINE_S + SLACK_S
    if fault.broken and not answer.complete:
        assert answer.status in (0, 200)
        return
    assert answer.complete
    if rule != "error" and fault.method == "GET" and (fault.statuses[0] in (502, 503, 504) or answer.degraded):
        stood_in(rule, outcome)
        return
    assert answer.status in fault.statuses
    assert answer.code == (fault.code if answer.status in (502, 504) else "")
    assert answer.degraded is None
    if fault.header is not None:
        assert answer.value(fault.header[0]) == fault.header[1]
    if answer.status == 200 and fault.method == "GET":
        assert answer.body == b"ok"


def stood_in(rule: str, outcome: Outcome) -> None:
    """The last good answer to the same question, or the route's own; marked."""
    answer = outcome.answer
    if rule == "stale":
        age = answer.value("age")
        assert (answer.status, answer.degraded) == (200, f"upstream; mode=stale; age={age}")
        assert int(age or -1) <= answer.seconds + 1
        assert json.loads(answer.body)["target"] == outcome.target
    else:
        assert (answer.status, answer.degraded) == (203, "upstream; mode=fallback")
        assert json.loads(answer.body) == {"instead": True}
