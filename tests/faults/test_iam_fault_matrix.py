"""Every fault of IAM under every rule: the answer, what the upstream saw, the breaker's count, and nobody harmed.

One gateway for each rule, each with an IAM and an upstream of its own, plays all faults once; the tests look at what
was seen. After each fault two more callers are asked about: one who is denied and one who is permitted.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Actor, Answer, Gateway, Seen, acting, by_name, decides, echo, running
from tests.faults.iam_faults import FAULTS, IamFault

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

TOTAL_S = 0.5
SLACK_S = 3.0
RULES = {
    "fail_closed": "fail_closed",
    "stale": "{degrade: stale, max_stale: 60s}",
    "local": "{degrade: local}",
    "fallback": "{degrade: fallback, response: {status: 203, json: {instead: true}}}",
    "allow": "{degrade: allow, acknowledge_fail_open: true}",
}
ROUTES = """
version: 1
server: {listen: "127.0.0.1:PORT", admin: "127.0.0.1:ADMIN", drain_timeout: 1s, trusted_proxies: [127.0.0.1/32]}
iam:
  url: "IAM"
  timeout: {connect: 300ms, read: 300ms, total: 500ms}
  retry: {attempts: 1}
  circuit_breaker: {failure_threshold: 1000}
identity: {header: {name: X-User}}
upstreams: {inventory: {url: "UPSTREAM"}}
routes:
  - {id: inventory, path: /inventory/*, upstream: inventory, on_iam_failure: RULE,
     authorize: ["read system:inventory", "use system:inventory"]}
  - {id: vault, path: /vault/*, upstream: inventory, on_iam_failure: RULE,
     authorize: ["read system:vault", "use system:vault"]}
"""
CEDAR = 'permit (principal, action, resource == System::"inventory");'


@dataclass(frozen=True)
class Row:
    """One way of asking under a rule. `known`: IAM permitted exactly this just before."""

    rule: str
    name: str
    path: str = "/inventory"
    method: str = "GET"
    known: bool = False


ROWS = [
    Row("fail_closed", "fail_closed", known=True),
    Row("stale", "stale known", known=True),
    Row("stale", "stale unknown"),
    Row("stale", "stale POST", method="POST", known=True),
    Row("local", "local permitted"),
    Row("local", "local denied", path="/vault"),
    Row("local", "local POST", method="POST"),
    Row("fallback", "fallback"),
    Row("fallback", "fallback POST", method="POST"),
    Row("allow", "allow"),
    Row("allow", "allow HEAD", method="HEAD"),
    Row("allow", "allow POST", method="POST"),
]


@dataclass
class Outcome:
    """What became of one request, and of the two after it."""

    answer: Answer
    forwarded: list[Seen]
    calls: int
    failures: int
    denied: Answer
    permitted: Answer
    cookies: bool


async def play(gateway: Gateway, iam: Actor, upstream: Actor, fault: IamFault, row: Row, user: str) -> Outcome:
    if row.known:
        primed = await gateway.ask(f"{row.path}/7", method=row.method, headers={"X-User": user})
        assert primed.status == 200, primed
    calls, asked = len(iam.seen), len(upstream.seen)
    iam.fault = fault.fault
    answer = await gateway.ask(f"{row.path}/7", method=row.method, headers={"X-User": user})
    iam.fault = None
    failures = (await gateway.breaker())["consecutive_failures"]
    forwarded, calls = upstream.seen[asked:], len(iam.seen) - calls
    denied = await gateway.ask(f"{row.path}/7", headers={"X-User": f"mallory-{user}"})
    permitted = await gateway.ask(f"{row.path}/7", headers={"X-User": f"alice-{user}"})
    cookies = any(seen.value("cookie") for seen in iam.seen)
    return Outcome(answer, forwarded, calls, failures, denied, permitted, cookies)


async def play_all(folder: Path, rule: str) -> tuple[dict[tuple[str, str], Outcome], dict[str, Any], Actor]:
    """Every fault under one rule, and what operators see when it is over."""
    iam, upstream = Actor(decides(by_name)), Actor(echo)
    (folder / "policies" / "access").mkdir(parents=True)
    (folder / "policies" / "access" / "policies.cedar").write_text(CEDAR)
    text = ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url).replace("RULE", RULES[rule])
    outcomes = {}
    async with acting(iam, upstream), running(folder, text) as gateway:
        for fault in FAULTS:
            for row in ROWS:
                if row.rule == rule and not (fault.slow and row.method != "GET"):
                    user = f"user{len(outcomes)}"
                    outcomes[fault.name, row.name] = await play(gateway, iam, upstream, fault, row, user)
        status = await gateway.until_idle()
    return outcomes, status, iam


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    folders = {rule: tmp_path_factory.mktemp(rule) for rule in RULES}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play_all(folders[rule], rule)) for rule in RULES]
    results = [task.result() for task in tasks]
    for _, status, iam in results:
        assert status["iam"]["in_flight"] == 0
        assert len(iam.open) <= 8, "connections to IAM are kept, not leaked"
    return {key: outcome for outcomes, _, _ in results for key, outcome in outcomes.items()}


CASES = [
    pytest.param(fault, row, id=f"{row.name}: {fault.name}")
    for row in ROWS
    for fault in FAULTS
    if not (fault.slow and row.method != "GET")
]


def closed(fault: IamFault, row: Row, answer: Answer) -> None:
    """Not forwarded, and the truth about why."""
    if fault.becomes == "iam_rejected":
        assert answer.status == 502
        assert answer.value("retry-after") is None
    else:
        assert answer.status == 503
        assert fault.asks_for_s <= int(answer.value("retry-after") or 0) <= ceil(1.2 * fault.asks_for_s)
    if row.method != "HEAD":
        assert answer.code == fault.becomes
        assert answer.status == 502 or answer.retry_after
    assert answer.degraded is None


def degraded(row: Row, fault: IamFault, outcome: Outcome) -> None:
    """What the rule promises, marked to caller and upstream."""
    answer, mode = outcome.answer, row.rule
    if row.method == "POST" or row.name == "stale unknown":
        closed(fault, row, answer)
        assert not outcome.forwarded
        return
    mark = answer.degraded or ""
    assert re.fullmatch(r"iam; mode=stale; age=[0-3]" if mode == "stale" else f"iam; mode={mode}", mark)
    if row.name == "local denied":
        assert (answer.status, answer.code) == (403, "iam_denied")
        assert not outcome.forwarded
    elif mode == "fallback":
        assert (answer.status, json.loads(answer.body)) == (203, {"instead": True})
        assert not outcome.forwarded
    else:
        assert answer.status == 200
        assert [seen.value("x-gateway-degraded") for seen in outcome.forwarded] == [mark]


@pytest.mark.parametrize(("fault", "row"), CASES)
async def test_the_rule_answers_and_the_failure_counts_once(
    played: dict[tuple[str, str], Outcome], fault: IamFault, row: Row
) -> None:
    """Nothing is forwarded but what the rule names, and nobody who asks afterwards is harmed."""
    outcome = played[fault.name, row.name]
    answered(fault, row, outcome)
    counted(fault, outcome)


def answered(fault: IamFault, row: Row, outcome: Outcome) -> None:
    answer = outcome.answer
    assert answer.complete
    assert answer.seconds < TOTAL_S + SLACK_S
    if fault.becomes == "permit":
        assert (answer.status, answer.degraded) == (200, None)
        assert len(outcome.forwarded) == 1
    elif fault.becomes == "deny":
        assert (answer.status, answer.degraded) == (403, None)
        assert answer.value("proxy-status") == "edge; error=http_request_denied"
        assert answer.value("retry-after") is None
        assert not outcome.forwarded
    elif row.rule == "fail_closed" or not fault.degrades:
        closed(fault, row, answer)
        assert not outcome.forwarded
    else:
        degraded(row, fault, outcome)


def counted(fault: IamFault, outcome: Outcome) -> None:
    """Who is denied is denied by their own answer, who is permitted is served at once and undegraded."""
    assert outcome.failures == (1 if fault.counts else 0)
    assert 1 <= outcome.calls <= 8, "the call, its two questions apart, the probe, each again for a dead connection"
    assert (outcome.denied.status, outcome.denied.code, outcome.denied.degraded) == (403, "iam_denied", None)
    assert (outcome.permitted.status, outcome.permitted.degraded) == (200, None)
    assert not outcome.cookies
