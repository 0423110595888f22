"""The four things to try by hand on the audits of the demo (docs/how-to-audit.md), and what the demo shows besides."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.partial.demo import OPEN_FOR_S, Demo

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to-audit.md").read_text()
SHOWN = {
    name: json.loads(text) for name, text in re.findall(r"^```json (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
}
JOHN = "/audit/users/john.doe@wheels.com"
DEVICE = "/audit/devices/LT-0042"
RETRY = r"^(\S+) WARNING \[resilience\] \[Workday\] Retry attempt (\d)/3 \((\w+)\)$"
VOLATILE = {"retry_after": 7, "response_time_ms": 3, "timestamp": "2026-04-13T14:30:00Z"}


def as_shown(document: Any) -> str:
    """The document with its order of members, and without what differs from run to run."""
    if isinstance(document, str):
        document = json.loads(document)

    def steady(members: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: VOLATILE.get(name, value) for name, value in members}

    return json.dumps(json.loads(json.dumps(document), object_pairs_hook=steady))


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def whole(demo: Demo) -> AsyncIterator[None]:
    """Every test begins and ends with all systems up and every circuit closed."""
    yield
    for name in ("workday", "ad", "entra", "lansweeper"):
        await demo.set(name, "ok")
    for name in ("Workday", "ActiveDirectory", "Entra"):
        for what in ("open", "close", "auto"):  # a change of state forgets what was counted
            reply = await demo.admin.post(f"/breakers/user-audit.{name}/{what}", headers={"x-gateway-admin": "1"})
            assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(("path", "name"), [(JOHN, "user-audit"), (DEVICE, "device-audit")])
async def test_both_audits_answer_as_the_page_shows(demo: Demo, path: str, name: str) -> None:
    reply = await demo.get(path)
    assert reply.status_code == 200
    assert as_shown(reply.text) == as_shown(SHOWN[name])
    assert "x-gateway-degraded" not in reply.headers
    assert reply.headers["cache-control"] == "private, no-cache"


async def test_degradation_a_killed_system_is_named_and_the_others_are_shown(demo: Demo) -> None:
    await demo.set("workday", "down")
    reply = await demo.get(JOHN)
    assert reply.status_code == 200
    assert reply.headers["x-gateway-degraded"] == "upstream; mode=partial"
    assert reply.headers["cache-control"] == "no-store"
    assert as_shown(reply.text) == as_shown(SHOWN["degraded"])


async def test_killing_systems_one_by_one_changes_what_failed_and_nothing_else(demo: Demo) -> None:
    before = (await demo.get(JOHN)).json()
    names = {"workday": "Workday", "ad": "ActiveDirectory", "entra": "Entra"}
    for count, name in enumerate(names, 1):
        await demo.set(name, "down")
        reply = await demo.get(JOHN)
        failed = list(names.values())[:count]
        if count == len(names):
            assert (reply.status_code, reply.json()["code"]) == (503, "upstream_error")
            assert reply.headers["retry-after"] == str(reply.json()["retry_after"])
            assert reply.json()["retry_after"] in (1, 2)
            break
        after = reply.json()
        assert after["systems_failed"] == failed
        assert after["failures"] == {system: {"code": "upstream_unreachable"} for system in failed}
        assert after["systems_checked"] == before["systems_checked"]
        assert after["systems_available"] == [s for s in before["systems_checked"] if s not in failed]
        for system, field in (("Workday", "workday_found"), ("ActiveDirectory", "ad_found"), ("Entra", "entra_found")):
            assert after[field] is (None if system in failed else True)
        pairs = [d for d in before["discrepancies"] if not {d["system_a"], d["system_b"]} & set(failed)]
        assert after["discrepancies"] == pairs
        assert after["discrepancy_count"] == len(pairs)
    for name in names:
        await demo.set(name, "ok")
    assert (await demo.get(JOHN)).json() == before


async def test_breaker_after_five_failed_audits_the_sixth_is_told_at_once_and_one_trial_closes_it(demo: Demo) -> None:
    await demo.set("workday", "down")
    since = len(demo.errors)
    for _ in range(5):
        assert (await demo.get(JOHN)).json()["failures"] == {"Workday": {"code": "upstream_unreachable"}}
    assert await demo.circuit("user-audit.Workday") == "open"
    assert await demo.circuit("user-audit.Entra") == "closed"
    opened = (
        r"\[resilience\] \[user-audit\.Workday\] Circuit CLOSED → OPEN \(5 consecutive failures, last: upstream_unrea"
    )
    await demo.lines(opened, 1, since)
    tried = len(await demo.lines(RETRY, 10, since))
    sixth = await demo.get(JOHN)
    assert as_shown(sixth.text) == as_shown(SHOWN["circuit-open"])
    assert 1 <= sixth.json()["failures"]["Workday"]["retry_after"] <= OPEN_FOR_S * 1.2 + 1
    assert len(re.findall(RETRY, demo.errors[since:].decode(), re.MULTILINE)) == tried == 10
    await demo.set("workday", "ok")
    end = time.monotonic() + 20
    while (await demo.get(JOHN)).json()["systems_failed"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    assert await demo.circuit("user-audit.Workday") == "closed"
    await demo.lines(r"\[user-audit\.Workday\] Circuit OPEN → HALF_OPEN", 1, since)
    await demo.lines(r"\[user-audit\.Workday\] Circuit HALF_OPEN → CLOSED", 1, since)


@pytest.mark.parametrize(("mode", "code"), [("down", "upstream_unreachable"), ("errors", "http_500")])
async def test_retry_three_attempts_with_growing_pauses_each_in_the_log(demo: Demo, mode: str, code: str) -> None:
    await demo.set("workday", mode)
    since = len(demo.errors)
    began = time.time()
    reply = await demo.get(JOHN)
    lines = await demo.lines(RETRY, 2, since)
    assert [(line[2], line[3]) for line in lines] == [("2", code), ("3", code)]
    second, third = (datetime.fromisoformat(line[1]).timestamp() for line in lines)
    assert second - began >= 0.25 - 0.01  # 500 ms less a jitter of at most half
    assert third - second >= 0.5 - 0.01  # a second, the same
    shown = {"code": "upstream_error", "status": 500} if mode == "errors" else {"code": code}
    assert reply.json()["failures"]["Workday"] == shown


async def test_health_names_what_is_ill_and_requires_what_is_asked(demo: Demo) -> None:
    await asyncio.sleep(1.0)  # answers are shared for a second
    await demo.set("workday", "down")
    whole = (await demo.admin.get("/health/systems")).json()
    assert list(whole) == ["timestamp", "systems", "summary"]
    assert list(whole["systems"]) == [
        *("iam", "inventory", "monitoring", "registry", "workday", "ad", "entra", "lansweeper", "intune", "helix")
    ]
    ill = whole["systems"]["workday"]
    assert re.fullmatch(r"connect 127\.0\.0\.1:\d+: refused", ill.pop("cause"))
    assert ill == {"available": False, "error": "connection refused", "circuit": "closed"}
    assert list(whole["systems"]["iam"]) == ["available", "response_time_ms", "circuit"]
    assert json.dumps(whole["summary"]) == json.dumps(
        {"total_systems": 10, "available_systems": 9, "unavailable_systems": 1, "availability_percentage": 90}
    )
    route = await demo.get("/health/systems", "mallory")  # any caller who is known
    assert list(route.json()) == list(whole)
    assert (await demo.client.get("/health/systems")).status_code == 401


async def test_the_health_command_shows_a_table_or_json_and_exits_1_below_what_is_required(demo: Demo) -> None:
    await demo.set("workday", "down")
    await asyncio.sleep(1.0)
    ask = ("health", "--admin", demo.state["admin"], "--require", "80")
    code, out, err = await demo.command(*ask)
    assert (code, err) == (0, "")
    assert re.search(r"^workday\tDOWN\tconnect.*refused.*\tclosed\t$", out, re.MULTILINE)
    assert out.endswith("9 of 10 systems available (90 %)\n")
    for name in ("ad", "entra"):
        await demo.set(name, "down")
    await asyncio.sleep(1.0)
    code, out, err = await demo.command(*ask, "--output", "json")
    assert code == 1
    assert json.loads(out)["summary"]["availability_percentage"] == 70
    assert err == "70 % of the systems are available, 80 % are required\n"


async def test_many_people_in_one_request_and_one_who_is_sealed(demo: Demo) -> None:
    emails = ["john.doe@wheels.com", "sealed.person@wheels.com", "nobody@wheels.com"]
    reply = await demo.client.post("/audit/users", json={"emails": emails}, headers=demo.token("alice"))
    document = reply.json()
    assert list(document) == ["results", "summary"]
    assert document["results"][0] == (await demo.get(JOHN)).json()
    assert document["results"][1] == {"email": "sealed.person@wheels.com", "denied": True}
    assert document["results"][2]["systems_available"] == ["Workday", "ActiveDirectory", "Entra"]
    assert document["results"][2]["workday_found"] is False
    assert as_shown(document["summary"]) == as_shown(SHOWN["bulk-summary"])
    assert (await demo.client.post("/audit/users", json={"emails": emails}, headers=demo.token("bob"))).json()[
        "summary"
    ]["denied"] == 3


async def test_a_list_in_pages_is_followed_through_the_gateway(demo: Demo) -> None:
    """Every link leads to the gateway, and ends with the last page; who may not audit sees none of it."""
    people: list[str] = []
    link: str | None = "/v1.0/users"
    pages = 0
    while link:
        assert link.startswith(("/", demo.state["gateway"] + "/"))
        page = (await demo.get(link)).json()
        people += [person["mail"] for person in page["value"]]
        link, pages = page.get("@odata.nextLink"), pages + 1
    assert (len(people), len(set(people)), pages) == (7, 7, 3)
    assert (await demo.get("/v1.0/users?$top=x")).status_code == 400
    assert (await demo.get("/v1.0/users", "bob")).status_code == 403


async def test_a_graphql_system_that_has_nothing_and_one_that_is_ill(demo: Demo) -> None:
    reply = (await demo.get("/audit/devices/LT-0044")).json()
    assert reply["systems_available"] == ["Lansweeper", "Intune", "Helix"]
    assert (reply["lansweeper_found"], reply["intune_found"], reply["helix_found"]) == (False, True, False)
    await demo.set("lansweeper", "errors")
    ill = (await demo.get(DEVICE)).json()
    assert ill["failures"] == {"Lansweeper": {"code": "upstream_error", "status": 500}}
    assert (ill["lansweeper_found"], ill["intune_found"], ill["helix_found"]) == (None, True, True)


async def test_who_may_not_audit_is_denied_before_any_system_is_asked(demo: Demo) -> None:
    reply = await demo.get(JOHN, "bob")
    assert (reply.status_code, reply.json()["code"]) == (403, "iam_denied")
    assert "retry-after" not in reply.headers


async def test_a_drill_of_a_system_that_there_is_not_names_those_that_there_are(demo: Demo) -> None:
    code, out, err = await demo.command("drill", "upstream-down", "--system", "nobody", "--for", "1s")
    assert (code, out) == (1, "")
    assert err.startswith("the demo has no 'nobody': inventory, monitoring, registry, workday, ")
