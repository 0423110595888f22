"""What the embedded point answers: Cedar's semantics, except that a forbid that fails never lets anybody through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from gateway.checks import make_check
from gateway.model.permit import Outcome, Question
from gateway.model.request import Subject
from gateway.pdp import point as point_module
from gateway.pdp.point import EmbeddedDecisionPoint
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN

MakePoint = Callable[..., EmbeddedDecisionPoint]
PERMIT_ALL = "permit(principal, action, resource);\n"


def evaluation(subject: str = "alice", resource: str = "inventory", **properties: Any) -> dict[str, Any]:
    """Alice reads the inventory; keyword arguments are properties of the resource."""
    return {
        "subject": {"type": "identity", "id": subject},
        "action": {"name": "read"},
        "resource": {"type": "system", "id": resource, "properties": properties},
    }


def question(subject: str = "alice", resource: str = "inventory", action: str = "read") -> Question:
    who = Subject("identity", subject, subject, f'{{"type":"identity","id":"{subject}"}}')
    return Question(who, make_check({"name": action}, {"type": "system", "id": resource}, None))


async def decide(point: EmbeddedDecisionPoint, *questions: Question) -> list[Any]:
    return await point.decide(questions, deadline=Deadline.after(1), request_id="r", span=NO_SPAN)


def test_nothing_is_permitted_by_default_and_forbid_overrides(point: MakePoint):
    loaded = point(
        'permit(principal == Identity::"alice", action, resource);\n'
        "forbid(principal, action, resource) when { resource has locked && resource.locked };"
    )
    assert loaded.evaluate(evaluation()).policies == ("p.cedar:1:1",)
    assert loaded.evaluate(evaluation("bob")).outcome is Outcome.DENY
    assert loaded.evaluate(evaluation("bob")).reason == "no policy permits it"
    assert loaded.evaluate(evaluation(locked=True)).outcome is Outcome.DENY
    assert loaded.evaluate(evaluation(locked=True)).reason == "p.cedar:2:1"


@pytest.mark.parametrize(
    "condition", ["resource.locked", 'resource.locked == ip("x")', "principal.age > 3", "1 + resource.n > 1"]
)
def test_a_permit_beside_a_forbid_that_fails_is_unknown(point: MakePoint, condition: str):
    loaded = point(PERMIT_ALL + f"forbid(principal, action, resource) when {{ {condition} }};")
    verdict = loaded.evaluate(evaluation(n=2**63 - 1))
    assert (verdict.outcome, verdict.status, verdict.allowed) == (Outcome.UNKNOWN, 500, False)
    assert "p.cedar:2:1" in verdict.message


def test_a_permit_that_fails_permits_nothing(point: MakePoint):
    loaded = point('permit(principal, action, resource) when { principal.role == "admin" };')
    verdict = loaded.evaluate(evaluation())
    assert verdict.outcome is Outcome.DENY
    assert verdict.reason == "no policy permits it; could not be evaluated: p.cedar:1:1"


def test_a_permit_that_fails_does_not_spoil_another(point: MakePoint):
    loaded = point(PERMIT_ALL + "permit(principal, action, resource) when { principal.role };")
    assert loaded.evaluate(evaluation()).outcome is Outcome.ALLOW


def test_a_satisfied_forbid_denies_whatever_else_fails(point: MakePoint):
    loaded = point(
        PERMIT_ALL + "forbid(principal, action, resource);\nforbid(principal, action, resource) when { resource.x };"
    )
    assert loaded.evaluate(evaluation()).outcome is Outcome.DENY


def test_a_forbid_that_fails_where_nothing_permits_is_a_denial(point: MakePoint):
    loaded = point(
        'permit(principal == Identity::"bob", action, resource);\n'
        "forbid(principal, action, resource) when { resource.x };"
    )
    assert loaded.evaluate(evaluation()).outcome is Outcome.DENY
    assert loaded.evaluate(evaluation("bob")).outcome is Outcome.UNKNOWN


def test_a_policy_that_fails_is_logged_once_and_tokens_never(point: MakePoint, caplog: pytest.LogCaptureFixture):
    loaded = point(PERMIT_ALL + "forbid(principal, action, resource) when { principal.x };")
    token = {**evaluation(), "subject": {"type": "token", "id": "s3cret"}}
    with caplog.at_level(logging.WARNING, "gateway.pdp"):
        verdicts = [loaded.evaluate(token) for _ in range(3)]
    assert [record.getMessage() for record in caplog.records] == ["[pdp] policy p.cedar:2:1 could not be evaluated"]
    assert "s3cret" not in repr(verdicts) + verdicts[0].reason


EVE = {"type": "Identity", "id": "eve"}
OPERATOR = {"type": "Role", "id": "operator"}
ENTITIES = [
    {"uid": OPERATOR, "attrs": {"level": 3}},
    {
        "uid": {"type": "Identity", "id": "alice"},
        "attrs": {"team": "red", "boss": {"__entity": EVE}},
        "parents": [OPERATOR],
    },
    {"uid": EVE, "attrs": {"team": "blue"}},
    {
        "uid": {"type": "System", "id": "inventory"},
        "attrs": {"team": "red"},
        "parents": [{"type": "Group", "id": "all"}],
    },
]
TEAMWORK = (
    'permit(principal in Role::"operator", action, resource in Group::"all") when { principal.team == resource.team };'
)


def test_entities_give_attributes_and_parents(point: MakePoint):
    loaded = point(TEAMWORK, ENTITIES)
    assert loaded.evaluate(evaluation()).allowed
    assert not loaded.evaluate(evaluation("eve")).allowed
    assert loaded.entity_count == 4


@pytest.mark.parametrize(("team", "allowed"), [("red", True), ("blue", False)])
def test_properties_of_the_question_go_over_those_of_the_entity_and_keep_the_rest(
    point: MakePoint, team: str, allowed: bool
):
    loaded = point(TEAMWORK, ENTITIES)
    assert loaded.evaluate(evaluation(team=team)).allowed is allowed
    as_alice = {**evaluation(), "subject": {"type": "identity", "id": "alice", "properties": {"team": team}}}
    assert loaded.evaluate(as_alice).allowed is allowed
    assert loaded.evaluate(evaluation()).allowed, "properties belong to their question alone"


def test_properties_of_an_entity_that_others_point_to(point: MakePoint):
    """Eve is an attribute of alice, the role a parent: what they bring is seen through those who point to them too."""
    loaded = point("permit(principal, action, resource) when { principal.boss.team == resource.team };", ENTITIES)
    assert not loaded.evaluate(evaluation()).allowed
    assert loaded.evaluate(evaluation(team="blue")).allowed
    about_eve = {**evaluation(), "resource": {"type": "identity", "id": "eve", "properties": {"team": "green"}}}
    assert loaded.evaluate(about_eve).allowed


def test_entities_that_policies_name_stay_visible_beside_properties(point: MakePoint):
    loaded = point('permit(principal, action, resource) when { Identity::"eve".team == resource.wanted };', ENTITIES)
    assert loaded.evaluate(evaluation(wanted="blue")).allowed
    assert not loaded.evaluate(evaluation(wanted="red")).allowed


def test_a_batch_answers_as_its_items_do_alone(point: MakePoint):
    """Items with and without properties, malformed and failing ones, in any order: position and answer never shift."""
    loaded = point(
        TEAMWORK + "\nforbid(principal, action, resource) when { resource has bad && resource.bad };", ENTITIES
    )
    kinds = [evaluation(), evaluation("eve"), evaluation(team="blue"), evaluation(bad=True), evaluation(bad="x"), {}, 5]
    picked = [kinds[(index * 5 + index // 7) % len(kinds)] for index in range(60)]
    assert loaded.evaluate_all(picked) == [loaded.evaluate(kind) for kind in picked]


async def test_decide_keeps_length_and_order(point: MakePoint):
    loaded = point('permit(principal == Identity::"alice", action, resource);')
    names = ["alice", "bob", "bob"] * 40
    decisions = await decide(loaded, *(question(name, f"s{index}") for index, name in enumerate(names)))
    assert [d.outcome is Outcome.ALLOW for d in decisions] == [name == "alice" for name in names]
    assert await decide(loaded) == []


async def test_decisions_say_where_they_come_from(point: MakePoint, folder: Callable[..., Any]):
    loaded = EmbeddedDecisionPoint.load(folder(PERMIT_ALL), source="local")
    (decision,) = await decide(loaded, question())
    assert (decision.outcome, decision.source) == (Outcome.ALLOW, "local")


async def test_a_question_that_fails_is_unknown_alone_and_never_degrades(point: MakePoint):
    loaded = point(PERMIT_ALL + 'forbid(principal, action, resource == System::"odd") when { resource.x };')
    bad = Question(question().subject, make_check({"name": "read"}, {"type": "a b", "id": "x"}, None))
    fine, failed, rejected = await decide(loaded, question(), question(resource="odd"), bad)
    assert fine.outcome is Outcome.ALLOW
    assert (failed.outcome, failed.fault.code, failed.isolated) == (Outcome.UNKNOWN, "iam_error", True)
    assert (rejected.outcome, rejected.fault.code, rejected.isolated) == (Outcome.UNKNOWN, "iam_rejected", True)
    again = (await decide(loaded, question(resource="odd")))[0]
    assert again.fault is not failed.fault, "a fault is an exception: each caller gets its own"


async def test_answers_are_remembered_within_a_bound(point: MakePoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(point_module, "MAX_REMEMBERED", 10)
    loaded = point('permit(principal == Identity::"alice", action, resource);')
    for index in range(50):
        (decision,) = await decide(loaded, question(resource=f"s{index}"))
        assert decision.outcome is Outcome.ALLOW
    assert len(loaded._remembered) == 10
    monkeypatch.setattr(loaded, "evaluate_all", lambda documents: pytest.fail("asked again"))
    assert (await decide(loaded, question(resource="s49")))[0].outcome is Outcome.ALLOW


async def test_a_subject_with_other_properties_is_another_question(point: MakePoint):
    loaded = point('permit(principal, action, resource) when { principal has role && principal.role == "admin" };')
    check = question().check
    plain = Subject("identity", "alice", "alice", '{"type":"identity","id":"alice"}')
    admin = Subject(
        "identity",
        "alice",
        "alice",
        '{"type":"identity","id":"alice","properties":{"role":"admin"}}',
        {"role": "admin"},
    )
    decisions = await decide(loaded, Question(plain, check), Question(admin, check), Question(plain, check))
    assert [d.outcome for d in decisions] == [Outcome.DENY, Outcome.ALLOW, Outcome.DENY]


async def test_no_token_is_kept(point: MakePoint):
    """An opaque subject is remembered by its key, which holds only the token's digest."""
    loaded = point('permit(principal == Token::"s3cret", action, resource);')
    opaque = Subject("token", "s3cret", "sha256:1f", '{"type":"token","id":"s3cret"}', identified=False)
    (decision,) = await decide(loaded, Question(opaque, question().check))
    assert decision.outcome is Outcome.ALLOW
    assert loaded._remembered
    assert "s3cret" not in repr(loaded._remembered)


async def test_a_large_batch_lets_others_run(point: MakePoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(point_module, "SLICE_S", 0.0)
    loaded = point(PERMIT_ALL)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await decide(loaded, *(question(resource=f"s{index}") for index in range(200)))
    task.cancel()
    assert turns >= 200 // point_module.CHUNK - 1
