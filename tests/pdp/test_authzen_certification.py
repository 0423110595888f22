"""The certification scenario of AuthZEN 1.0 for decision points: Basic, Batch and Discovery, Core and Properties."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
ARCHIVED = {"type": "record", "id": "record-1", "properties": {"status": "archived"}}
DECISIONS = [
    ({"type": "user", "id": "alice"}, {"name": "read"}, {"type": "record", "id": "record-1"}, True),
    ({"type": "user", "id": "alice"}, {"name": "write"}, {"type": "record", "id": "record-1"}, True),
    ({"type": "user", "id": "bob"}, {"name": "read"}, {"type": "record", "id": "record-1"}, True),
    ({"type": "user", "id": "bob"}, {"name": "write"}, {"type": "record", "id": "record-1"}, False),
    ({"type": "user", "id": "alice"}, {"name": "write"}, ARCHIVED, False),
    ({"type": "user", "id": "bob", "properties": {"role": "admin"}}, {"name": "write"}, ARCHIVED, True),
    (
        {"type": "user", "id": "alice"},
        {"name": "delete", "properties": {"soft": True}},
        {"type": "record", "id": "record-1"},
        True,
    ),
    (
        {"type": "user", "id": "alice"},
        {"name": "delete", "properties": {"soft": False}},
        {"type": "record", "id": "record-1"},
        False,
    ),
]
ALICE_READS = {"subject": DECISIONS[0][0], "action": DECISIONS[0][1], "resource": DECISIONS[0][2]}
BOB_WRITES = {"subject": DECISIONS[3][0], "action": DECISIONS[3][1], "resource": DECISIONS[3][2]}


@pytest.mark.parametrize("context", [None, {}, {"time": "2026-01-01T00:00:00Z", "ip": "10.0.0.1"}])
@pytest.mark.parametrize(("subject", "action", "resource", "decision"), DECISIONS)
async def test_the_eight_decisions_hold_with_and_without_context(
    certified: httpx.AsyncClient, subject: Any, action: Any, resource: Any, decision: bool, context: Any
):
    question = {"subject": subject, "action": action, "resource": resource}
    if context is not None:
        question["context"] = context
    for _ in range(2):
        response = await certified.post(EVALUATION, json=question)
        assert (response.status_code, response.json()["decision"]) == (200, decision)
        assert response.headers["content-type"] == "application/json"


async def test_the_eight_decisions_as_one_batch(certified: httpx.AsyncClient):
    items = [{"subject": s, "action": a, "resource": r} for s, a, r, _ in DECISIONS]
    response = await certified.post(EVALUATIONS, json={"evaluations": items})
    assert response.json() == {"evaluations": [{"decision": decision} for *_, decision in DECISIONS]}


async def test_unknown_members_and_properties_are_ignored(certified: httpx.AsyncClient):
    question = {
        **ALICE_READS,
        "subject": {**DECISIONS[0][0], "ip": "10.0.0.1", "properties": {"unheard-of": [1, {"a": True}]}},
        "trace": {"deep": [None]},
    }
    assert (await certified.post(EVALUATION, json=question)).json() == {"decision": True}


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
async def test_a_missing_member_is_400(certified: httpx.AsyncClient, missing: str):
    question = {name: value for name, value in ALICE_READS.items() if name != missing}
    response = await certified.post(EVALUATION, json=question)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert missing in response.json()["detail"].lower()


@pytest.mark.parametrize(("member", "name"), [("subject", "type"), ("subject", "id"), ("action", "name")])
@pytest.mark.parametrize("value", [None, 1, True, [], {}, ""])
async def test_a_member_of_the_wrong_type_is_400(certified: httpx.AsyncClient, member: str, name: str, value: Any):
    question = {**ALICE_READS, member: {**ALICE_READS[member], name: value}}
    assert (await certified.post(EVALUATION, json=question)).status_code == 400
    del question[member][name]
    assert (await certified.post(EVALUATION, json=question)).status_code == 400


@pytest.mark.parametrize("member", ["subject", "action", "resource", "context"])
@pytest.mark.parametrize("value", ["alice", 1, None, [], True])
async def test_an_entity_that_is_no_object_is_400(certified: httpx.AsyncClient, member: str, value: Any):
    assert (await certified.post(EVALUATION, json={**ALICE_READS, member: value})).status_code == 400
    batch = {"evaluations": [ALICE_READS], member: value}
    assert (await certified.post(EVALUATIONS, json=batch)).status_code == 400


async def test_defaults_are_inherited_and_replaced_whole(certified: httpx.AsyncClient):
    """A key inside an evaluation replaces the default object; nothing is merged inside; `{}` inherits everything."""
    batch = {
        "subject": {"type": "user", "id": "bob", "properties": {"role": "admin"}},
        "action": {"name": "write"},
        "resource": ARCHIVED,
        "evaluations": [{}, {"subject": {"type": "user", "id": "bob"}}, {"action": {"name": "read"}}],
    }
    response = await certified.post(EVALUATIONS, json=batch)
    assert response.json() == {"evaluations": [{"decision": True}, {"decision": False}, {"decision": True}]}


async def test_an_item_that_cannot_be_evaluated_does_not_spoil_the_others(certified: httpx.AsyncClient):
    bad = [{}, 5, None, "x", {**ALICE_READS, "subject": 1}, {**ALICE_READS, "resource": {"type": "a b", "id": "1"}}]
    response = await certified.post(EVALUATIONS, json={"evaluations": [ALICE_READS, *bad, ALICE_READS]})
    first, *items, last = response.json()["evaluations"]
    assert response.status_code == 200
    assert first == last == {"decision": True}
    assert len(items) == len(bad)
    assert all(item["decision"] is False and item["context"]["error"]["status"] == 400 for item in items)
    assert all(item["context"]["error"]["message"] for item in items)


@pytest.mark.parametrize("extra", [{}, {"evaluations": []}])
async def test_without_evaluations_it_answers_as_the_single_endpoint(certified: httpx.AsyncClient, extra: Any):
    response = await certified.post(EVALUATIONS, json={**ALICE_READS, **extra})
    assert (response.status_code, response.json()) == (200, {"decision": True})
    assert (await certified.post(EVALUATIONS, json={"subject": {}, **extra})).status_code == 400


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        ("execute_all", [True, False, True, False]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_the_array_ends_after_the_item_that_decides(
    certified: httpx.AsyncClient, semantic: str, decisions: list[bool]
):
    items = [ALICE_READS, BOB_WRITES, ALICE_READS, BOB_WRITES]
    batch = {"evaluations": items, "options": {"evaluations_semantic": semantic}}
    response = await certified.post(EVALUATIONS, json=batch)
    assert [item["decision"] for item in response.json()["evaluations"]] == decisions


async def test_a_semantic_that_finds_nothing_answers_all(certified: httpx.AsyncClient):
    for semantic, item in (("permit_on_first_permit", BOB_WRITES), ("deny_on_first_deny", ALICE_READS)):
        batch = {"evaluations": [item] * 40, "options": {"evaluations_semantic": semantic}}
        assert len((await certified.post(EVALUATIONS, json=batch)).json()["evaluations"]) == 40


@pytest.mark.parametrize("options", [1, [], None, {"evaluations_semantic": "all"}, {"evaluations_semantic": None}])
async def test_options_that_are_none_are_400(certified: httpx.AsyncClient, options: Any):
    batch = {"evaluations": [ALICE_READS], "options": options}
    assert (await certified.post(EVALUATIONS, json=batch)).status_code == 400


@pytest.mark.parametrize("evaluations", [None, {}, "x", 1])
async def test_evaluations_that_are_no_array_are_400(certified: httpx.AsyncClient, evaluations: Any):
    response = await certified.post(EVALUATIONS, json={**ALICE_READS, "evaluations": evaluations})
    assert response.status_code == 400


async def test_discovery_names_the_endpoints(certified: httpx.AsyncClient):
    response = await certified.get("/.well-known/authzen-configuration")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "policy_decision_point": "http://pdp.example:8181",
        "access_evaluation_endpoint": "http://pdp.example:8181/access/v1/evaluation",
        "access_evaluations_endpoint": "http://pdp.example:8181/access/v1/evaluations",
        "search_subject_endpoint": "http://pdp.example:8181/access/v1/search/subject",
        "search_resource_endpoint": "http://pdp.example:8181/access/v1/search/resource",
        "search_action_endpoint": "http://pdp.example:8181/access/v1/search/action",
    }
