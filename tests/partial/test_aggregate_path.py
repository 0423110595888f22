"""Aggregates through the running gateway: what failed is named, and nothing else changes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Caller, Fault, plays, reply
from tests.partial.stage import Stage, asked_of, eventually, says, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

SYSTEMS = """
        Workday: {upstream: workday, path: "/workers?email={path.email}", found_field: workday_found}
        ActiveDirectory: {upstream: ad, path: "/users/{path.email}", found_field: ad_found}
        Entra: {upstream: entra, path: "/v1.0/users/{path.email}", found_field: entra_found}"""
CALL = """
    deadline: 3s
    timeout: {connect: 400ms, read: 400ms}
    circuit_breaker: {failure_threshold: 3, open_for: 1s}
    authorize: ["audit user:{path.email}"]"""
ROUTES = f"""
  - id: user-audit
    path: /audit/users/{{email}}{CALL}
    aggregate:
      require: 1
      systems:{SYSTEMS}
      compare:
        - field: job_title
          severity: medium
          values: {{Workday: /jobTitle, ActiveDirectory: /title, Entra: /jobTitle}}
  - id: two
    path: /two/{{email}}{CALL}
    aggregate:
      require: 2
      systems:{SYSTEMS}
  - id: named
    path: /named/{{email}}{CALL}
    aggregate:
      require: [Workday]
      systems:{SYSTEMS}
  - id: patient
    path: /patient/{{email}}{CALL}
    retry: {{attempts: 3, backoff: 200ms}}
    aggregate:
      systems: {{Workday: {{upstream: workday, path: "/p/{{path.email}}"}}, Entra: {{upstream: entra, path: /x}}}}
  - id: parts
    path: /parts/{{email}}{CALL}
    aggregate:
      include: data
      systems:
        Workday: {{upstream: workday, path: "/w/{{path.email}}", authorize: ["read system:workday"], found_field: w}}
        Entra: {{upstream: entra, path: "/e/{{path.email}}", authorize: ["read system:entra"], found_field: e}}
        Graph:
          upstream: ad
          method: POST
          path: /graphql
          json: {{query: "{{ person(mail: $$mail) {{ name }} }}", variables: {{mail: "{{path.email}}"}}}}
          found_field: g
  - id: parts-required
    path: /parts-required/{{email}}{CALL}
    aggregate:
      require: [Workday]
      systems:
        Workday: {{upstream: workday, path: "/w/{{path.email}}", authorize: ["read system:workday"]}}
        Entra: {{upstream: entra, path: "/e/{{path.email}}"}}
"""
EMAIL = "john.doe@wheels.com"
JOHN = f"/audit/users/{EMAIL}"
BODIES = {"workday": {"jobTitle": "Senior"}, "ad": {"title": "Senior"}, "entra": {"jobTitle": "Engineer"}}
NAMES = {"workday": "Workday", "ad": "ActiveDirectory", "entra": "Entra"}
HANGS = Fault(lambda _: (), "hang")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = plays(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *([0.1, b"1\r\n \r\n"] * 100))
MEBIBYTE = b" " * 1048576


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("aggregate"), ROUTES, list(NAMES)) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def fresh(world: Stage) -> None:
    await world.reset()
    for name, body in BODIES.items():
        world.systems[name].behave = says(body)


async def shown(world: Stage, path: str = JOHN) -> dict[str, Any]:
    answer = await world.get(path)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("down", {"code": "upstream_unreachable"}),
        (HANGS, {"code": "upstream_timeout"}),
        (plays(reply(b"", "500 Broken")), {"code": "upstream_error", "status": 500}),
        (plays(reply(b"{}", "401 No")), {"code": "upstream_error", "status": 401}),
        (plays(b"SSH-2.0-OpenSSH\r\n", end="fin"), {"code": "upstream_protocol_error"}),
        (plays(reply(b'{"jobTitle":', length=40), end="fin"), {"code": "upstream_protocol_error"}),
    ],
    ids=["down", "hang", "500", "401", "not-http", "cut-off"],
)
async def test_systems_that_fail_one_by_one_are_named_and_nothing_else_changes(
    world: Stage, fault: Any, failure: dict[str, Any]
) -> None:
    before = await shown(world)
    for count, name in enumerate(("workday", "ad"), 1):
        if fault == "down":
            await world.systems[name].stop()
        else:
            world.systems[name].fault = fault
        failed = list(NAMES.values())[:count]
        after = await shown(world)
        pairs = [d for d in before["discrepancies"] if not {d["system_a"], d["system_b"]} & set(failed)]
        expected = before | {
            "systems_available": [name for name in before["systems_checked"] if name not in failed],
            "systems_failed": failed,
            "failures": dict.fromkeys(failed, failure),
            "workday_found": None,
            "ad_found": None if "ActiveDirectory" in failed else True,
            "complete": False,
            "discrepancy_count": len(pairs),
            "discrepancies": pairs,
        }
        assert json.dumps(after) == json.dumps(expected)
    for name in ("workday", "ad"):
        world.systems[name].fault = None
        if fault == "down":
            await world.systems[name].start()
    assert await shown(world) == before


@pytest.mark.parametrize(
    "fault",
    [HANGS, plays(HEAD + b"Content-Length: 20\r\n\r\n{", end="hang"), plays(b"HTTP/1.1 2", end="hang")],
    ids=["silent", "silent-in-the-body", "silent-in-the-head"],
)
async def test_a_system_that_hangs_delays_no_more_than_its_own_timeout(world: Stage, fault: Fault) -> None:
    """And two that hang no more than one."""
    for name in ("workday", "entra"):
        world.systems[name].fault = fault
    began = time.monotonic()
    document = await shown(world)
    assert 0.39 <= time.monotonic() - began < 0.4 + 1.0
    assert document["systems_available"] == ["ActiveDirectory"]
    assert document["failures"] == {name: {"code": "upstream_timeout"} for name in ("Workday", "Entra")}


async def test_a_system_that_drips_for_ever_is_cut_before_the_deadline(world: Stage) -> None:
    world.systems["entra"].fault = DRIPS
    began = time.monotonic()
    document = await shown(world)
    assert time.monotonic() - began < 3 + 1
    assert document["failures"] == {"Entra": {"code": "deadline_exceeded"}}


async def test_404_is_an_answer_and_is_found_nowhere(world: Stage) -> None:
    for name in NAMES:
        world.systems[name].behave = says({"error": "nobody"}, "404 Not Found")
    answer = await world.get(JOHN)
    assert "x-gateway-degraded" not in answer.headers
    document = answer.json()
    assert document["systems_available"] == list(NAMES.values())
    assert [document[f"{name}_found"] for name in ("workday", "ad", "entra")] == [False] * 3
    assert (document["complete"], document["discrepancy_count"]) == (True, 0)


MALFORMED = {
    "html": plays(reply(b"<html>", "200 OK", "Content-Type: text/html")),
    "not-utf-8": plays(reply(b'{"a": "\xff"}')),
    "two-documents": plays(reply(b"{} {}")),
    "not-a-number": plays(reply(b'{"jobTitle": NaN}')),
    "too-large-a-number": plays(reply(b'{"jobTitle": 1e999}')),
    "deep": plays(reply(b"[" * 5000 + b"]" * 5000)),
    "deep-but-readable": plays(reply(b'{"jobTitle":' * 600 + b"1" + b"}" * 600)),
    "gzip": plays(reply(b"\x1f\x8b\x08\x00", "200 OK", "Content-Encoding: gzip")),
    "100-MB": plays(HEAD + b"Content-Length: 104857600\r\n\r\n", *[MEBIBYTE] * 100),
    "100-MB-chunked": plays(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"100000\r\n" + MEBIBYTE + b"\r\n"] * 100),
}


@pytest.mark.parametrize("fault", MALFORMED.values(), ids=MALFORMED)
async def test_a_document_that_cannot_be_read_fails_that_system_alone(world: Stage, fault: Fault) -> None:
    before = memory(world)
    world.systems["entra"].fault = world.systems["workday"].fault = fault
    document = await shown(world)
    assert document["failures"] == {name: {"code": "upstream_protocol_error"} for name in ("Workday", "Entra")}
    assert document["ad_found"]
    assert memory(world) - before < 30_000


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b"42", b'"text"', b"{}", b'{"jobTitle": null}', b'{"jobTitle": {}}', b""]
)
async def test_a_document_of_another_shape_says_null_where_nothing_stands(world: Stage, body: bytes) -> None:
    world.systems["entra"].fault = plays(reply(body))
    document = await shown(world)
    assert (document["complete"], document["entra_found"]) == (True, True)
    value = {} if body == b'{"jobTitle": {}}' else None
    assert [d["value_b"] for d in document["discrepancies"]] == [value, value]


async def test_too_few_and_a_required_one_missing_are_503(world: Stage) -> None:
    world.systems["workday"].fault = plays(reply(b"", "500 Broken"))
    assert (await world.get(f"/two/{EMAIL}")).status_code == 200
    assert (await world.get(f"/named/{EMAIL}")).status_code == 503
    world.systems["ad"].fault = plays(reply(b"", "500 Broken"))
    assert (await world.get(f"/two/{EMAIL}")).status_code == 503
    world.systems["workday"].fault = None
    assert (await world.get(f"/named/{EMAIL}")).json()["systems_failed"] == ["ActiveDirectory"]


class TestAuthorization:
    """The route's checks and all parts' in one call; a part's no is that part's."""

    async def test_a_denied_part_is_named_and_not_asked(self, world: Stage) -> None:
        world.denied.add("alice read system:workday")
        answer = await world.get(f"/parts/{EMAIL}")
        assert json.dumps(answer.json()) == json.dumps(
            {
                "email": EMAIL,
                "systems_checked": ["Entra", "Graph"],
                "systems_available": ["Entra", "Graph"],
                "systems_failed": [],
                "systems_denied": ["Workday"],
                "failures": {},
                "w": None,
                "e": True,
                "g": True,
                "complete": True,
                "discrepancy_count": 0,
                "discrepancies": [],
                "data": {"Entra": BODIES["entra"], "Graph": BODIES["ad"]},
            }
        )
        assert asked_of(world.iam) == [
            [f"alice audit user:{EMAIL}", "alice read system:workday", "alice read system:entra"]
        ]
        assert world.systems["workday"].seen == []
        assert json.loads(world.systems["ad"].seen[0].body) == {
            "query": "{ person(mail: $mail) { name } }",
            "variables": {"mail": EMAIL},
        }

    async def test_a_required_part_denied_and_the_route_denied_are_403(self, world: Stage) -> None:
        world.denied.add("alice read system:workday")
        assert (await world.get(f"/parts-required/{EMAIL}")).json()["code"] == "iam_denied"
        world.denied = {f"alice audit user:{EMAIL}"}
        answer = await world.get(f"/parts/{EMAIL}")
        assert (answer.status_code, "retry-after" in answer.headers) == (403, False)
        assert all(system.seen == [] for system in world.systems.values())

    async def test_without_iam_no_system_is_asked(self, world: Stage) -> None:
        for fault, code in ((HANGS, "iam_timeout"), (plays(reply(b"", "500 Broken")), "iam_error")):
            world.iam.fault = fault
            answer = await world.get(f"/parts/{EMAIL}")
            assert (answer.status_code, answer.json()["code"]) == (503, code)
        assert all(system.seen == [] for system in world.systems.values())


async def test_nothing_of_the_caller_reaches_the_systems(world: Stage) -> None:
    await world.get(
        JOHN,
        **{
            "cookie": "session=secret",
            "x-api-key": "secret",
            "x-auth-subject": "root",
            "proxy-authorization": "secret",
        },
    )
    for system in world.systems.values():
        (seen,) = system.seen
        assert "secret" not in str(seen.headers)
        assert world.issuer.token("alice")[:20] not in str(seen.headers)
        assert {name for name, _ in seen.headers} <= {
            *("host", "via", "x-request-id", "x-auth-subject", "x-forwarded-for", "x-forwarded-proto"),
            *("x-forwarded-host", "accept", "accept-encoding", "traceparent", "tracestate"),
        }
        assert seen.value("x-auth-subject") == "alice"
        assert seen.value("host") == f"127.0.0.1:{system.port}"


async def test_each_system_has_its_own_breaker_and_one_trial_closes_it(world: Stage) -> None:
    workday = world.systems["workday"]
    workday.fault = plays(reply(b"", "503 Broken"))
    await world.quiet()
    for _ in range(3):
        await shown(world)
    states = await world.circuits()
    assert states["user-audit.Workday"] == "open"
    assert {state for name, state in states.items() if name != "user-audit.Workday"} == {"closed"}
    for _ in range(5):
        assert (await shown(world))["failures"]["Workday"]["code"] == "upstream_circuit_open"
    assert len(workday.seen) == 3
    gate = asyncio.Event()

    async def held(_: Any) -> bytes:
        await gate.wait()
        return says(BODIES["workday"])(_)

    workday.fault, workday.behave = None, held
    await asyncio.sleep(1.1)
    asking = [asyncio.create_task(shown(world)) for _ in range(20)]
    await eventually(lambda: sum(task.done() for task in asking) == 19)
    gate.set()
    answers = await asyncio.gather(*asking)
    assert len(workday.seen) == 4
    assert sorted(answer["complete"] for answer in answers) == [False] * 19 + [True]
    assert (await world.circuits())["user-audit.Workday"] == "closed"


async def test_retries_come_after_growing_pauses_and_count_once(world: Stage) -> None:
    at: list[float] = []

    def broken(_: Any) -> bytes:
        at.append(time.monotonic())
        return reply(b"", "503 Broken")

    world.systems["workday"].behave = broken
    document = await shown(world, f"/patient/{EMAIL}")
    assert document["failures"] == {"Workday": {"code": "upstream_error", "status": 503}}
    first, second, third = at
    assert 0.09 <= second - first < 0.2 + 0.3
    assert 0.19 <= third - second < 0.4 + 0.3
    await eventually(lambda: b"[resilience] [Workday] Retry attempt 3/3 (http_503)" in world.gateway.errors)
    breakers = (await world.admin.get("/breakers")).json()["breakers"]
    assert breakers["patient.Workday"]["consecutive_failures"] == 1


async def test_a_caller_who_leaves_ends_what_the_systems_do(world: Stage) -> None:
    for name in NAMES:
        world.systems[name].fault = DRIPS
    caller = await Caller.to(world.gateway.port)
    asking = asyncio.create_task(caller.ask(JOHN, headers=world.who()))
    await eventually(lambda: all(len(world.systems[name].seen) == 1 for name in NAMES))
    held = {name: len(world.systems[name].open) for name in NAMES}
    began = time.monotonic()
    caller.abort()
    await eventually(lambda: all(len(world.systems[name].open) < count for name, count in held.items()))
    assert time.monotonic() - began < 2  # before the deadline
    await asyncio.gather(asking, return_exceptions=True)
    states = (await world.admin.get("/breakers")).json()["breakers"]
    assert states["user-audit.Workday"]["consecutive_failures"] == 0


async def test_the_log_says_why_an_answer_was_partial(world: Stage) -> None:
    await world.systems["workday"].stop()
    world.systems["entra"].fault = plays(reply(b"<html>"))
    world.systems["ad"].fault = plays(reply(b"", "500 Broken"))
    answer = await world.get(f"/parts/{EMAIL}")
    assert answer.status_code == 503
    world.systems["ad"].fault = None
    answer = await world.get(f"/parts/{EMAIL}")
    assert answer.status_code == 200
    line = await world.log_line(answer)
    assert (line["status"], line["degraded"], line["upstream"]) == (200, "partial", "workday,entra,ad")
    assert re.fullmatch(
        r"Workday: upstream_unreachable \(.+\), Entra: upstream_protocol_error \(not JSON: .+\)", line["reason"]
    )
    metrics = (await world.admin.get("/metrics")).text
    assert re.search(r'^gateway_degraded_total\{[^}]*route="parts"[^}]*\} 1(\.0)?$', metrics, re.MULTILINE)


async def test_head_is_answered_like_get_without_the_body(world: Stage) -> None:
    answer = await world.client.head(JOHN, headers=world.who())
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len((await world.get(JOHN)).content)


def memory(world: Stage) -> int:
    """The gateway's resident memory in kB."""
    assert world.gateway.process is not None
    status = Path(f"/proc/{world.gateway.process.pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


async def test_all_failed_is_503_with_the_smallest_useful_retry_after(world: Stage) -> None:
    """Two must answer: the second soonest decides. Then they are held back, and nobody is asked.

    The last test here: what a system said is obeyed for as long as it said.
    """
    await world.quiet()
    for name, seconds in (("workday", 200), ("ad", 20), ("entra", 60)):
        world.systems[name].behave = says({}, "503 Busy", f"Retry-After: {seconds}")
    for code in ("upstream_error", "upstream_circuit_open"):
        answer = await world.get(f"/two/{EMAIL}")
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["route"]) == (503, code, "two")
        assert int(answer.headers["retry-after"]) == problem["retry_after"]
        assert 58 <= problem["retry_after"] <= 72
        assert answer.headers["proxy-status"] == "edge; error=destination_unavailable"
        assert answer.headers["cache-control"] == "no-store"
    assert [len(world.systems[name].seen) for name in NAMES] == [1, 1, 1]
