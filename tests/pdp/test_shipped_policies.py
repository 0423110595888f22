"""The shipped policies and the interoperability list answer as their tables of cases say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateway.pdp.authzen import authzen_app
from gateway.pdp.cases import load_cases, run_cases
from gateway.pdp.point import EmbeddedDecisionPoint

SHIPPED = Path(__file__).parents[2] / "policies" / "access"
INTEROP = Path(__file__).parent / "interop"


@pytest.mark.parametrize("folder", [SHIPPED, INTEROP], ids=["shipped", "interop"])
def test_every_case_passes(folder: Path):
    failed = [result for file in run_cases(folder) for result in file.results if not result.passed]
    assert failed == []


async def test_the_interoperability_list_by_authzen():
    """All 25 pairs of the list, by the wire: one batch, and each alone."""
    point = EmbeddedDecisionPoint.load(INTEROP)
    cases = [case for file in load_cases(INTEROP, []) for case in file.cases]
    assert len(cases) == 25
    transport = httpx.ASGITransport(authzen_app(lambda: point))
    async with httpx.AsyncClient(transport=transport, base_url="http://pdp") as client:
        batch = {"evaluations": [case.document for case in cases]}
        reply = await client.post("/access/v1/evaluations", json=batch)
        assert [item["decision"] for item in reply.json()["evaluations"]] == [case.allow for case in cases]
        for case in cases:
            reply = await client.post("/access/v1/evaluation", json=case.document)
            assert reply.json() == {"decision": case.allow}, case.asks


@pytest.mark.parametrize("subject", ["alice", "bob", "mallory", "nobody"])
def test_nobody_gets_an_unknown_from_the_shipped_policies(subject: str):
    """Their forbids ask for an attribute before they use it, so no question that the demo asks ends in 503."""
    point = EmbeddedDecisionPoint.load(SHIPPED)
    for action in ("read", "write", "audit", "GET", "DELETE"):
        for resource in ("system:inventory", "user:a@b.example", "device:x", "route:/inventory/*", "thing:x"):
            kind, _, name = resource.partition(":")
            verdict = point.evaluate(
                {
                    "subject": {"type": "identity", "id": subject},
                    "action": {"name": action},
                    "resource": {"type": kind, "id": name},
                }
            )
            assert not verdict.status
            assert not verdict.failed


def test_the_interop_roles_are_what_decides(folder: Callable[..., Path]):
    """Taking a role away takes its rights away: the policies are about roles, not a list of permits."""
    path = folder((INTEROP / "todo.cedar").read_text(), "[]")
    point = EmbeddedDecisionPoint.load(path)
    for file in load_cases(INTEROP, []):
        assert not any(verdict.allowed for verdict in point.evaluate_all([case.document for case in file.cases]))
