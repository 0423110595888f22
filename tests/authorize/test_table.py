"""The table of the contract's section 5 as an oracle: no mixture of answers and rules permits more than it says."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import KINDS, GatewayError
from gateway.model.permit import Decision, Fallback, Outcome, Permit
from gateway.model.route import FallbackResponse, IamFailureMode, IamFailureRule
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from tests.support.properties import examples

OWN_FAILURES = {
    "iam_circuit_open", "iam_timeout", "iam_unreachable", "iam_error", "iam_invalid_response", "iam_auth_error"
}  # fmt: skip
NEVER = ["iam_overloaded", "iam_rejected", "overloaded", "bad_request"]
ANSWERS = st.one_of(
    st.sampled_from(["allow", "deny", "void"]),
    st.tuples(st.sampled_from(sorted(OWN_FAILURES) + NEVER), st.booleans()),
)


def decision(answer):
    match answer:
        case "allow":
            return Decision(Outcome.ALLOW)
        case "deny":
            return Decision(Outcome.DENY)
        case "void":
            return Decision(Outcome.DENY, unauthenticated=True)
    code, isolated = answer
    return Decision(Outcome.UNKNOWN, fault=GatewayError(code), isolated=isolated)


def expected(answers, known_ages, local, mode, max_stale_s, method, identified):  # noqa: C901, PLR0911 - a table
    """Straight from the contract: the set of acceptable results as (status or mode)."""
    if "void" in answers:
        return "401"
    if "deny" in answers:
        return "403"
    open_ones = [index for index, answer in enumerate(answers) if answer != "allow"]
    if not open_ones:
        return "allow"
    if any(answers[index][1] or answers[index][0] not in OWN_FAILURES for index in open_ones):
        return "refused"
    match mode:
        case IamFailureMode.FAIL_CLOSED:
            return "refused"
        case IamFailureMode.STALE:
            ages = [known_ages[index] for index in open_ones]
            return "stale" if all(age is not None and age < max_stale_s for age in ages) else "refused"
        case IamFailureMode.LOCAL:
            if not identified:
                return "refused"
            said = [local[index] for index in open_ones]
            if "deny" in said:
                return "403"
            return "local" if all(one == "allow" for one in said) else "refused"
        case IamFailureMode.FALLBACK:
            return "fallback"
        case IamFailureMode.ALLOW:
            return "allow_open" if identified and method in ("GET", "HEAD") else "refused"


@examples(150)
@given(data=st.data())
def test_nothing_is_permitted_that_the_table_does_not_permit(kit, data):
    count = data.draw(st.integers(1, 4), label="checks")
    answers = data.draw(st.lists(ANSWERS, min_size=count, max_size=count), label="iam")
    known_ages = data.draw(
        st.lists(st.none() | st.sampled_from([0.0, 30.0, 60.0, 299.0]), min_size=count, max_size=count), label="known"
    )
    local = data.draw(
        st.lists(st.sampled_from(["allow", "deny", ("iam_error", False)]), min_size=count, max_size=count)
    )
    mode = data.draw(st.sampled_from(IamFailureMode), label="rule")
    method = data.draw(st.sampled_from(["GET", "HEAD", "POST", "DELETE"]))
    identified = data.draw(st.booleans(), label="identified")
    result, bench = asyncio.run(run(kit, answers, known_ages, local, mode, method, identified))
    wanted = expected(answers, known_ages, local, mode, 60.0, method, identified)
    match wanted:
        case "allow":
            assert isinstance(result, Permit)
            assert (result.outcome, result.degraded) == ("allow", None)
        case "fallback":
            assert isinstance(result, Fallback)
        case "stale" | "local":
            assert isinstance(result, Permit)
            assert (result.outcome, result.degraded) == (wanted, wanted)
        case "allow_open":
            assert (result.outcome, result.degraded) == ("fail_open", "allow")
        case "401":
            assert result.code == "unauthenticated"
        case "403":
            assert result.code == "iam_denied"
        case "refused":
            assert isinstance(result, GatewayError)
            assert result.code in KINDS
            assert result.kind.status not in (401, 403)
    assert len(bench.observer.decisions) == 1


async def run(kit, answers, known_ages, local, mode, method, identified):
    bench = kit.Bench()
    names = [f"read system:{index}" for index in range(len(answers))]
    rule = IamFailureRule(mode=mode, max_stale_s=60.0, response=FallbackResponse(200, b"{}"))
    route = kit.route(kit.checks(*names), rule)
    authorizer, who = bench.authorizer(route), kit.subject(identified=identified)
    began = bench.clock.now
    for index, age in enumerate(known_ages):
        if age is not None:
            bench.clock.now = began - age
            question = authorizer._plans["inventory"][method].questions(kit.request(method), who)[index]
            bench.cache.remember([question], [kit.ALLOWED], bench.cache.stamp())
    bench.clock.now = began
    bench.iam.answers = dict(zip(names, map(decision, answers), strict=True))
    bench.local.answers = dict(zip(names, map(decision, local), strict=True))
    try:
        arguments = (kit.request(method), route, who, Deadline.after(60), bench.record, NO_SPAN)
        return await authorizer.authorize(*arguments), bench
    except GatewayError as error:
        return error, bench
