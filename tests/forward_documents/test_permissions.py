"""What may I do? Only the caller, only well-formed questions, never a yes that nobody gave."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: permissions
    path: /permissions
    methods: [POST]
    authorize: authenticated
    permissions: {max_items: 3}
"""
READ = {"action": {"name": "read"}, "resource": {"type": "system", "id": "inventory"}}
WRITE = {"action": {"name": "write"}, "resource": {"type": "system", "id": "inventory"}}


@pytest.fixture
async def world(kit, tmp_path):
    async with kit.world_of(tmp_path, ROUTES, ["unused"]) as world:
        world.iam.answers = {"write system:inventory": kit.DENIED}
        yield world


async def ask(world, body, **more):
    return await world.call("/permissions", "POST", body, **more)


async def test_every_question_is_answered_in_order(world):
    caller = await ask(world, {"evaluations": [WRITE, READ, WRITE]})
    assert caller.json == {"evaluations": [{"decision": False}, {"decision": True}, {"decision": False}]}
    assert caller.values(b"cache-control") == [b"private, no-store"]
    assert len(world.iam.asked) == 1


async def test_defaults_at_the_top_are_replaced_as_a_whole(world):
    body = {
        "action": {"name": "read"},
        "resource": READ["resource"],
        "evaluations": [{}, {"action": {"name": "write"}}],
    }
    assert (await ask(world, body)).json == {"evaluations": [{"decision": True}, {"decision": False}]}


async def test_a_document_without_a_list_is_one_question(world):
    assert (await ask(world, READ)).json == {"decision": True}
    assert (await ask(world, {**WRITE, "evaluations": []})).json == {"decision": False}


@pytest.mark.parametrize(
    ("semantic", "answers"),
    [("execute_all", [True, False, True]), ("deny_on_first_deny", [True, False]), ("permit_on_first_permit", [True])],
)
async def test_semantics_shorten_the_answer(world, semantic, answers):
    body = {"evaluations": [READ, WRITE, READ], "options": {"evaluations_semantic": semantic}}
    assert (await ask(world, body)).json == {"evaluations": [{"decision": answer} for answer in answers]}


async def test_what_is_not_known_is_no_and_says_so(world, kit):
    world.iam.answers["read system:inventory"] = kit.fault("iam_timeout", retry_after_s=None)
    caller = await ask(world, {"evaluations": [READ, WRITE]})
    assert caller.status == 200
    assert caller.json == {
        "evaluations": [{"decision": False, "context": {"access": "unknown"}}, {"decision": False}],
        "degraded": True,
        "degraded_reason": "iam_timeout",
        "retry_after": caller.json["retry_after"],
    }
    assert caller.values(b"x-gateway-degraded") == [b"iam; mode=partial"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'{"evaluations": {}}',
        b'{"evaluations": [1]}',
        b'{"evaluations": [], "evaluations": []}',
        b'\xef\xbb\xbf{"evaluations": []}',
        {"evaluations": [READ] * 4},
        {"evaluations": [{**READ, "subject": {"type": "identity", "id": "bob"}}]},
        {"evaluations": [READ], "subject": {"type": "identity", "id": "bob"}},
        {"evaluations": [{**READ, "subject": None}]},
        {"evaluations": [{"action": {"name": ""}, "resource": READ["resource"]}]},
        {"evaluations": [{"action": {"name": 1}, "resource": READ["resource"]}]},
        {"evaluations": [{"action": "read", "resource": READ["resource"]}]},
        {"evaluations": [{"action": READ["action"]}]},
        {"evaluations": [{"action": READ["action"], "resource": {"type": "system"}}]},
        {"evaluations": [{**READ, "context": []}]},
        {"evaluations": [{**READ, "context": None}]},
        {"evaluations": [{"action": READ["action"], "resource": {"type": "t", "id": "i", "properties": 1}}]},
        {"evaluations": [{"action": {"name": "\ud800"}, "resource": READ["resource"]}]},
        {"evaluations": [READ], "options": {"evaluations_semantic": "all"}},
        {"evaluations": [READ], "options": {"evaluations_semantic": []}},
        {"evaluations": [READ], "options": []},
        b'{"evaluations": [' + b"[" * 30_000,
        b'{"evaluations": [{"context": {"n": 1e999}}]}',
    ],
    ids=lambda body: str(body)[:40],
)
async def test_other_bodies_are_400_and_ask_nobody(world, body):
    """DG03: what a client can write wrong never looks like an outage."""
    error = await world.refused("/permissions", "POST", body)
    assert error.code == "bad_request"
    assert world.iam.asked == []


async def test_a_body_over_64_kib_is_413(world):
    error = await world.refused("/permissions", "POST", b"x" * (64 * 1024 + 1))
    assert error.code == "body_too_large"


async def test_nobody_can_ask_for_somebody_else(world):
    await ask(world, {"evaluations": [READ]}, who="bob")
    assert world.iam.asked == [["read system:inventory"]]
