"""Bulk: every item as by the single route, bounded, streamed, and nothing asked for a caller who left."""

from __future__ import annotations

import asyncio
import json

import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: user-audit
    path: /audit/users/{email}
    authorize: %s
    deadline: 2s
    aggregate:
      systems:
        AD: {upstream: ad, path: "/users/{path.email}", found_field: ad_found}
        HR: {upstream: hr, path: "/users/{path.email}"%s}
      bulk: {path: /audit/users, items: /emails, param: email, max_items: 5, concurrency: 2}
"""
CHECKS = '["audit user:{path.email}"]'


def world_of(kit, tmp_path, checks=CHECKS, part="", **cache):
    return kit.world_of(tmp_path, ROUTES % (checks, part), ["ad", "hr"], **cache)


@pytest.fixture
async def world(kit, tmp_path):
    async with world_of(kit, tmp_path) as world:
        yield world


async def post(world, emails, **more):
    return await world.call("/audit/users", "POST", {"emails": emails}, **more)


NDJSON = [(b"accept", b"text/html, Application/X-NDJSON;q=0.5")]


async def test_every_item_as_by_the_single_route_in_order(world):
    caller = await post(world, ["c", "a", "b"])
    single = [(await world.call(f"/audit/users/{name}")).json for name in "cab"]
    assert caller.json["results"] == single
    assert caller.json["summary"] == {
        "total": 3,
        "complete": 3,
        "partial": 0,
        "failed": 0,
        "denied": 0,
        "discrepancies": 0,
    }
    assert caller.values(b"cache-control") == [b"no-store"]


async def test_all_items_are_asked_about_at_once(world):
    await post(world, ["a", "b", "a"])
    assert world.iam.asked == [["audit user:a", "audit user:b"]]


async def test_an_item_denied_by_itself_says_so_and_is_asked_of_nobody(world, kit):
    world.iam.answers = {"audit user:b": kit.DENIED}
    caller = await post(world, ["a", "b"])
    assert caller.json["results"][1] == {"email": "b", "denied": True}
    assert caller.json["summary"]["denied"] == 1
    assert [line for line, _, _ in world.systems["ad"].seen] == [b"GET /users/a HTTP/1.1"]
    assert caller.record.authz_outcome == "deny"


async def test_an_item_that_iam_cannot_decide_takes_no_other_with_it(world, kit):
    world.iam.answers = {"audit user:b": kit.fault("iam_rejected", isolated=True), "audit user:c": kit.fault()}
    results = (await post(world, ["a", "b", "c"])).json["results"]
    assert results[0]["complete"] is True
    assert results[1] == {"email": "b", "error": {"code": "iam_rejected"}}
    assert results[2]["error"]["code"] == "iam_circuit_open"
    assert 7 <= results[2]["error"]["retry_after"] <= 9


async def test_failing_systems_are_named_per_item(world):
    world.systems["hr"].answer = lambda target, _: (500 if target.endswith("b") else 200, {})
    world.systems["ad"].answer = lambda target, _: (500 if target.endswith("c") else 200, {})
    results = (await post(world, ["a", "b"])).json["results"]
    assert [item["complete"] for item in results] == [True, False]
    world.systems["hr"].answer = lambda *_: (500, {})
    caller = await post(world, ["a", "c"])
    assert caller.json["results"][1]["systems_failed"] == ["AD", "HR"]
    assert caller.json["results"][1]["error"]["code"] == "upstream_error"
    assert caller.json["results"][1]["error"]["retry_after"] >= 1
    assert caller.json["summary"]["failed"] == 1


@pytest.mark.parametrize("value", ["", "..", "x" * 1025, "\ud800", "a\udfff"])
async def test_an_item_that_cannot_stand_in_a_path_fails_alone(world, value):
    results = (await post(world, ["a", value])).json["results"]
    assert results[0]["complete"] is True
    assert results[1] == {"email": value, "error": {"code": "bad_request"}}


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"{}", {"emails": "a"}, {"emails": [1]}, {"emails": [None]}, {"emails": ["a"] * 6}],
    ids=str,
)
async def test_other_bodies_are_400(world, body):
    assert (await world.refused("/audit/users", "POST", body)).code == "bad_request"
    assert world.iam.asked == []


async def test_no_items_are_no_results(world):
    assert (await post(world, [])).json["results"] == []


async def test_lines_come_as_they_are_ready(world, kit):
    slow = asyncio.Event()

    async def answer(target, _):
        if target.endswith("slow"):
            await slow.wait()
        return 200, {}

    for system in world.systems.values():
        system.answer = answer
    caller = world.caller("/audit/users", "POST", {"emails": ["slow", "a", "b"]}, NDJSON)
    serving = asyncio.ensure_future(world.serve(caller))
    await kit.eventually(lambda: len(caller.messages) >= 3)
    assert caller.values(b"content-type") == [b"application/x-ndjson"]
    assert [json.loads(message["body"])["email"] for message in caller.messages[1:3]] == ["a", "b"]
    slow.set()
    await serving
    assert [json.loads(line)["email"] for line in caller.body.splitlines()] == ["a", "b", "slow"]
    assert caller.complete


async def test_ndjson_that_is_not_wanted_is_not_sent(world):
    caller = await post(world, ["a"], headers=[(b"accept", b"application/x-ndjson;q=0, application/json")])
    assert caller.values(b"content-type") == [b"application/json"]


async def test_no_more_than_concurrency_items_at_a_time_and_none_while_nobody_reads(world, kit):
    most = 0

    async def answer(*_):
        nonlocal most
        most = max(most, world.systems["ad"].open_requests)
        await asyncio.sleep(0.01)
        return 200, {}

    world.systems["ad"].answer = answer
    caller = world.caller("/audit/users", "POST", {"emails": list("abcde")}, NDJSON)
    caller.gate = asyncio.Event()
    serving = asyncio.ensure_future(world.serve(caller))
    await asyncio.sleep(0.3)
    assert len(world.systems["ad"].seen) == 2
    caller.gate.set()
    await serving
    assert len(world.systems["ad"].seen) == 5
    assert most <= 2


async def test_when_the_caller_leaves_nothing_more_is_asked(world, kit):
    world.systems["ad"].answer = kit.hang
    serving = asyncio.ensure_future(post(world, list("abcde")))
    await kit.eventually(lambda: world.systems["ad"].open_requests == 2)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await asyncio.sleep(0.05)
    assert len(world.systems["ad"].seen) == 2


async def test_bulk_and_single_share_their_breakers(world):
    for system in world.systems.values():
        system.answer = lambda *_: (503, {})
    await post(world, list("abcde"))
    assert {breaker.state for breaker in world.breakers.values()} == {"open"}
    assert set(world.breakers) == {"user-audit.AD", "user-audit.HR"}
    assert (await world.refused("/audit/users/a")).code == "upstream_circuit_open"


async def test_checks_without_the_item_are_asked_once_for_the_request(kit, tmp_path):
    checks = '["use audit:bulk", "audit user:{path.email}"]'
    async with world_of(kit, tmp_path, checks, ', authorize: ["read system:hr"]') as world:
        await post(world, ["a", "b"])
        assert world.iam.asked == [["use audit:bulk"], ["audit user:a", "read system:hr", "audit user:b"]]
        world.iam.answers = {"use audit:bulk": kit.DENIED}
        assert (await world.refused("/audit/users", "POST", {"emails": ["a"]})).code == "iam_denied"


async def test_items_are_asked_about_as_on_the_single_route(kit, tmp_path):
    async with world_of(kit, tmp_path, '["{method} {route.id}:{route.path}/{path.email}"]') as world:
        await post(world, ["a"])
        await world.call("/audit/users/a")
        assert world.iam.asked[0] == world.iam.asked[1] == ["GET user-audit:/audit/users/{email}/a"]


async def test_a_part_denied_for_an_item_is_denied_there(kit, tmp_path):
    async with world_of(kit, tmp_path, part=', authorize: ["read hr:{path.email}"]') as world:
        world.iam.answers = {"read hr:b": kit.DENIED}
        results = (await post(world, ["a", "b"])).json["results"]
        assert "systems_denied" not in results[0]
        assert results[1]["systems_denied"] == ["HR"]


async def test_authenticated_items_need_no_iam(kit, tmp_path):
    async with world_of(kit, tmp_path, "authenticated") as world:
        assert (await post(world, ["a"])).json["results"][0]["complete"] is True
        assert world.iam.asked == []


async def test_a_token_that_iam_does_not_know_is_401_for_the_whole_request(world, kit):
    world.iam.answers = {"audit user:b": kit.Decision(kit.DENIED.outcome, unauthenticated=True)}
    assert (await world.refused("/audit/users", "POST", {"emails": ["a", "b"]})).code == "unauthenticated"
    assert world.systems["ad"].seen == []


@pytest.mark.parametrize(("key", "unknown"), [("", None), ("unknown_as_false: true\n      ", False)])
async def test_found_is_unknown_in_bulk_too(kit, tmp_path, monkeypatch, key, unknown):
    monkeypatch.setattr(f"{__name__}.ROUTES", ROUTES.replace("systems:", f"{key}systems:"))
    async with world_of(kit, tmp_path) as world:
        world.systems["ad"].answer = lambda target, _: ({"a": 500, "b": 404}.get(target[-1], 200), {})
        results = (await post(world, ["a", "b", "c"])).json["results"]
        assert [result["ad_found"] for result in results] == [unknown, False, True]
