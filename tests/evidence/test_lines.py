"""What a decision's line says, and what it never does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.authorize import Authorizer
from gateway.errors import GatewayError
from gateway.evidence.lines import Lines, holds_hash
from gateway.identity.subjects import token_subject
from gateway.model.permit import DENY, Decision, Outcome
from gateway.model.request import Subject
from gateway.model.route import IamFailureMode, IamFailureRule
from gateway.model.settings import DecisionLogSettings
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from gateway.witness import Decided
from tests.authorize.conftest import AUTHENTICATED, PUBLIC, Bench, checks, fault, request, route, subject

FIELDS = [
    *("time", "request_id", "trace_id", "route", "method", "path", "subject"),
    *("outcome", "source", "code", "age", "reason", "questions"),
]
GUARDED = route(checks("read system:inventory", "as tenant:{header.x-tenant}", "see page:{query.page}"))
OF_SUBJECT = route(checks("read user:{subject.id}", "in group:{claim.group}"))
ASKED = request(target=b"/inventory/7?page=secret-page", headers=[(b"x-tenant", b"secret-tenant")])
STALE = IamFailureRule(mode=IamFailureMode.STALE, max_stale_s=60.0)


class Seen:
    """A witness that remembers."""

    def __init__(self) -> None:
        self.decided: list[Decided] = []

    def saw(self, decided: Decided) -> None:
        self.decided.append(decided)


async def told(bench: Bench, a_route: Any, who: Any = None, asked: Any = ASKED) -> list[Decided]:
    seen = Seen()
    authorizer = Authorizer(
        bench.iam, [a_route], local=bench.local, cache=bench.cache, observer=bench.observer, clock=bench.clock,
        witness=seen,
    )  # fmt: skip
    public = a_route.access["GET"] is PUBLIC
    with contextlib.suppress(GatewayError):
        await authorizer.authorize(
            asked, a_route, None if public else who or subject(), Deadline.after(5), bench.record, NO_SPAN
        )
    return seen.decided


def line(decided: Decided, **settings: Any) -> dict[str, Any]:
    lines = Lines(DecisionLogSettings(path=Path("x"), **settings), wall=lambda: 1_700_000_000.5)
    document: dict[str, Any] = json.loads(lines.line(decided))
    return document


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_line_has_the_promised_fields(bench: Bench) -> None:
    bench.record.trace_id = "t-1"
    (decided,) = await told(bench, GUARDED)
    shown = line(decided)
    assert list(shown) == FIELDS
    assert shown | {"questions": []} == {
        "time": "2023-11-14T22:13:20.500Z",
        "request_id": "r-1",
        "trace_id": "t-1",
        "route": "inventory",
        "method": "GET",
        "path": "/inventory/*",
        "subject": {"type": "identity", "id": "alice"},
        "outcome": "allow",
        "source": "iam",
        "code": None,
        "age": 0.0,
        "reason": None,
        "questions": [],
    }
    assert shown["questions"][1] == {
        "action": {"name": "as"},
        "resource": {"type": "tenant", "id": "secret-tenant"},
        "decision": True,
        "source": "iam",
        "code": None,
    }


async def test_properties_are_written_of_a_plain_subject_and_only_when_asked_for(bench: Bench) -> None:
    who = Subject("identity", "alice", "k", "{}", properties={"role": "clerk"}, claims={"group": "sales"})
    (decided,) = await told(bench, GUARDED, who)
    bare = {"type": "identity", "id": "alice"}
    assert line(decided)["subject"] == bare
    assert line(decided, properties=True)["subject"] == {**bare, "properties": {"role": "clerk"}}
    assert "clerk" not in json.dumps(line(decided, properties=True, subject="hash", key="k"))
    assert line(decided, properties=True, subject="none")["subject"] is None
    (without,) = await told(bench, GUARDED)
    assert line(without, properties=True)["subject"] == bare


async def test_denied_is_false_and_unknown_is_null(bench: Bench) -> None:
    bench.iam.answers = {"read system:inventory": DENY, "as tenant:secret-tenant": fault("iam_timeout")}
    (decided,) = await told(bench, GUARDED)
    shown = line(decided)
    assert (shown["outcome"], shown["code"]) == ("deny", "iam_denied")
    assert [(each["decision"], each["code"]) for each in shown["questions"]] == [
        (False, None), (None, "iam_timeout"), (True, None),
    ]  # fmt: skip
    assert shown["reason"] == "denied: read system:inventory"


async def test_a_stand_in_says_that_it_is_one(bench: Bench) -> None:
    a_route = route(checks("read system:inventory"), STALE)
    await told(bench, a_route)
    bench.clock.now += 12
    bench.iam.default = fault()
    (decided,) = await told(bench, a_route)
    shown = line(decided)
    assert (shown["outcome"], shown["source"], shown["code"], shown["age"]) == (
        "stale",
        "stale",
        "iam_circuit_open",
        12,
    )
    assert shown["questions"][0]["source"] == "stale"
    assert shown["questions"][0]["decision"] is True


async def test_public_routes_and_void_tokens_make_no_line(bench: Bench) -> None:
    assert await told(bench, route(PUBLIC)) == []
    bench.iam.default = Decision(Outcome.DENY, unauthenticated=True)
    assert await told(bench, GUARDED, token_subject("s3cret")) == []
    (decided,) = await told(bench, route(AUTHENTICATED))
    assert line(decided)["source"] == "authenticated"


async def test_values_of_headers_and_queries_are_hashed_where_asked(bench: Bench) -> None:
    (decided,) = await told(bench, GUARDED)
    shown = line(decided, values="hash", key="k")
    assert "secret" not in json.dumps(shown)
    assert shown["questions"][0]["resource"]["id"] == "inventory"
    assert holds_hash(shown["questions"][1]["resource"])
    assert shown == line(decided, values="hash", key="k")
    assert shown != line(decided, values="hash", key="another")


@pytest.mark.parametrize("how", ["hash", "none"])
async def test_a_hidden_subject_is_in_no_question_either(bench: Bench, how: str) -> None:
    who = subject("alice-secret", claims={"group": "group-secret"})
    (decided,) = await told(bench, OF_SUBJECT, who)
    shown = line(decided, subject=how, key="k")
    assert "secret" not in json.dumps(shown)
    assert (shown["subject"] is None) == (how == "none")
    assert "secret" in json.dumps(line(decided))


async def test_an_opaque_token_is_hashed_whatever_the_settings_say(bench: Bench) -> None:
    (decided,) = await told(bench, GUARDED, token_subject("s3cret-token"))
    for how in ("plain", "hash", "none"):
        assert "s3cret" not in json.dumps(line(decided, subject=how, key="k"))
    assert line(decided, key="k")["subject"]["type"] == "token"


def test_a_hash_is_known_again_wherever_it_stands() -> None:
    assert holds_hash({"id": ["a", f"tenant-hmac-sha256:{'0' * 32}"]})
    assert holds_hash("hmac-sha256:-")
    assert not holds_hash({"id": "hmac", "n": 1, "x": None})
