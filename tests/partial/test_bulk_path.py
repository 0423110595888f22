"""Bulk audits through the running gateway: each item as it is ready, nothing more once the caller has left."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Caller, Seen, as_json, plays, reply
from tests.partial.stage import Stage, asked_of, eventually, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
  - id: user-audit
    path: /audit/users/{email}
    deadline: 5s
    timeout: {connect: 400ms, read: 4s}
    authorize: ["audit user:{path.email}"]
    aggregate:
      require: 1
      systems:
        Workday: {upstream: workday, path: "/w/{path.email}", found_field: workday_found}
        Entra:
          {upstream: entra, path: "/e/{path.email}", found_field: entra_found, authorize: ["read mail:{path.email}"]}
      compare: [{field: job, severity: low, values: {Workday: /job, Entra: /job}}]
      bulk: {path: /audit/users, items: /emails, param: email, max_items: 300, concurrency: 4}
"""
LINES = {"accept": "application/x-ndjson"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("bulk"), ROUTES, ["workday", "entra"]) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def fresh(world: Stage) -> None:
    await world.reset()
    world.systems["workday"].behave = lambda _: as_json({"job": "Engineer"})
    world.systems["entra"].behave = lambda _: as_json({"job": "Analyst"})


async def test_every_kind_of_item_in_order_with_a_summary(world: Stage) -> None:
    """Whole documents: as by the single route, partial, denied, denied in one system, failed, unusable."""
    world.denied |= {"alice audit user:denied", "alice read mail:half"}

    def workday(seen: Seen) -> bytes:
        if seen.target == "/w/gone":
            return reply(b"", "404 Not Found")
        return reply(b"<html>") if seen.target in ("/w/ill", "/w/worse") else as_json({"job": "Engineer"})

    world.systems["workday"].behave = workday
    world.systems["entra"].behave = lambda seen: reply(
        b'{"job": "Analyst"}', "500 Broken" if seen.target == "/e/worse" else "200 OK"
    )
    emails = ["whole", "denied", "half", "ill", "worse", "gone", "x" * 2000, "whole"]
    answer = await world.post("/audit/users", {"emails": emails})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    single = (await world.get("/audit/users/whole")).json()
    alone = (await world.get("/audit/users/half")).json()
    ill = (await world.get("/audit/users/ill")).json()
    gone = (await world.get("/audit/users/gone")).json()
    assert alone["systems_denied"] == ["Entra"]
    assert ill["failures"] == {"Workday": {"code": "upstream_protocol_error"}}
    worse = {
        "email": "worse",
        "error": {"code": "upstream_error", "retry_after": answer.json()["results"][4]["error"]["retry_after"]},
        "systems_failed": ["Workday", "Entra"],
        "failures": {
            "Workday": {"code": "upstream_protocol_error"},
            "Entra": {"code": "upstream_error", "status": 500},
        },
    }
    expected = {
        "results": [
            single,
            {"email": "denied", "denied": True},
            alone,
            ill,
            worse,
            gone,
            {"email": "x" * 2000, "error": {"code": "bad_request"}},
            single,
        ],
        "summary": {"total": 8, "complete": 4, "partial": 1, "failed": 2, "denied": 1, "discrepancies": 2},
    }
    assert json.dumps(answer.json()) == json.dumps(expected)
    assert worse["error"]["retry_after"] in (1, 2)
    assert (await world.log_line(answer))["degraded"] == "partial"


async def test_all_items_are_asked_of_iam_together_and_each_once(world: Stage) -> None:
    emails = [f"person-{number}" for number in range(100)]
    await world.post("/audit/users", {"emails": [*emails, *emails]})
    asked = [question for call in asked_of(world.iam) for question in call]
    assert sorted(asked) == sorted(f"alice {what}:{email}" for email in emails for what in ("audit user", "read mail"))
    assert len(world.iam.seen) == 200 / 50


async def test_lines_come_as_they_are_ready_and_the_stream_ends_when_all_are_there(world: Stage) -> None:
    gate = asyncio.Event()

    async def held(seen: Seen) -> bytes:
        if seen.target == "/w/slow":
            await gate.wait()
        return as_json({"job": "Engineer"})

    world.systems["workday"].behave = held
    emails = ["slow", *(f"quick-{number}" for number in range(9))]
    body = {"emails": emails}
    lines: list[dict[str, Any]] = []
    async with world.client.stream("POST", "/audit/users", json=body, headers={**world.who(), **LINES}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        async for line in answer.aiter_lines():
            lines.append(json.loads(line))
            if len(lines) == 9:
                assert "slow" not in [one["email"] for one in lines]  # it is not waited for
                gate.set()
    assert lines[-1]["email"] == "slow"
    assert sorted(one["email"] for one in lines) == sorted(emails)
    assert all(one["complete"] for one in lines)


async def test_no_more_at_a_time_than_concurrency_and_none_after_the_caller_has_left(world: Stage) -> None:
    asked: list[str] = []
    at_once = most = 0

    async def slow(seen: Seen) -> bytes:
        nonlocal at_once, most
        asked.append(seen.target)
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        return as_json({"job": "Engineer"})

    world.systems["workday"].behave = slow
    caller = await Caller.to(world.gateway.port)
    body = json.dumps({"emails": [f"person-{number}" for number in range(300)]}).encode()
    asking = asyncio.create_task(caller.ask("/audit/users", method="POST", headers={**world.who(), **LINES}, body=body))
    await eventually(lambda: len(asked) >= 8)
    idle = len(world.systems["workday"].open)
    caller.abort()
    await eventually(lambda: len(world.systems["workday"].open) < idle)  # what was under way was broken off
    left = len(asked)
    await asyncio.sleep(0.5)
    assert len(asked) - left <= 4
    assert most <= 4
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_caller_who_does_not_read_holds_no_more_than_a_few_results(world: Stage) -> None:
    """300 answers of 100 kB: what waits for the caller is bounded by concurrency, not by the list."""
    big = as_json({"job": "x" * 100_000})
    world.systems["workday"].behave = lambda _: big
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, limit=65536)
    body = json.dumps({"emails": [f"person-{number}" for number in range(300)]}).encode()
    fields = {"Host": "gateway.test", "Content-Length": str(len(body)), **world.who(), **LINES}
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"POST /audit/users HTTP/1.1\r\n{text}\r\n".encode() + body)
    await eventually(lambda: len(world.systems["workday"].seen) > 4)
    await asyncio.sleep(1.0)
    waiting = len(world.systems["workday"].seen)
    assert waiting < 200
    await asyncio.sleep(0.5)
    assert len(world.systems["workday"].seen) == waiting
    received = 0
    while chunk := await asyncio.wait_for(reader.read(1 << 20), 20):
        received += len(chunk)
        if chunk.endswith(b"0\r\n\r\n"):
            break
    assert received > 300 * 100_000
    assert len(world.systems["workday"].seen) == 300
    writer.close()


async def test_a_system_that_is_down_costs_its_circuit_and_not_every_item(world: Stage) -> None:
    world.systems["entra"].fault = plays(reply(b"", "503 Broken"))
    await world.quiet()
    began = time.monotonic()
    answer = await world.post("/audit/users", {"emails": [f"p-{n}" for n in range(100)]})
    results = answer.json()["results"]
    assert time.monotonic() - began < 20
    assert {result["systems_available"] == ["Workday"] for result in results} == {True}
    assert len(world.systems["entra"].seen) <= 5 + 4
    assert results[-1]["failures"]["Entra"]["code"] == "upstream_circuit_open"
    line = await world.log_line(answer)
    assert (line["status"], line["degraded"]) == (200, "partial")
    assert re.fullmatch(r"Entra: upstream_circuit_open x9\d, Entra: upstream_error x\d", line["reason"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"emails": "a"}',
        b'{"emails": [1]}',
        b'{"emails": ["a"], "emails": ["b"]}',
        b'{"emails": [' + b'"a",' * 300 + b'"a"]}',
        b'{"emails": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
async def test_what_is_no_list_of_texts_or_too_long_a_one_is_400_and_asks_nobody(world: Stage, body: bytes) -> None:
    answer = await world.client.post("/audit/users", content=body, headers=world.who())
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert world.systems["workday"].seen == []


async def test_a_body_over_a_mebibyte_is_413(world: Stage) -> None:
    answer = await world.client.post("/audit/users", content=b" " * (1 << 20) + b"{}", headers=world.who())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_without_iam_no_item_is_answered(world: Stage) -> None:
    await world.iam.stop()
    answer = await world.post("/audit/users", {"emails": ["a", "b"]})
    assert answer.status_code == 200
    assert [result["error"]["code"] for result in answer.json()["results"]] == ["iam_unreachable"] * 2
    assert answer.json()["summary"]["failed"] == 2
    assert world.systems["workday"].seen == []
