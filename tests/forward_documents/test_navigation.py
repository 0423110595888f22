"""Navigation: one asking for all items, an answer also without IAM, and never an item enabled that nobody permitted."""

from __future__ import annotations

import asyncio
import copy
import json

import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
  - id: navigation
    path: /registry/navigation
    authorize: authenticated
    navigation: {upstream: registry, items: /systems/*/menus/*, check: "{item.action} {item.resource}", on_denied: %s}
"""
DOCUMENT = {
    "title": "Portal",
    "größe": 1.0,
    "systems": [
        {
            "id": "inventory",
            "badge": {"enabled": True},
            "menus": [
                {"id": "a", "action": "read", "resource": "system:inventory", "enabled": True, "extra": [1, None]},
                {"id": "b", "action": "write", "resource": "system:inventory", "enabled": True},
            ],
        },
        {"id": "empty"},
        {"id": "none", "menus": None},
        {"id": "monitoring", "menus": {"x": {"action": "read", "resource": "system:monitoring", "enabled": True}}},
    ],
}


@pytest.fixture(params=["remove"])
async def world(kit, tmp_path, request):
    async with kit.world_of(tmp_path, ROUTES % request.param, ["registry"]) as world:
        world.systems["registry"].answer = lambda *_: (
            200,
            DOCUMENT,
            (b"ETag", b'"1"'),
            (b"Last-Modified", b"Sat, 01 Jan 2000 00:00:00 GMT"),
            (b"Cache-Control", b"public, max-age=3600"),
            (b"X-Kept", b"yes"),
        )
        yield world


async def test_permitted_items_are_enabled_and_denied_ones_removed(world, kit):
    """NV02."""
    world.iam.answers = {"write system:inventory": kit.DENIED}
    caller = await world.call("/registry/navigation")
    expected = copy.deepcopy(DOCUMENT)
    del expected["systems"][0]["menus"][1]
    assert caller.status == 200
    assert caller.json == expected
    assert list(caller.json["systems"][0]["menus"][0]) == list(DOCUMENT["systems"][0]["menus"][0])


@pytest.mark.parametrize("world", ["disable"], indirect=True)
async def test_denied_items_can_be_shown_disabled(world, kit):
    world.iam.default = kit.DENIED
    menus = (await world.call("/registry/navigation")).json["systems"][0]["menus"]
    assert [(item["enabled"], item["access"]) for item in menus] == [(False, "denied")] * 2


async def test_all_items_of_all_systems_are_one_asking(world):
    await world.call("/registry/navigation")
    assert world.iam.asked == [["read system:inventory", "write system:inventory", "read system:monitoring"]]


async def test_without_iam_everything_is_shown_disabled_and_says_why(world, kit):
    """NV03: 200, every system, nothing enabled, marked."""
    world.iam.default = kit.fault()
    caller = await world.call("/registry/navigation")
    shown = caller.json
    assert caller.status == 200
    assert [system["id"] for system in shown["systems"]] == [system["id"] for system in DOCUMENT["systems"]]
    items = [*shown["systems"][0]["menus"], shown["systems"][3]["menus"]["x"]]
    assert [(item["enabled"], item["access"]) for item in items] == [(False, "unknown")] * 3
    assert (shown["degraded"], shown["degraded_reason"]) == (True, "iam_circuit_open")
    assert 7 <= shown["retry_after"] <= 9
    assert caller.values(b"x-gateway-degraded") == [b"iam; mode=partial"]
    assert caller.record.degraded == "partial"
    assert shown["größe"] == 1.0


async def test_what_is_known_is_shown_beside_what_is_not(world, kit):
    """NV04: a missing answer is a disabled item, not a missing page."""
    world.iam.answers = {"write system:inventory": kit.fault("iam_error"), "read system:monitoring": kit.DENIED}
    shown = (await world.call("/registry/navigation")).json
    assert [item["enabled"] for item in shown["systems"][0]["menus"]] == [True, False]
    assert shown["systems"][3]["menus"] == {}
    assert shown["degraded_reason"] == "iam_error"


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"action": "read"},
        {"action": "read", "resource": "inventory"},
        {"action": "read", "resource": ":inventory"},
        {"action": "read", "resource": "system:"},
        {"action": None, "resource": "system:x"},
        {"action": ["read"], "resource": "system:x"},
        {"action": "", "resource": "system:x"},
        {"action": "read", "resource": "system:" + "x" * 2000},
        {"action": "read", "resource": "system:\ud800"},
        {"action": "\udfff", "resource": "system:x"},
    ],
)
async def test_an_item_that_cannot_be_asked_about_is_disabled(world, item):
    document = {"systems": [{"menus": [{**item, "enabled": True}, DOCUMENT["systems"][0]["menus"][0]]}]}
    world.systems["registry"].answer = lambda *_: (200, document)
    shown = (await world.call("/registry/navigation")).json
    menus = shown["systems"][0]["menus"]
    assert (menus[0]["enabled"], menus[0]["access"]) == (False, "unknown")
    assert menus[1]["enabled"] is True
    assert "degraded" not in shown


async def test_no_value_of_an_item_changes_what_is_asked(world):
    hostile = {"action": 'read","x":"', "resource": 'a":"b:c"},"context":{'}
    world.systems["registry"].answer = lambda *_: (200, {"systems": [{"menus": [hostile]}]})
    await world.call("/registry/navigation")
    assert world.iam.asked == [['read","x":" a":"b:c"},"context":{']]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"true",
        b'"x"',
        b"{}",
        b'{"systems": 7}',
        b'{"systems": "menus"}',
        b'{"systems": [{"menus": "x"}]}',
        b'{"systems": [{"menus": ["x"]}]}',
        b'{"systems": [{"menus": [null]}]}',
        b'{"systems": [{"menus": [[]]}]}',
        b'{"systems": [], "x": NaN}',
        b'{"systems": [], "x": 1e999}',
        b'{"systems": [], "x": ' + b"9" * 5000 + b"}",
        b'{"systems": ' + b"[" * 100_000,
        b'{"systems": []} {}',
        b"\xff\xfe{\x00}\x00",
        '{"systems": []}'.encode("utf-16"),
        b'{"systems": [' + b'"x",' * 3_000_000,
    ],
    ids=lambda content: content[:24].decode("latin-1"),
)
async def test_a_document_of_another_shape_is_the_upstreams_mistake(world, content):
    world.systems["registry"].answer = lambda *_: (200, content)
    error = await world.refused("/registry/navigation")
    assert error.code == "upstream_protocol_error"
    assert world.iam.asked == []


async def test_an_empty_document_asks_nobody(world):
    world.systems["registry"].answer = lambda *_: (200, {"systems": []})
    assert (await world.call("/registry/navigation")).json == {"systems": []}
    assert world.iam.asked == []


async def test_strange_text_goes_through(world):
    raw = b'\xef\xbb\xbf{"systems":[],"a":"\\ud800","b":"\xc3\xa4","c":12345678901234567890,"c2":-0.0}'
    world.systems["registry"].answer = lambda *_: (200, raw)
    assert (await world.call("/registry/navigation")).json == json.loads(raw[3:])


async def test_what_the_upstream_said_of_its_document_is_not_said_of_ours(world):
    caller = await world.call("/registry/navigation")
    assert caller.values(b"cache-control") == [b"private, no-store"]
    assert caller.values(b"etag") == caller.values(b"last-modified") == []
    assert caller.values(b"content-length") == [b"%d" % len(caller.body)]
    assert caller.values(b"x-kept") == [b"yes"]
    assert caller.values(b"x-request-id") == [b"r-1"]


async def test_the_upstream_sees_the_callers_request_for_a_whole_readable_document(world):
    fields = [(b"if-none-match", b'"1"'), (b"range", b"bytes=0-1"), (b"accept-encoding", b"gzip"), (b"x-user", b"eve")]
    await world.call("/registry/navigation?lang=de", headers=fields)
    [(line, headers, _)] = world.systems["registry"].seen
    names = [name for name, _ in headers]
    assert line == b"GET /registry/navigation?lang=de HTTP/1.1"
    assert (b"accept-encoding", b"identity") in headers
    assert (b"x-auth-subject", b"alice") in headers
    assert (b"authorization", b"Bearer secret") in headers
    assert not {b"if-none-match", b"range", b"x-user"} & set(names)


@pytest.mark.parametrize("status", [304, 404, 500])
async def test_other_answers_of_the_upstream_pass_unchanged(world, status):
    world.systems["registry"].answer = lambda *_: (status, b"" if status == 304 else b"their own", (b"ETag", b'"x"'))
    caller = await world.call("/registry/navigation")
    assert (caller.status, caller.body) == (status, b"" if status == 304 else b"their own")
    assert caller.values(b"etag") == [b'"x"']
    assert world.iam.asked == []


async def test_head_is_answered_like_get_without_the_body(world):
    caller = await world.call("/registry/navigation", "HEAD")
    assert caller.body == b""
    assert int(caller.values(b"content-length")[0]) > 100


async def test_a_token_that_iam_does_not_know_is_401(world, kit):
    world.iam.answers = {"write system:inventory": kit.Decision(kit.DENIED.outcome, unauthenticated=True)}
    assert (await world.refused("/registry/navigation")).code == "unauthenticated"


async def test_a_hundred_users_ask_once_each_and_cached_permits_are_not_asked_again(kit, tmp_path):
    """NV01, NV05: never shared between users."""
    async with kit.world_of(tmp_path, ROUTES % "remove", ["registry"], ttl_s=60) as world:
        world.systems["registry"].answer = lambda *_: (200, DOCUMENT)
        await asyncio.gather(*(world.call("/registry/navigation", who=f"user-{n}") for n in range(100)))
        assert len(world.iam.asked) == 100
        await world.call("/registry/navigation", who="user-7")
        assert len(world.iam.asked) == 100


class TestWithoutUpstream:
    """The route's rule for its upstream: the last good document, marked for now, or the route's own response."""

    STALE = ROUTES % "remove" + "    on_upstream_failure: {degrade: stale, max_stale: 60s}\n"
    FALLBACK = ROUTES % "remove" + "    on_upstream_failure: {degrade: fallback, response: {json: {systems: []}}}\n"

    @pytest.fixture
    async def world(self, kit, tmp_path):
        async with kit.world_of(tmp_path, self.STALE, ["registry"]) as world:
            world.systems["registry"].answer = lambda *_: (200, DOCUMENT)
            yield world

    @pytest.mark.parametrize("answer", [(503, {}), (200, b"not json"), (200, b'{"systems": 7}')], ids=str)
    async def test_the_last_good_document_is_marked_by_decisions_of_now(self, world, kit, answer):
        await world.call("/registry/navigation")
        world.systems["registry"].answer = lambda *_: answer
        world.iam.default = kit.DENIED
        caller = await world.call("/registry/navigation")
        assert caller.json["systems"][0]["menus"] == []
        assert caller.values(b"x-gateway-degraded") == [b"upstream; mode=stale; age=0"]
        assert len(world.iam.asked) == 2

    async def test_both_halves_can_be_missing_and_nothing_is_enabled(self, world, kit):
        await world.call("/registry/navigation")
        world.systems["registry"].server.close()
        world.systems["registry"].answer = lambda *_: (504, {})
        world.iam.default = kit.fault()
        caller = await world.call("/registry/navigation")
        assert [item["enabled"] for item in caller.json["systems"][0]["menus"]] == [False, False]
        assert caller.values(b"x-gateway-degraded") == [b"iam; mode=partial", b"upstream; mode=stale; age=0"]

    async def test_never_somebody_elses(self, world):
        await world.call("/registry/navigation")
        world.systems["registry"].answer = lambda *_: (503, b"down")
        assert (await world.call("/registry/navigation", who="bob")).status == 503

    async def test_the_routes_own_response(self, kit, tmp_path):
        async with kit.world_of(tmp_path, self.FALLBACK, ["registry"]) as world:
            for answer in ((503, {}), (200, b"x")):
                world.systems["registry"].answer = lambda *_, a=answer: a
                caller = await world.call("/registry/navigation")
                assert (caller.status, caller.json) == (200, {"systems": []})
                assert caller.values(b"x-gateway-degraded") == [b"upstream; mode=fallback"]
            assert world.iam.asked == []
