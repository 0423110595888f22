"""Aggregates: what can be had is had, what failed is named, and no system takes another with it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: user-audit
    path: /audit/users/{email}
    authorize: ["audit user:{path.email}"]
    deadline: 2s
    timeout: {connect: 500ms, read: 300ms}
    circuit_breaker: {failure_threshold: 2, open_for: 30s}
    aggregate:
      require: 1
      systems:
        Workday: {upstream: workday, path: "/staffing/v6/workers?email={path.email}", found_field: workday_found}
        ActiveDirectory: {upstream: ad, path: "/users/{path.email}", found_field: ad_found}
        Entra: {upstream: entra, path: "/v1.0/users/{path.email}", found_field: entra_found}
      compare:
        - {field: job_title, severity: medium, values: {Workday: /jobTitle, ActiveDirectory: /title, Entra: /jobTitle}}
"""
NAMES = ["workday", "ad", "entra"]
JOHN = "/audit/users/john.doe@wheels.com"
BODIES = {
    "workday": {"jobTitle": "Senior Engineer"},
    "ad": {"title": "Senior Engineer"},
    "entra": {"jobTitle": "Engineer"},
}


def answering(body, status=200):
    return lambda *_: (status, body)


async def fill(world):
    for name, body in BODIES.items():
        world.systems[name].answer = answering(body)


@pytest.fixture
async def world(kit, tmp_path):
    async with kit.world_of(tmp_path, ROUTES, NAMES) as world:
        await fill(world)
        yield world


def changed(kit, tmp_path, *changes, names=NAMES):
    routes = ROUTES
    for old, new in changes:
        assert old in routes
        routes = routes.replace(old, new)
    return kit.world_of(tmp_path, routes, names)


async def test_all_systems_answer_field_by_field(world):
    caller = await world.call(JOHN)
    assert caller.status == 200
    assert json.dumps(caller.json) == json.dumps(
        {
            "email": "john.doe@wheels.com",
            "systems_checked": ["Workday", "ActiveDirectory", "Entra"],
            "systems_available": ["Workday", "ActiveDirectory", "Entra"],
            "systems_failed": [],
            "failures": {},
            "workday_found": True,
            "ad_found": True,
            "entra_found": True,
            "complete": True,
            "discrepancy_count": 2,
            "discrepancies": [
                {
                    "field": "job_title",
                    "system_a": system,
                    "value_a": "Senior Engineer",
                    "system_b": "Entra",
                    "value_b": "Engineer",
                    "severity": "medium",
                }
                for system in ("Workday", "ActiveDirectory")
            ],
        }
    )
    assert caller.values(b"x-gateway-degraded") == []
    assert caller.values(b"cache-control") == [b"private, no-cache"]


async def test_an_open_circuit_is_a_failed_system_as_the_contract_shows_it(world):
    world.systems["workday"].answer = answering({}, 503)
    for _ in range(2):
        await world.call(JOHN)
    assert world.breakers["user-audit.Workday"].state == "open"
    caller = await world.call(JOHN)
    shown = caller.json
    assert 1 <= shown["failures"]["Workday"].pop("retry_after") <= 36
    assert json.dumps(shown) == json.dumps(
        {
            "email": "john.doe@wheels.com",
            "systems_checked": ["Workday", "ActiveDirectory", "Entra"],
            "systems_available": ["ActiveDirectory", "Entra"],
            "systems_failed": ["Workday"],
            "failures": {"Workday": {"code": "upstream_circuit_open"}},
            "workday_found": None,
            "ad_found": True,
            "entra_found": True,
            "complete": False,
            "discrepancy_count": 1,
            "discrepancies": [
                {
                    "field": "job_title",
                    "system_a": "ActiveDirectory",
                    "value_a": "Senior Engineer",
                    "system_b": "Entra",
                    "value_b": "Engineer",
                    "severity": "medium",
                }
            ],
        }
    )
    assert caller.values(b"x-gateway-degraded") == [b"upstream; mode=partial"]
    assert caller.values(b"cache-control") == [b"no-store"]
    assert caller.record.degraded == "partial"
    assert len(world.systems["workday"].seen) == 2
    assert world.breakers["user-audit.Entra"].state == "closed"


async def test_killing_systems_one_by_one_changes_what_failed_and_nothing_else(world):
    for count, name in enumerate(NAMES[:2], 1):
        world.systems[name].answer = answering(b"", 500)
        shown = (await world.call(JOHN)).json
        assert shown["systems_failed"] == ["Workday", "ActiveDirectory"][:count]
        assert shown["systems_checked"] == ["Workday", "ActiveDirectory", "Entra"]
        assert shown["entra_found"] is True
        assert shown["failures"]["Workday"] == {"code": "upstream_error", "status": 500}


async def test_404_is_an_answer(world):
    world.systems["ad"].answer = answering({"error": "no such user"}, 404)
    shown = (await world.call(JOHN)).json
    assert shown["complete"] is True
    assert (shown["ad_found"], shown["systems_failed"]) == (False, [])
    assert [each["system_a"] for each in shown["discrepancies"]] == ["Workday"]


@pytest.mark.parametrize("status", [301, 401, 403, 429, 500, 502, 503])
async def test_other_statuses_are_failures_with_their_status(world, status):
    world.systems["ad"].answer = lambda *_: (status, {}, (b"Retry-After", b"60"), (b"Location", b"http://evil/"))
    shown = (await world.call(JOHN)).json
    failure = shown["failures"]["ActiveDirectory"]
    assert (failure["code"], failure["status"]) == ("upstream_error", status)
    assert 60 <= failure["retry_after"] <= 72


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000, b'"' + b"x" * 1_100_000 + b'"', b"x" * 20_000_000],
    ids=["html", "half", "nan", "latin", "deep", "1 MiB", "20 MB"],
)
async def test_a_body_that_is_not_a_document_fails_that_system_alone(world, body):
    world.systems["workday"].answer = answering(body)
    shown = (await world.call(JOHN)).json
    assert shown["failures"] == {"Workday": {"code": "upstream_protocol_error"}}
    assert shown["systems_available"] == ["ActiveDirectory", "Entra"]


async def test_an_empty_success_is_found_with_nothing_in_it(world):
    world.systems["workday"].answer = answering(b"", 204)
    shown = (await world.call(JOHN)).json
    assert shown["workday_found"] is True
    assert shown["discrepancies"][0]["value_a"] is None


async def test_a_system_that_hangs_delays_no_more_than_its_own_timeout(world, kit):
    world.systems["workday"].answer = kit.hang
    began = time.monotonic()
    shown = (await world.call(JOHN)).json
    assert shown["failures"] == {"Workday": {"code": "upstream_timeout"}}
    assert time.monotonic() - began < 1.5


async def test_a_system_that_drips_is_cut_at_the_deadline_and_the_others_are_shown(kit, tmp_path):
    async with changed(kit, tmp_path, ("deadline: 2s", "deadline: 600ms")) as world:
        await fill(world)

        async def drip(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            except ConnectionError:
                pass
            finally:
                writer.close()

        world.systems["workday"].serve = drip
        world.systems["workday"].server.close()
        await world.systems["workday"].start()
        caller = await world.call(JOHN)
        assert caller.status == 200
        assert caller.json["failures"] == {"Workday": {"code": "deadline_exceeded"}}


async def test_a_dead_system_is_unreachable(world):
    world.systems["workday"].server.close()
    await asyncio.sleep(0)
    shown = (await world.call(JOHN)).json
    assert shown["failures"] == {"Workday": {"code": "upstream_unreachable"}}


async def test_all_systems_are_asked_at_the_same_time(world):
    everybody = asyncio.Barrier(3)

    async def together(*_):
        await everybody.wait()
        return 200, {}

    for name in NAMES:
        world.systems[name].answer = together
    assert (await world.call(JOHN)).json["complete"] is True


async def test_nothing_of_the_caller_reaches_the_systems(world):
    await world.call(JOHN, headers=[(b"x-api-key", b"k"), (b"if-none-match", b'"1"'), (b"range", b"bytes=0-1")])
    for name in NAMES:
        [(_, headers, body)] = world.systems[name].seen
        fields = dict(headers)
        assert not {b"authorization", b"cookie", b"x-api-key", b"if-none-match", b"range"} & fields.keys()
        assert fields[b"x-auth-subject"] == b"alice"
        assert fields[b"x-request-id"] == b"r-1"
        assert fields[b"accept-encoding"] == b"identity"
        assert body == b""


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/audit/users/a%26b%3D%3F%23c", b"GET /users/a%26b%3D%3F%23c HTTP/1.1"),
        ("/audit/users/%C3%A4%20x", b"GET /users/%C3%A4%20x HTTP/1.1"),
    ],
)
async def test_values_are_encoded_where_they_fill_in_a_path(world, target, line):
    await world.call(target)
    assert world.systems["ad"].seen[0][0] == line
    assert world.systems["workday"].seen[0][0].split()[1].count(b"=") == 1


async def test_a_query_by_post_carries_its_json_filled_in(kit, tmp_path):
    change = (
        'path: "/users/{path.email}", ',
        'method: POST, path: /graphql, json: {query: "query { user }", variables: {n: 1, who: "{path.email}"}}, ',
    )
    async with changed(kit, tmp_path, change) as world:
        await fill(world)
        await world.call("/audit/users/%22%7D")
        [(line, headers, body)] = world.systems["ad"].seen
        assert line == b"POST /graphql HTTP/1.1"
        assert json.loads(body) == {"query": "query { user }", "variables": {"n": 1, "who": '"}'}}
        assert (b"content-type", b"application/json") in headers


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"data": {"asset": {"title": "x"}}}, True),
        ({"data": {"asset": [0]}}, True),
        ({"data": {"asset": 0}}, True),
        ({"data": {"asset": None}}, False),
        ({"data": {"asset": False}}, False),
        ({"data": {"asset": []}}, False),
        ({"data": {"asset": {}}}, False),
        ({"data": {}}, None),
        ({"data": None, "errors": [{"message": "ill"}]}, None),
        ([], None),
        (None, None),
    ],
)
async def test_found_at_says_where_what_was_asked_for_stands(kit, tmp_path, body, found):
    """None: the document is not the one that the route is for, so the system failed."""
    more = ("found_field: ad_found}", "found_field: ad_found, found_at: /data/asset}")
    async with changed(kit, tmp_path, ("require: 1", "require: 1\n      include: data"), more) as world:
        await fill(world)
        world.systems["ad"].answer = answering(body)
        shown = (await world.call(JOHN)).json
        assert shown["ad_found"] is found
        assert ("ActiveDirectory" in shown["data"]) is bool(found)
        failure = {"ActiveDirectory": {"code": "upstream_protocol_error"}}
        assert shown["failures"] == (failure if found is None else {})
        compared = {side for d in shown["discrepancies"] for side in (d["system_a"], d["system_b"])}
        assert ("ActiveDirectory" in compared) is bool(found)


async def test_data_is_included_where_asked_for(kit, tmp_path):
    async with changed(kit, tmp_path, ("require: 1", "require: 1\n      include: data")) as world:
        await fill(world)
        world.systems["ad"].answer = answering({}, 404)
        assert (await world.call(JOHN)).json["data"] == {"Workday": BODIES["workday"], "Entra": BODIES["entra"]}


class TestTooFew:
    """Fewer answers than required are a 503, with the smallest Retry-After that can help."""

    async def test_all_failed(self, world):
        for name in NAMES:
            world.systems[name].answer = answering({}, 500)
        error = await world.refused(JOHN)
        assert (error.code, error.kind.status) == ("upstream_error", 503)
        assert error.reason.startswith("Workday: upstream_error")

    async def test_the_number_that_is_missing_decides_the_wait(self, kit, tmp_path):
        async with changed(kit, tmp_path, ("require: 1", "require: 2")) as world:
            for seconds, name in ((200, "workday"), (20, "ad"), (60, "entra")):
                world.systems[name].answer = lambda *_, s=seconds: (503, {}, (b"Retry-After", b"%d" % s))
            assert (await world.refused(JOHN)).retry_after_s == 60

    async def test_the_wait_is_spread_once(self, world):
        """What is told in the end is at most a fifth over what remains, not a fifth over a fifth."""
        for name in NAMES:
            world.systems[name].answer = lambda *_: (503, {}, (b"Retry-After", b"100"))
        assert (await world.refused(JOHN)).retry_after_s == 100

    async def test_a_required_system_that_failed(self, kit, tmp_path):
        async with changed(kit, tmp_path, ("require: 1", "require: [Workday]")) as world:
            await fill(world)
            world.systems["ad"].answer = answering({}, 500)
            assert (await world.call(JOHN)).status == 200
            world.systems["workday"].answer = lambda *_: (503, {}, (b"Retry-After", b"100"))
            assert (await world.refused(JOHN)).retry_after_s == 100

    async def test_one_common_reason_keeps_its_name(self, world):
        for name in NAMES:
            world.systems[name].answer = answering({}, 503)
        for _ in range(2):
            await world.refused(JOHN)
        error = await world.refused(JOHN)
        assert error.code == "upstream_circuit_open"
        assert error.retry_after_s > 1

    async def test_the_routes_own_response_stands_in(self, kit, tmp_path):
        rule = "on_upstream_failure: {degrade: fallback, response: {status: 200, json: {sorry: true}}}\n    aggregate:"
        async with changed(kit, tmp_path, ("aggregate:", rule)) as world:
            for name in NAMES:
                world.systems[name].answer = answering({}, 500)
            caller = await world.call(JOHN)
            assert caller.json == {"sorry": True}
            assert caller.values(b"x-gateway-degraded") == [b"upstream; mode=fallback"]


class TestAuthorization:
    """The route's checks and all parts' in one asking; a part's no is that part's."""

    @pytest.fixture
    async def world(self, kit, tmp_path):
        change = ("found_field: ad_found", 'found_field: ad_found, authorize: ["read system:ad"]')
        async with changed(kit, tmp_path, change) as world:
            await fill(world)
            yield world

    async def test_one_call_asks_all(self, world):
        await world.call(JOHN)
        assert world.iam.asked == [["audit user:john.doe@wheels.com", "read system:ad"]]

    async def test_the_routes_denial_asks_no_system(self, world, kit):
        world.iam.answers = {"audit user:john.doe@wheels.com": kit.DENIED}
        assert (await world.refused(JOHN)).code == "iam_denied"
        assert all(not system.seen for system in world.systems.values())

    async def test_a_denied_part_is_not_asked_and_says_so(self, world, kit):
        world.iam.answers = {"read system:ad": kit.DENIED}
        caller = await world.call(JOHN)
        shown = caller.json
        assert world.systems["ad"].seen == []
        assert shown["systems_denied"] == ["ActiveDirectory"]
        assert shown["systems_checked"] == shown["systems_available"] == ["Workday", "Entra"]
        assert (shown["ad_found"], shown["complete"], shown["failures"]) == (None, True, {})
        assert caller.values(b"x-gateway-degraded") == []

    async def test_iams_failure_is_the_routes_failure(self, world, kit):
        world.iam.answers = {"read system:ad": kit.fault("iam_timeout")}
        assert (await world.refused(JOHN)).code == "iam_timeout"
        assert all(not system.seen for system in world.systems.values())

    async def test_a_parts_question_that_fails_alone_is_that_parts_failure(self, world, kit):
        world.iam.answers = {"read system:ad": kit.fault("iam_rejected", isolated=True)}
        shown = (await world.call(JOHN)).json
        assert world.systems["ad"].seen == []
        assert shown["failures"] == {"ActiveDirectory": {"code": "iam_rejected"}}

    @pytest.mark.parametrize(
        "change",
        [("require: 1", "require: [ActiveDirectory]"), ("require: 1", "require: 3")],
        ids=["required", "too few left"],
    )
    async def test_a_denial_that_leaves_too_little_is_403(self, kit, tmp_path, change):
        checks = ("found_field: ad_found", 'found_field: ad_found, authorize: ["read system:ad"]')
        async with changed(kit, tmp_path, change, checks) as world:
            world.iam.answers = {"read system:ad": kit.DENIED}
            assert (await world.refused(JOHN)).code == "iam_denied"
            assert all(not system.seen for system in world.systems.values())

    async def test_without_any_check_every_system_is_asked(self, kit, tmp_path):
        async with changed(kit, tmp_path, ('["audit user:{path.email}"]', "authenticated")) as world:
            await fill(world)
            assert (await world.call(JOHN)).json["complete"] is True
            assert world.iam.asked == []


class TestLastGoodAnswers:
    """A part that keeps copies answers an outage with its own last word, and says how old it is."""

    @pytest.fixture
    async def world(self, kit, tmp_path):
        rule = "found_field: workday_found, on_upstream_failure: {degrade: stale, max_stale: 60s}"
        async with changed(kit, tmp_path, ("found_field: workday_found", rule)) as world:
            await fill(world)
            yield world

    async def test_served_on_an_outage(self, world):
        await world.call(JOHN)
        world.systems["workday"].answer = answering({}, 503)
        caller = await world.call(JOHN)
        shown = caller.json
        assert (shown["systems_stale"], shown["systems_failed"], shown["complete"]) == ({"Workday": 0}, [], True)
        assert shown["discrepancy_count"] == 2
        assert caller.values(b"x-gateway-degraded") == [b"upstream; mode=stale; age=0"]
        assert caller.values(b"cache-control") == [b"no-store"]

    async def test_never_to_another_subject_and_not_for_another_question(self, world):
        await world.call(JOHN)
        world.systems["workday"].answer = answering({}, 503)
        assert (await world.call(JOHN, who="bob")).json["systems_failed"] == ["Workday"]
        assert (await world.call("/audit/users/jane")).json["systems_failed"] == ["Workday"]

    async def test_gone_after_not_found(self, world):
        await world.call(JOHN)
        world.systems["workday"].answer = answering({}, 404)
        await world.call(JOHN)
        world.systems["workday"].answer = answering({}, 503)
        assert (await world.call(JOHN)).json["systems_failed"] == ["Workday"]

    async def test_not_for_an_error_that_is_no_outage(self, world):
        await world.call(JOHN)
        world.systems["workday"].answer = answering({}, 500)
        assert (await world.call(JOHN)).json["systems_failed"] == ["Workday"]


async def test_a_caller_who_leaves_ends_what_the_systems_do(world, kit):
    for name in NAMES:
        world.systems[name].answer = kit.hang
    asking = asyncio.ensure_future(world.call(JOHN))
    await kit.eventually(lambda: sum(system.open_requests for system in world.systems.values()) == 3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert all(world.breakers[f"user-audit.{part}"].state == "closed" for part in ("Workday", "Entra"))


NOT_ASKED = ("found_field: ad_found", 'found_field: ad_found, authorize: ["read system:ad"]')
AS_FALSE = ("require: 1", "require: 1\n      unknown_as_false: true")


@pytest.mark.parametrize(("changes", "unknown"), [([NOT_ASKED], None), ([NOT_ASKED, AS_FALSE], False)])
async def test_found_is_unknown_of_a_system_that_could_not_be_asked(kit, tmp_path, changes, unknown):
    """It failed, was denied, or IAM could not say whether it may be asked; a system that has nothing says false."""
    async with changed(kit, tmp_path, *changes) as world:
        await fill(world)
        world.systems["workday"].answer = answering(b"", 500)
        world.systems["entra"].answer = answering(b"", 404)
        for not_asked in (kit.DENIED, kit.fault("iam_rejected", isolated=True)):
            world.iam.answers = {"read system:ad": not_asked}
            shown = (await world.call(JOHN)).json
            assert [shown[f"{name}_found"] for name in NAMES] == [unknown, unknown, False]
