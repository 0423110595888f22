"""Navigation and permissions through the running gateway: there even without IAM, and never more than IAM said."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Answer, Caller, Fault, Seen, as_json, decides, plays, reply
from tests.partial.stage import Stage, asked_of, says, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
  - id: navigation
    path: /registry/navigation
    authorize: authenticated
    deadline: 3s
    timeout: {connect: 300ms, read: 500ms}
    circuit_breaker: {failure_threshold: 100}
    navigation:
      {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}", on_denied: remove}
  - id: disabling
    path: /disabling
    authorize: authenticated
    navigation:
      {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}", on_denied: disable}
  - id: hurried
    path: /hurried
    authorize: authenticated
    deadline: 500ms
    navigation: {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}"}
  - id: permissions
    path: /permissions
    methods: [POST]
    authorize: authenticated
    permissions: {max_items: 10}
"""
SYSTEMS = ("inventory", "monitoring", "audit", "registry", "admin")
HANGS = Fault(lambda _: (), "hang")
MEBIBYTE = b" " * 1048576
READ = {"action": {"name": "read"}, "resource": {"type": "system", "id": "inventory"}}
WRITE = {"action": {"name": "write"}, "resource": {"type": "system", "id": "inventory"}}


def item(system: str, action: str = "read") -> dict[str, Any]:
    return {"id": f"{action}-{system}", "label": "→ \u00fc", "action": action, "resource": f"system:{system}", "n": 1.0}


DOCUMENT: dict[str, Any] = {
    "z": [1, {"enabled": "not an item"}],
    "systems": [{"name": name, "menus": [item(name), item(name, "write")], "a": None} for name in SYSTEMS],
    "title": "portal",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("navigation"), ROUTES, ["registry"]) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def fresh(world: Stage) -> None:
    await world.reset()
    world.systems["registry"].behave = says(DOCUMENT, "200 OK", "ETag: 1", "Cache-Control: public")


def marked(document: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The document with these members in every item."""
    systems = [
        {**system, "menus": [{**one, **keys} for one in system["menus"]], "a": None} for system in document["systems"]
    ]
    return {name: systems if name == "systems" else value for name, value in document.items()}


def nothing_enabled(text: str) -> None:
    assert '"enabled":true' not in text.replace(" ", "")


async def test_everything_but_the_marks_stays_as_it_was(world: Stage) -> None:
    answer = await world.get("/registry/navigation")
    assert answer.status_code == 200
    assert json.dumps(answer.json()) == json.dumps(marked(DOCUMENT, enabled=True))
    assert answer.headers["cache-control"] == "private, no-store"
    assert "etag" not in answer.headers
    assert asked_of(world.iam) == [
        [f"alice {action} system:{name}" for name in SYSTEMS for action in ("read", "write")]
    ]


async def test_denied_items_are_removed_or_shown_disabled(world: Stage) -> None:
    world.denied |= {f"alice write system:{name}" for name in SYSTEMS}
    removed = (await world.get("/registry/navigation")).json()
    assert [[one["id"] for one in system["menus"]] for system in removed["systems"]] == [
        [f"read-{name}"] for name in SYSTEMS
    ]
    disabled = (await world.get("/disabling")).json()
    for system in disabled["systems"]:
        read, write = system["menus"]
        assert read["enabled"]
        assert (write["enabled"], write["access"]) == (False, "denied")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "iam_unreachable"),
        (HANGS, "iam_timeout"),
        (plays(reply(b"", "500 Broken")), "iam_error"),
        (plays(reply(b"<html>")), "iam_invalid_response"),
        (plays(as_json({"evaluations": [{"decision": True}] * 2})), "iam_invalid_response"),
        (plays(as_json({"evaluations": [{"decision": "true"}] * 10})), "iam_invalid_response"),
        (plays(as_json({}, "401 No")), "iam_auth_error"),
    ],
    ids=["down", "hang", "500", "html", "short", "no-boolean", "401"],
)
async def test_without_iam_all_is_shown_disabled_and_why_and_then_enabled_again(
    world: Stage, fault: Fault | None, reason: str
) -> None:
    if fault is None:
        await world.iam.stop()
    world.iam.fault = fault
    await world.quiet()
    began = time.monotonic()
    for _ in range(4):
        answer = await world.get("/registry/navigation")
        said = answer.json()
        assert answer.status_code == 200
        assert answer.headers["x-gateway-degraded"] == "iam; mode=partial"
        assert said.pop("degraded_reason") in (reason, "iam_circuit_open")
        assert said.pop("retry_after") >= 1
        assert json.dumps(said) == json.dumps({**marked(DOCUMENT, enabled=False, access="unknown"), "degraded": True})
    assert time.monotonic() - began < 3 * 1 + 4
    asked = len(world.iam.seen)
    assert (await world.get("/registry/navigation")).json()["degraded_reason"] == "iam_circuit_open"
    assert len(world.iam.seen) == asked
    permission = (await world.post("/permissions", {"evaluations": [READ, WRITE]})).json()
    assert 1 <= permission.pop("retry_after") <= 2
    assert json.dumps(permission) == json.dumps(
        {
            "evaluations": [{"decision": False, "context": {"access": "unknown"}}] * 2,
            "degraded": True,
            "degraded_reason": "iam_circuit_open",
        }
    )
    world.iam.fault = None
    if fault is None:
        await world.iam.start()
    end = time.monotonic() + 20
    while "degraded" in (said := (await world.get("/registry/navigation")).json()):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    assert said == marked(DOCUMENT, enabled=True)


async def test_a_deadline_before_iams_own_limit_still_shows_the_page(world: Stage) -> None:
    world.iam.fault = HANGS
    began = time.monotonic()
    answer = await world.get("/hurried", "bob")
    assert (answer.status_code, answer.json()["degraded_reason"]) == (200, "iam_timeout")
    assert time.monotonic() - began < 0.5 + 0.5
    nothing_enabled(answer.text)


async def test_an_item_that_iam_cannot_decide_is_the_only_one_disabled(world: Stage) -> None:
    def some(seen: Seen) -> bytes:
        document = json.loads(decides(lambda _: True)(seen).partition(b"\r\n\r\n")[2])
        document["evaluations"][3] = {"decision": False, "context": {"error": {"status": 500}}}
        return as_json(document)

    world.iam.behave = some
    said = (await world.get("/registry/navigation")).json()
    items = [one for system in said["systems"] for one in system["menus"]]
    assert [one["enabled"] for one in items] == [True] * 3 + [False] + [True] * 6
    assert items[3]["access"] == "unknown"
    assert (said["degraded"], said["degraded_reason"]) == (True, "iam_error")


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 0.4])
async def test_a_hundred_users_at_once_cost_no_more_calls_than_full_batches_and_what_was_in_flight(
    world: Stage, latency_s: float
) -> None:
    """⌈distinct questions / max_size⌉ and the calls of `max_concurrency` that were under way."""
    users, gate = 100, asyncio.Event()
    arrived = 0

    async def together(_: Seen) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == users:
            gate.set()
        await gate.wait()
        return as_json(small)

    async def slow(seen: Seen) -> bytes:
        await asyncio.sleep(latency_s)
        return decides(lambda _: True)(seen)

    small = {"systems": [{"menus": [item(name)]} for name in SYSTEMS]}
    world.systems["registry"].behave, world.iam.behave = together, slow
    callers = await asyncio.gather(*(Caller.to(world.gateway.port) for _ in range(users)))
    answers: list[Answer] = await asyncio.gather(
        *(caller.ask("/registry/navigation", headers=world.who(f"user-{n}")) for n, caller in enumerate(callers))
    )
    for caller in callers:
        caller.close()
    assert Counter(answer.status for answer in answers) == {200: users}
    for answer in answers:
        assert all(one["enabled"] for system in json.loads(answer.body)["systems"] for one in system["menus"])
    asked = [question for call in asked_of(world.iam) for question in call]
    assert sorted(asked) == sorted(f"user-{n} read system:{name}" for n in range(users) for name in SYSTEMS)
    assert len(world.iam.seen) <= math.ceil(len(asked) / 50) + 8, [len(call) for call in asked_of(world.iam)]


async def test_the_same_user_in_a_hundred_windows_is_asked_about_once_at_a_time(world: Stage) -> None:
    async def slow(seen: Seen) -> bytes:
        await asyncio.sleep(0.3)
        return decides(lambda _: True)(seen)

    world.iam.behave = slow
    callers = await asyncio.gather(*(Caller.to(world.gateway.port) for _ in range(50)))
    await asyncio.gather(*(caller.ask("/registry/navigation", headers=world.who()) for caller in callers))
    for caller in callers:
        caller.close()
    assert len(world.iam.seen) <= 8


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
UNREADABLE = {
    "html": plays(reply(b"<html>")),
    "nothing": plays(reply(b"")),
    "cut-off": plays(reply(b'{"systems": [', length=100), end="fin"),
    "not-utf-8": plays(reply(b'{"systems": ["\xff"]}')),
    "nan": plays(as_json({"systems": [], "x": float("nan")})),
    "deep": plays(reply(b'{"systems": [], "x": ' + b"[" * 700 + b"]" * 700 + b"}")),
    "a-list": plays(as_json([DOCUMENT])),
    "a-text": plays(as_json("systems")),
    "null": plays(as_json(None)),
    "no-systems": plays(as_json({"system": []})),
    "systems-a-text": plays(as_json({"systems": "all"})),
    "menus-a-number": plays(as_json({"systems": [{"menus": 7}]})),
    "item-a-text": plays(as_json({"systems": [{"menus": ["read system:inventory"]}]})),
    "item-true": plays(as_json({"systems": [{"menus": [True]}]})),
    "too-many-items": plays(as_json({"systems": [{"menus": [{}] * 10_001}]})),
    "100-MB": plays(HEAD + b"Content-Length: 104857600\r\n\r\n", *[MEBIBYTE] * 100),
}


@pytest.mark.parametrize("fault", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_document_of_another_shape_is_the_upstreams_mistake(world: Stage, fault: Fault) -> None:
    world.systems["registry"].fault = fault
    answer = await world.get("/registry/navigation")
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_protocol_error")
    nothing_enabled(answer.text)
    assert world.iam.seen == []


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"action": "read"},
        {"resource": "system:inventory"},
        {"action": None, "resource": "system:inventory"},
        {"action": 1.5, "resource": "system:inventory"},
        {"action": ["read"], "resource": "system:inventory"},
        {"action": "read", "resource": {"type": "system", "id": "inventory"}},
        {"action": "", "resource": "system:inventory"},
        {"action": "read", "resource": ""},
        {"action": "read", "resource": "inventory"},
        {"action": "read", "resource": ":inventory"},
        {"action": "read", "resource": "system:" + "x" * 2000},
    ],
    ids=str,
)
async def test_an_item_that_nothing_can_be_asked_about_is_never_enabled(world: Stage, broken: dict[str, Any]) -> None:
    """Also if it says so of itself; the others are as they should be."""
    said = {**broken, "enabled": True, "access": "granted"}
    world.systems["registry"].behave = says({"systems": [{"menus": [said, item("inventory")]}]})
    answer = await world.get("/registry/navigation")
    first, second = answer.json()["systems"][0]["menus"]
    assert first == {**broken, "enabled": False, "access": "unknown"}
    assert second == {**item("inventory"), "enabled": True}
    assert asked_of(world.iam) == [["alice read system:inventory"]]


async def test_the_registry_failing_is_an_upstreams_failure(world: Stage) -> None:
    for fault, status, code in (
        (HANGS, 504, "upstream_timeout"),
        (plays(b"x\r\n\r\n", end="fin"), 502, "upstream_protocol_error"),
    ):
        world.systems["registry"].fault = fault
        answer = await world.get("/registry/navigation")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    world.systems["registry"].fault = plays(reply(b"theirs", "500 Broken", "X-Theirs: yes"))
    answer = await world.get("/registry/navigation")
    assert (answer.status_code, answer.text, answer.headers["x-theirs"]) == (500, "theirs", "yes")


class TestPermissions:
    async def test_the_answer_is_as_the_contract_shows_it(self, world: Stage) -> None:
        world.denied.add("alice write system:inventory")
        answer = await world.post("/permissions", {"evaluations": [READ, WRITE]})
        assert answer.text == '{"evaluations":[{"decision":true},{"decision":false}]}'
        assert len(world.iam.seen) == 1
        assert answer.headers["cache-control"] == "private, no-store"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{",
            b"{}",
            b'{"evaluations": {}}',
            b'{"evaluations": [{}]}',
            json.dumps({**READ, "subject": {"type": "identity", "id": "root"}}).encode(),
            json.dumps({"evaluations": [READ] * 11}).encode(),
            json.dumps({**READ, "context": {"deep": 0}}).encode().replace(b"0", b"[" * 700 + b"]" * 700),
        ],
    )
    async def test_other_bodies_are_400_and_ask_nobody(self, world: Stage, body: bytes) -> None:
        answer = await world.client.post("/permissions", content=body, headers=world.who())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert world.iam.seen == []

    async def test_nobody_unknown_gets_an_answer(self, world: Stage) -> None:
        assert (await world.client.post("/permissions", json=READ)).status_code == 401
        assert (await world.client.get("/registry/navigation")).status_code == 401
        assert world.iam.seen == []
