"""Step 3: permitted only by what the contract names, refused with the true cause, written down once."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.errors import GatewayError
from gateway.model.permit import Decision, Fallback, Outcome
from gateway.model.route import FallbackResponse, IamFailureMode, IamFailureRule
from gateway.model.settings import CacheSettings
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN

STALE = IamFailureRule(mode=IamFailureMode.STALE, max_stale_s=60)
LOCAL = IamFailureRule(mode=IamFailureMode.LOCAL)
ALLOW = IamFailureRule(mode=IamFailureMode.ALLOW)
FALLBACK = IamFailureRule(mode=IamFailureMode.FALLBACK, response=FallbackResponse(200, b"{}"))
DEGRADING = [
    "iam_circuit_open",
    "iam_timeout",
    "iam_unreachable",
    "iam_error",
    "iam_invalid_response",
    "iam_auth_error",
]


async def refused(bench, *args, **more):
    with pytest.raises(GatewayError) as error:
        await bench.ask(*args, **more)
    return error.value


async def test_public_asks_nobody_and_needs_nobody(bench, kit):
    route = kit.route(kit.PUBLIC)
    permit = await bench.authorizer(route).authorize(
        kit.request(), route, None, Deadline.after(5), bench.record, NO_SPAN
    )
    assert (permit.outcome, permit.source, permit.subject) == ("allow", "public", None)
    assert bench.iam.asked == []
    assert bench.record.authz_outcome == ""


async def test_authenticated_needs_a_subject_and_asks_nobody(bench, kit):
    permit = await bench.ask(kit.route(kit.AUTHENTICATED))
    assert (permit.outcome, permit.source, permit.subject.id) == ("allow", "authenticated", "alice")
    assert bench.iam.asked == []


@pytest.mark.parametrize("access", ["AUTHENTICATED", "CHECKS"])
async def test_without_a_subject_nothing_but_public_is_permitted(bench, kit, access):
    route = kit.route(kit.AUTHENTICATED if access == "AUTHENTICATED" else kit.checks("read system:inventory"))
    with pytest.raises(GatewayError) as error:
        await bench.authorizer(route).authorize(kit.request(), route, None, Deadline.after(5), bench.record, NO_SPAN)
    assert error.value.code == "internal_error"
    assert bench.iam.asked == []


async def test_all_checks_are_asked_in_one_call(bench, kit):
    route = kit.route(kit.checks("write system:inventory", "{method} route:{route.path}", "see user:{subject.id}"))
    permit = await bench.ask(route, kit.request("POST"))
    [call] = bench.iam.asked
    assert [json.loads(question.document) for question in call] == [
        {"subject": {"type": "identity", "id": "alice"}, "action": {"name": action}, "resource": resource}
        for action, resource in (
            ("write", {"type": "system", "id": "inventory"}),
            ("POST", {"type": "route", "id": "/inventory/*"}),
            ("see", {"type": "user", "id": "alice"}),
        )
    ]
    assert (permit.outcome, permit.source, permit.degraded) == ("allow", "iam", None)


async def test_the_permit_holds_the_very_request_that_was_asked_about(bench, kit):
    """Invariant 4."""
    request = kit.request()
    permit = await bench.ask(kit.route(kit.checks("read system:inventory")), request)
    assert permit.request is request


async def test_a_denial_is_403_and_wins_over_what_stayed_open(bench, kit):
    bench.iam.answers = {"read system:a": kit.fault(), "read system:b": kit.DENIED}
    route = kit.route(kit.checks("read system:a", "read system:b"), ALLOW)
    error = await refused(bench, route)
    assert (error.code, error.kind.status, error.retry_after_s) == ("iam_denied", 403, None)
    assert error.reason == "denied: read system:b"
    assert bench.observer.decisions == [("inventory", "deny", "iam_denied", "iam")]


async def test_void_credentials_are_401_whatever_else_was_said(bench, kit):
    bench.iam.answers = {
        "read system:a": kit.DENIED,
        "read system:b": Decision(Outcome.DENY, unauthenticated=True),
        "read system:c": kit.fault(),
    }
    error = await refused(bench, kit.route(kit.checks("read system:a", "read system:b", "read system:c"), ALLOW))
    assert error.code == "unauthenticated"
    assert error.headers[0][0] == b"www-authenticate"


@pytest.mark.parametrize("code", DEGRADING)
async def test_fail_closed_answers_iams_failure_with_its_own_code(bench, kit, code):
    bench.iam.default = kit.fault(code)
    error = await refused(bench, kit.route(kit.checks("read system:inventory")))
    assert (error.code, error.kind.status, error.retry_after_s) == (code, 503, 7)
    assert bench.observer.decisions == [("inventory", "unknown", code, "iam")]
    assert bench.record.authz_outcome == "unknown"


@pytest.mark.parametrize("rule", [STALE, LOCAL, ALLOW, FALLBACK], ids=lambda rule: rule.mode)
@pytest.mark.parametrize(
    ("code", "isolated"), [("iam_overloaded", False), ("iam_rejected", False), ("iam_error", True)]
)
async def test_what_a_client_can_cause_never_degrades(bench, kit, rule, code, isolated):
    """DG03, DG04: our own overload, a rejected question, a question that fails alone."""
    route = kit.route(kit.checks("read system:a", "read system:b"), rule)
    await bench.ask(route)
    bench.iam.answers = {"read system:a": kit.fault("iam_timeout"), "read system:b": kit.fault(code, isolated=isolated)}
    error = await refused(bench, route)
    assert error.code == code
    assert bench.local.asked == []


async def test_stale_serves_the_known_permit_and_says_the_oldest_age(bench, kit):
    route = kit.route(kit.checks("read system:a", "read system:b"), STALE)
    bench.iam.answers = {"read system:b": kit.fault()}
    await refused(bench, route)
    bench.clock.now += 10
    bench.iam.answers = {}
    await bench.ask(route)
    bench.clock.now += 12
    bench.iam.answers = {"read system:a": kit.fault()}
    permit = await bench.ask(route)
    assert (permit.outcome, permit.source, permit.degraded) == ("stale", "stale", "stale")
    assert (permit.age_s, permit.code) == (12, "iam_circuit_open")
    assert bench.observer.modes == [("inventory", "stale")]
    assert bench.record.degraded == "stale"


async def test_stale_needs_a_permit_for_every_open_question(bench, kit):
    bench.iam.answers = {"read system:b": kit.DENIED}
    route = kit.route(kit.checks("read system:a", "read system:b"), STALE)
    await refused(bench, route)
    bench.iam.answers, bench.iam.default = {}, kit.fault()
    assert (await refused(bench, route)).code == "iam_circuit_open"


@pytest.mark.parametrize(("age", "status"), [(59.9, 200), (60, 503)])
async def test_stale_ends_at_max_stale(bench, kit, age, status):
    route = kit.route(kit.checks("read system:a"), STALE)
    await bench.ask(route)
    bench.clock.now += age
    bench.iam.default = kit.fault()
    if status == 200:
        assert (await bench.ask(route)).age_s == pytest.approx(age)
    else:
        assert (await refused(bench, route)).kind.status == 503


async def test_stale_is_for_exactly_this_subject_and_question(bench, kit):
    route = kit.route(kit.checks("{method} system:a"), STALE)
    await bench.ask(route)
    bench.iam.default = kit.fault()
    assert (await refused(bench, route, who=kit.subject("bob"))).code == "iam_circuit_open"
    assert (await refused(bench, route, kit.request("DELETE"))).code == "iam_circuit_open"


async def test_a_stale_permit_never_outlives_its_token(bench, kit):
    route = kit.route(kit.checks("read system:a"), STALE)
    who = kit.subject(expires_at_s=bench.wall.now + 5)
    await bench.ask(route, who=who)
    bench.wall.now += 5
    bench.iam.default = kit.fault()
    assert (await refused(bench, route, who=who)).code == "iam_circuit_open"


@pytest.mark.parametrize("local", ["ALLOWED", "DENIED", "UNKNOWN"])
async def test_local_decides_only_what_iam_left_open(bench, kit, local):
    bench.iam.answers = {"read system:b": kit.fault()}
    bench.local.default = {"ALLOWED": kit.ALLOWED, "DENIED": kit.DENIED, "UNKNOWN": kit.fault("iam_error")}[local]
    route = kit.route(kit.checks("read system:a", "read system:b"), LOCAL)
    if local == "ALLOWED":
        permit = await bench.ask(route)
        assert (permit.outcome, permit.source, permit.degraded) == ("local", "local", "local")
        assert permit.code == "iam_circuit_open"
    else:
        error = await refused(bench, route)
        assert error.code == ("iam_denied" if local == "DENIED" else "iam_circuit_open")
        assert dict(error.headers) == ({b"x-gateway-degraded": b"iam; mode=local"} if local == "DENIED" else {})
    assert [[question.check.resource["id"] for question in call] for call in bench.local.asked] == [["b"]]


async def test_what_the_embedded_policies_said_is_not_remembered_as_iams(bench, kit):
    bench.iam.default = kit.fault()
    await bench.ask(kit.route(kit.checks("read system:a"), LOCAL))
    assert len(bench.cache) == 0


async def test_fallback_is_an_answer_instead_of_forwarding(bench, kit):
    bench.iam.default = kit.fault()
    verdict = await bench.ask(kit.route(kit.checks("read system:a"), FALLBACK))
    assert verdict == Fallback(FALLBACK.response, "iam_circuit_open")
    assert (verdict.outcome, verdict.degraded) == ("fallback", "fallback")


async def test_allow_forwards_marked(bench, kit):
    bench.iam.default = kit.fault()
    permit = await bench.ask(kit.route(kit.checks("read system:a"), ALLOW))
    assert (permit.outcome, permit.degraded, permit.source) == ("fail_open", "allow", "iam")
    assert bench.observer.decisions == [("inventory", "fail_open", "iam_circuit_open", "iam")]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_allow_never_means_more_than_get_and_head(bench, kit, method):
    """DG06."""
    bench.iam.default = kit.fault()
    error = await refused(bench, kit.route(kit.checks("read system:a"), ALLOW), kit.request(method))
    assert error.code == "iam_circuit_open"


@pytest.mark.parametrize("rule", [LOCAL, ALLOW], ids=lambda rule: rule.mode)
async def test_nobody_is_let_in_by_us_who_was_not_authenticated_by_us(bench, kit, rule):
    bench.iam.default = kit.fault()
    error = await refused(bench, kit.route(kit.checks("read system:a"), rule), who=kit.subject(identified=False))
    assert error.code == "iam_circuit_open"
    assert bench.local.asked == []


async def test_when_the_deadline_is_over_nothing_degrades(bench, kit):
    bench.iam.default = kit.fault("iam_error")
    error = await refused(bench, kit.route(kit.checks("read system:a"), ALLOW), deadline=Deadline.after(0))
    assert error.code == "iam_timeout"


async def test_iam_back_means_decided_normally_at_once(bench, kit):
    """DG08."""
    route = kit.route(kit.checks("read system:a"), ALLOW)
    bench.iam.default = kit.fault()
    assert (await bench.ask(route)).degraded == "allow"
    bench.iam.default = kit.DENIED
    assert (await refused(bench, route)).code == "iam_denied"


async def test_the_next_batch_asks_only_what_is_missing(kit):
    bench = kit.Bench(settings=CacheSettings(ttl_s=60))
    await bench.ask(kit.route(kit.checks("read system:a")))
    bench.clock.now += 3
    permit = await bench.ask(kit.route(kit.checks("read system:b", "read system:a", "read system:c")))
    assert [question.check.resource["id"] for question in bench.iam.asked[1]] == ["b", "c"]
    assert permit.source == "iam"
    permit = await bench.ask(kit.route(kit.checks("read system:c", "read system:a")))
    assert (permit.source, permit.age_s, len(bench.iam.asked)) == ("cache", 3, 2)
    assert bench.observer.cached == ["miss", "miss", "hit", "miss", "hit", "hit"]


async def test_without_a_ttl_every_request_asks(bench, kit):
    route = kit.route(kit.checks("read system:a"))
    await bench.ask(route)
    await bench.ask(route)
    assert len(bench.iam.asked) == 2


@pytest.mark.parametrize("answers", [0, 2])
async def test_a_wrong_number_of_decisions_forwards_nothing(bench, kit, answers):
    async def decide(questions, **_):
        return [kit.ALLOWED] * answers

    bench.iam.decide = decide
    assert (await refused(bench, kit.route(kit.checks("read system:a")))).code == "internal_error"


def test_a_route_without_checks_is_refused_at_load(bench, kit):
    """I37: never all([])."""
    with pytest.raises(ValueError, match="empty list"):
        bench.authorizer(kit.route(kit.checks()))


def test_local_rules_need_embedded_policies_at_load(kit):
    bench = kit.Bench(local=None)
    with pytest.raises(ValueError, match="embedded policies"):
        bench.authorizer(kit.route(kit.checks("read system:a"), LOCAL))


async def test_a_shared_fault_is_raised_as_an_error_of_each_request(bench, kit):
    bench.iam.default = kit.fault()
    route = kit.route(kit.checks("read system:a"))
    errors = await asyncio.gather(*(bench.ask(route) for _ in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    assert bench.iam.default.fault.__traceback__ is None


async def test_a_caller_who_leaves_has_no_outcome(bench, kit):
    hang = asyncio.Event()

    async def decide(questions, **_):
        await hang.wait()

    bench.iam.decide = decide
    asking = asyncio.ensure_future(bench.ask(kit.route(kit.checks("read system:a"))))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.observer.decisions == []
    assert bench.record.authz_outcome == ""


async def test_the_deadlines_end_before_the_permit_is_an_iam_timeout_in_the_books(bench, kit):
    async def decide(questions, **_):
        await asyncio.Event().wait()

    bench.iam.decide = decide
    deadline = Deadline.after(0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(deadline.at_s):
            await bench.ask(kit.route(kit.checks("read system:a")), deadline=deadline)
    assert bench.observer.decisions == [("inventory", "unknown", "iam_timeout", "iam")]


class TestRecheck:
    """Open streams are asked about again."""

    @pytest.fixture
    def route(self, kit):
        return kit.route(kit.checks("read system:a"), recheck_s=30)

    async def recheck(self, bench, route, permit):
        await bench.authorizer(route).recheck(permit, Deadline.after(5))

    async def test_asks_the_permits_questions_again(self, bench, route):
        permit = await bench.ask(route)
        await self.recheck(bench, route, permit)
        assert bench.iam.asked[1] == bench.iam.asked[0]

    async def test_a_denial_ends_the_stream(self, bench, kit, route):
        permit = await bench.ask(route)
        bench.iam.default = kit.DENIED
        with pytest.raises(GatewayError, match="iam_denied"):
            await self.recheck(bench, route, permit)

    @pytest.mark.parametrize(("age", "ends"), [(299, False), (300, True)])
    async def test_an_unknown_ends_it_without_a_young_permit(self, bench, kit, route, age, ends):
        permit = await bench.ask(route)
        bench.clock.now += age
        bench.iam.default = kit.fault("iam_overloaded")
        if ends:
            with pytest.raises(GatewayError, match="iam_overloaded"):
                await self.recheck(bench, route, permit)
        else:
            await self.recheck(bench, route, permit)

    async def test_a_stale_rule_says_how_young(self, bench, kit):
        route = kit.route(kit.checks("read system:a"), STALE)
        permit = await bench.ask(route)
        bench.clock.now += 60
        bench.iam.default = kit.fault()
        with pytest.raises(GatewayError, match="iam_circuit_open"):
            await self.recheck(bench, route, permit)

    async def test_public_streams_are_asked_about_never(self, bench, kit):
        route = kit.route(kit.PUBLIC)
        permit = await bench.ask(route)
        await self.recheck(bench, route, permit)
        assert bench.iam.asked == []


async def test_a_long_list_is_asked_in_turns_of_whole_batches(bench, kit):
    """One subject may hold a share of IAM's queue: its own long list must not overflow it."""
    authorizer = bench.authorizer(kit.route(kit.PUBLIC))
    authorizer._at_a_time = 100
    bench.iam.answers = {"read system:207": kit.DENIED}
    questions = kit.route(kit.checks(*(f"read system:{number}" for number in range(250))))
    asked = bench.authorizer(questions)._plans["inventory"]["GET"].questions(kit.request(), kit.subject())
    decisions = await authorizer.decide(asked, deadline=Deadline.after(5), request_id="r", span=NO_SPAN)
    assert [len(call) for call in bench.iam.asked] == [100, 100, 50]
    assert [index for index, decision in enumerate(decisions) if decision.outcome is Outcome.DENY] == [207]
