"""Parts of an aggregate: a part is permitted only by its own checks, and only together with the route's."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.permit import Decision, Outcome, Permit
from gateway.model.route import AggregateAction, IamFailureMode, IamFailureRule, Part
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from gateway.template import parse
from tests.support.properties import examples

ANSWERS = st.sampled_from(["allow", "deny", "timeout", "rejected", "isolated"])
MODES = st.sampled_from([IamFailureMode.FAIL_CLOSED, IamFailureMode.ALLOW, IamFailureMode.STALE])


def decision(answer):
    match answer:
        case "allow" | "deny":
            return Decision(Outcome(answer))
        case "timeout":
            return Decision(Outcome.UNKNOWN, fault=GatewayError("iam_timeout"))
        case "rejected":
            return Decision(Outcome.UNKNOWN, fault=GatewayError("iam_rejected"))
    return Decision(Outcome.UNKNOWN, fault=GatewayError("iam_error"), isolated=True)


def permitted(answer, mode):
    """Nothing is known from before, so only `allow` lets an open question through."""
    return answer == "allow" or (answer == "timeout" and mode is IamFailureMode.ALLOW)


@examples(300)
@given(
    own=st.lists(ANSWERS, max_size=2),
    parts=st.lists(st.tuples(st.lists(ANSWERS, max_size=2), st.booleans()), min_size=1, max_size=4),
    require=st.integers(1, 3),
    mode=MODES,
)
def test_no_part_is_permitted_that_was_not(kit, own, parts, require, mode):
    result, asked = asyncio.run(run(kit, own, parts, require, mode))
    every = [*own, *(answer for answers, _ in parts for answer in answers)]
    assert len(asked) == (1 if every else 0)
    if not isinstance(result, Permit):
        assert result.kind.status in (403, 502, 503)
        assert not all(permitted(answer, mode) for answer in every), "who is permitted everything is not refused"
        if result.code == "iam_denied":
            assert "deny" in every
        return
    assert all(permitted(answer, mode) for answer in own)
    assert not (mode is IamFailureMode.FAIL_CLOSED and "timeout" in every)
    assert [name for name, _ in result.parts] == [f"part-{index}" for index in range(len(parts))]
    for (answers, required), (_, combined) in zip(parts, result.parts, strict=True):
        if combined.outcome is Outcome.ALLOW:
            assert all(permitted(answer, mode) for answer in answers)
        elif combined.outcome is Outcome.DENY:
            assert "deny" in answers
            assert not required
        else:
            assert combined.fault is not None
    denied = sum(combined.outcome is Outcome.DENY for _, combined in result.parts)
    assert len(parts) - denied >= require or not denied


@pytest.mark.parametrize(
    ("parts", "require"),
    [
        ([("deny", True), ("deny", False), ("allow", False)], 1),
        ([("deny", False), ("deny", False), ("allow", False)], 2),
        ([("deny", False)], 0),
    ],
)
def test_what_is_denied_beyond_use_is_a_denial_of_the_whole(kit, parts, require):
    parts = [([answer], required) for answer, required in parts]
    result, _ = asyncio.run(run(kit, [], parts, require, IamFailureMode.FAIL_CLOSED))
    assert result.code == "iam_denied"


def test_what_stands_in_for_one_part_stands_in_for_no_other(kit):
    parts = [(["deny"], False), (["isolated"], False), (["timeout"], False)]
    result, _ = asyncio.run(run(kit, [], parts, 1, IamFailureMode.ALLOW))
    outcomes = [combined.outcome for _, combined in result.parts]
    assert outcomes == [Outcome.DENY, Outcome.UNKNOWN, Outcome.ALLOW]


def test_an_old_permit_stands_in_for_no_question_that_fails_alone(kit):
    parts = [(["isolated"], False), (["timeout"], False)]
    result, _ = asyncio.run(run(kit, [], parts, 1, IamFailureMode.STALE, known=True))
    outcomes = [combined.outcome for _, combined in result.parts]
    assert outcomes == [Outcome.UNKNOWN, Outcome.ALLOW]


async def run(kit, own, parts, require, mode, *, known=False):
    bench = kit.Bench()
    names = [f"read own:{index}" for index in range(len(own))]
    bench.iam.answers = dict(zip(names, map(decision, own), strict=True))
    built = []
    for index, (answers, required) in enumerate(parts):
        checks = [f"read part-{index}:{number}" for number in range(len(answers))]
        bench.iam.answers |= dict(zip(checks, map(decision, answers), strict=True))
        access = kit.checks(*checks) if checks else None
        built.append(Part(name=f"part-{index}", upstream="u", path=parse("/"), access=access, required=required))
    route = kit.route(
        kit.checks(*names) if names else kit.AUTHENTICATED,
        IamFailureRule(mode=mode, max_stale_s=60.0),
        action=AggregateAction(parts=tuple(built), require=require),
        methods=frozenset({"GET", "HEAD"}),
    )
    if known:
        authorizer = bench.authorizer(route)
        questions = authorizer._plans[route.id]["GET"].questions(kit.request(), kit.subject())
        bench.cache.remember(questions, [kit.ALLOWED] * len(questions), bench.cache.stamp())
    try:
        arguments = (kit.request(), route, kit.subject(), Deadline.after(60), bench.record, NO_SPAN)
        return await bench.authorizer(route).authorize(*arguments), bench.iam.asked
    except GatewayError as error:
        return error, bench.iam.asked
