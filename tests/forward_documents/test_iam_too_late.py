"""IAM answers when the deadline ends, on a busy machine: what can be had is still composed and sent."""

from __future__ import annotations

import asyncio
import time

import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: navigation
    path: /registry/navigation
    authorize: authenticated
    deadline: 1s
    navigation: {upstream: registry, items: /menus/*, check: "read {item.resource}"}
  - id: permissions
    path: /permissions
    methods: [POST]
    authorize: authenticated
    deadline: 1s
    permissions: {max_items: 3}
  - id: user-audit
    path: /audit/users/{email}
    authorize: ["audit user:{path.email}"]
    deadline: 1s
    aggregate:
      systems:
        Workday: {upstream: registry, path: "/{path.email}", found_field: found}
      bulk: {path: /audit/users, items: /emails, param: email}
"""


@pytest.fixture
async def world(kit, tmp_path, monkeypatch):
    async with kit.world_of(tmp_path, ROUTES, ["registry"]) as world:
        world.systems["registry"].answer = lambda *_: (200, {"menus": [{"resource": "system:a"}]})

        async def decide(questions, *, deadline, **_):
            await asyncio.sleep(deadline.remaining_s())
            time.sleep(0.015)  # noqa: ASYNC251 - the machine has other things to do
            return [kit.fault("iam_timeout")] * len(questions)

        monkeypatch.setattr(world.iam, "decide", decide)
        yield world


async def test_navigation_is_shown_disabled(world):
    caller = await world.call("/registry/navigation")
    assert caller.status == 200
    assert caller.json["degraded_reason"] == "iam_timeout"
    assert caller.json["menus"] == [{"resource": "system:a", "enabled": False, "access": "unknown"}]


async def test_permissions_are_unknown(world):
    question = {"action": {"name": "read"}, "resource": {"type": "system", "id": "a"}}
    caller = await world.call("/permissions", "POST", question)
    assert caller.json["context"] == {"access": "unknown"}


async def test_every_item_of_a_bulk_request_says_so(world):
    caller = await world.call("/audit/users", "POST", {"emails": ["a@b.example", "c@d.example"]})
    assert [item["error"]["code"] for item in caller.json["results"]] == ["iam_timeout"] * 2
