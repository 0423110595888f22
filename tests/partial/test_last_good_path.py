"""Last good answers through the running gateway: the caller's own, marked with their age, and never somebody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.faults.actors import Fault, Seen, plays, reply
from tests.partial.stage import OPERATOR, Stage, says, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

CALL = """
    deadline: 2s
    timeout: {connect: 300ms, read: 300ms}
    circuit_breaker: {failure_threshold: 100, open_for: 1s}"""
ROUTES = f"""
  - id: reports
    path: /reports/*
    upstream: reports{CALL}
    authorize: ["read {{path.rest}}"]
    on_upstream_failure: {{degrade: stale, max_stale: 1m}}
  - id: brief
    path: /brief
    upstream: reports{CALL}
    authorize: authenticated
    on_upstream_failure: {{degrade: stale, max_stale: 1s}}
  - id: both
    path: /both
    upstream: reports{CALL}
    authorize: ["read thing:both"]
    on_iam_failure: {{degrade: stale, max_stale: 1m}}
    on_upstream_failure: {{degrade: stale, max_stale: 1m}}
  - id: user-audit
    path: /audit/{{email}}{CALL}
    authorize: authenticated
    on_upstream_failure: {{degrade: stale, max_stale: 1m}}
    aggregate:
      include: data
      systems:
        Workday: {{upstream: workday, path: "/w/{{path.email}}", found_field: w}}
        Reports: {{upstream: reports, path: "/r/{{path.email}}", found_field: r}}
        Never: {{upstream: never, path: "/n/{{path.email}}", found_field: n, on_upstream_failure: error}}
  - id: navigation
    path: /navigation{CALL}
    authorize: authenticated
    on_upstream_failure: {{degrade: stale, max_stale: 1m}}
    navigation: {{upstream: reports, items: /menus/*, check: "read {{item.resource}}"}}
""".replace("read {path.rest}", "read system:reports")
OUTAGES = {
    "down": None,
    "hang": Fault(lambda _: (), "hang"),
    "garbage": plays(b"garbage\r\n\r\n", end="fin"),
    "502": plays(reply(b"theirs", "502 Bad")),
    "503": plays(reply(b"theirs", "503 Busy")),
    "504": plays(reply(b"theirs", "504 Late")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("copies"), ROUTES, ["reports", "workday", "never"]) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def fresh(world: Stage) -> None:
    await world.reset()
    world.systems["reports"].behave = says({"is": "good"}, "200 OK", "ETag: 1", "X-Kept: a", "X-Kept: b")


async def outage(world: Stage, fault: Fault | None = None, name: str = "reports") -> None:
    if fault is None:
        await world.systems[name].stop()
    world.systems[name].fault = fault


def mark(answer: httpx.Response) -> str | None:
    return answer.headers.get("x-gateway-degraded")


def is_error(answer: httpx.Response, *codes: str) -> None:
    assert answer.status_code in (502, 503, 504)
    assert mark(answer) is None
    assert answer.json()["code"] in (codes or ("upstream_unreachable",))


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_an_outage_is_answered_by_the_callers_last_good_answer_with_its_age(world: Stage, fault: Any) -> None:
    good = await world.get("/reports/7?a=b")
    await outage(world, fault)
    last = await world.get("/reports/7?a=b")
    assert (last.status_code, last.content) == (200, good.content)
    assert mark(last) in ("upstream; mode=stale; age=0", "upstream; mode=stale; age=1")
    assert last.headers["age"] in ("0", "1")
    kept = [(name, value) for name, value in last.headers.multi_items() if name in ("x-kept", "etag", "content-type")]
    assert kept == [("content-type", "application/json"), ("etag", "1"), ("x-kept", "a"), ("x-kept", "b")]
    head = await world.client.head("/reports/7?a=b", headers=world.who())
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(good.content)))
    for other in ("/reports/7", "/reports/7?a=c", "/reports/8"):
        assert mark(await world.get(other)) is None


async def test_it_is_never_somebody_elses_and_only_for_a_permit_of_now(world: Stage) -> None:
    assert (await world.get("/reports/7")).status_code == 200
    await outage(world)
    is_error(await world.get("/reports/7", "bob"))
    assert (await world.client.get("/reports/7")).status_code == 401
    is_error(await world.get("/reports/7", host="elsewhere.example"))
    world.denied.add("alice read system:reports")
    assert (await world.get("/reports/7")).status_code == 403
    await world.iam.stop()
    assert (await world.get("/reports/7")).json()["code"] == "iam_unreachable"


async def test_two_degraded_halves_do_not_make_a_whole(world: Stage) -> None:
    """A permit of before and an answer of before: each alone is served, together they are not."""
    await world.get("/both")
    await world.iam.stop()
    assert mark(await world.get("/both")) == "iam; mode=stale; age=0"
    await outage(world)
    is_error_answer = await world.get("/both")
    assert (is_error_answer.status_code, is_error_answer.json()["code"]) == (502, "upstream_unreachable")
    await world.iam.start()
    world.iam.seen.clear()
    for _ in range(30):
        last = await world.get("/both")
        if last.status_code == 200:
            break
        await asyncio.sleep(0.1)
    assert (mark(last) or "").startswith("upstream; mode=stale; age=")


@pytest.mark.parametrize(
    ("fields", "request_fields"),
    [
        (["Cache-Control: max-age=60, no-store"], {}),
        (["Cache-Control: No-Store"], {}),
        (["Set-Cookie: session=1"], {}),
        (["Vary: *"], {}),
        ([], {"cache-control": "no-store"}),
    ],
    ids=["no-store", "No-Store", "set-cookie", "vary-all", "asked-not-to"],
)
async def test_what_must_not_be_kept_is_not(world: Stage, fields: list[str], request_fields: dict[str, str]) -> None:
    """And it ends what was kept before."""
    await world.get("/reports/7")
    world.systems["reports"].behave = says({"is": "secret"}, "200 OK", *fields)
    assert (await world.get("/reports/7", **request_fields)).json() == {"is": "secret"}
    await outage(world)
    is_error(await world.get("/reports/7"))


async def test_an_answer_that_broke_off_or_is_too_large_is_not_kept(world: Stage) -> None:
    cut = plays(reply(b"half", length=100), end="fin")
    huge = plays(reply(b"x" * (1 << 20) + b"x"))
    for fault in (cut, huge):
        world.systems["reports"].fault = fault
        try:
            await world.get("/reports/7")
        except httpx.TransportError:
            assert fault is cut
        await outage(world, OUTAGES["503"])
        assert (await world.get("/reports/7")).text == "theirs"


async def test_vary_tells_answers_apart(world: Stage) -> None:
    def language(seen: Seen) -> bytes:
        return says(seen.value("accept-language"), "200 OK", "Vary: Accept-Language")(seen)

    world.systems["reports"].behave = language
    for wanted in ("de", "en"):
        await world.get("/reports/7", **{"accept-language": wanted})
    await outage(world)
    for wanted in ("de", "en"):
        assert (await world.get("/reports/7", **{"accept-language": wanted})).json() == wanted
    is_error(await world.get("/reports/7", **{"accept-language": "fr"}))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_the_systems_no_ends_the_copy(world: Stage, status: int) -> None:
    await world.get("/reports/7")
    world.systems["reports"].fault = plays(reply(b"", f"{status} No"))
    assert (await world.get("/reports/7")).status_code == status
    await outage(world)
    is_error(await world.get("/reports/7"))


async def test_other_errors_pass_and_leave_the_copy(world: Stage) -> None:
    await world.get("/reports/7")
    world.systems["reports"].fault = plays(reply(b"theirs", "500 Broken"))
    assert (await world.get("/reports/7")).text == "theirs"
    await outage(world)
    assert mark(await world.get("/reports/7")) is not None


async def test_changing_something_is_never_answered_by_a_copy_and_ends_it(world: Stage) -> None:
    await world.get("/reports/7")
    assert (await world.post("/reports/7", {})).status_code == 200
    await world.get("/reports/8")
    await outage(world)
    is_error(await world.get("/reports/7"))
    is_error(await world.post("/reports/8", {}))
    assert mark(await world.get("/reports/8")) is not None


async def test_it_grows_older_until_it_is_too_old(world: Stage) -> None:
    await world.get("/brief")
    await world.get("/reports/7")
    await outage(world)
    assert mark(await world.get("/brief")) == "upstream; mode=stale; age=0"
    await asyncio.sleep(1.1)
    is_error(await world.get("/brief"))
    assert mark(await world.get("/reports/7")) == "upstream; mode=stale; age=1"


class TestAggregate:
    async def test_parts_answer_with_their_last_word_where_their_rule_says_so(self, world: Stage) -> None:
        world.systems["workday"].behave = says({"job": "Engineer"})
        whole = (await world.get("/audit/a@b.example")).json()
        assert whole["complete"]
        await outage(world, name="workday")
        await asyncio.sleep(1.0)
        answer = await world.get("/audit/a@b.example")
        after = answer.json()
        assert after["systems_stale"].keys() == {"Workday"}
        age = after["systems_stale"]["Workday"]
        assert age in (1, 2)
        expected = {
            **{name: whole[name] for name in ("email", "systems_checked", "systems_available", "systems_failed")},
            "systems_stale": {"Workday": age},
            **{name: whole[name] for name in list(whole) if name != "email" and not name.startswith("systems_")},
        }
        assert json.dumps(after) == json.dumps(expected)
        assert mark(answer) == f"upstream; mode=stale; age={age}"
        assert answer.headers["cache-control"] == "no-store"
        await outage(world, name="never")
        answer = await world.get("/audit/a@b.example")
        assert answer.json()["failures"] == {"Never": {"code": "upstream_unreachable"}}
        assert mark(answer) == "upstream; mode=partial"

    async def test_never_another_callers_and_gone_with_a_404(self, world: Stage) -> None:
        await world.get("/audit/a@b.example")
        await world.get("/audit/c@d.example")
        world.systems["workday"].fault = plays(reply(b"", "404 Not Found"))
        assert not (await world.get("/audit/c@d.example")).json()["w"]
        await outage(world, name="workday")
        assert (await world.get("/audit/a@b.example", "bob")).json()["systems_failed"] == ["Workday"]
        assert (await world.get("/audit/c@d.example")).json()["systems_failed"] == ["Workday"]
        assert (await world.get("/audit/a@b.example")).json()["systems_failed"] == []


async def test_the_last_navigation_is_marked_by_decisions_of_now(world: Stage) -> None:
    menus = [{"resource": "system:a"}, {"resource": "system:b"}]
    world.systems["reports"].behave = says({"menus": menus})
    assert [item["enabled"] for item in (await world.get("/navigation")).json()["menus"]] == [True, True]
    await outage(world)
    world.denied.add("alice read system:b")
    answer = await world.get("/navigation")
    assert answer.json() == {"menus": [{"resource": "system:a", "enabled": True}]}
    assert (mark(answer) or "").startswith("upstream; mode=stale; age=")
    is_error(await world.get("/navigation", "bob"))


async def test_a_reload_that_sends_the_question_elsewhere_leaves_its_copies_behind(world: Stage) -> None:
    """The same target at another system is another question; what did not change is still there."""
    before = world.gateway.file.read_text()
    after = before.replace(world.systems["reports"].url, world.systems["workday"].url)
    assert after != before
    await world.get("/reports/7")
    for name in ("reports", "workday"):
        await outage(world, OUTAGES["503"], name)
    try:
        for text, served in ((after, False), (before, True)):
            world.gateway.file.write_text(text)
            assert (await world.admin.post("/-/reload", headers=OPERATOR)).json()["reloaded"]
            assert (mark(await world.get("/reports/7")) is not None) is served
    finally:
        world.gateway.file.write_text(before)
