"""What the last outage of IAM cost and what a second IAM says otherwise, as the status page has it."""

from __future__ import annotations

import pytest

from gateway.admin.cost import Agreements, LastOutage, merge_last_outage, merge_shadow
from gateway.admin.recent import Recent
from gateway.model.request import AccessRecord
from gateway.telemetry.observer import NO_SPAN


def outage(*failures: tuple[str, str, str, float]) -> LastOutage:
    made = LastOutage()
    for failure in failures:
        made.failed(*failure)
    return made


def test_before_any_outage_there_is_none_to_show() -> None:
    assert LastOutage().shown(0.0) is None
    assert outage(("shop", "unknown", "iam_overloaded", 1.0)).shown(2.0) is None, "our own overload is no outage"


def test_it_says_what_was_refused_and_what_stood_in_by_route() -> None:
    made = outage(
        ("shop", "unknown", "iam_timeout", 100.0),
        ("shop", "stale", "iam_circuit_open", 101.0),
        ("stock", "unknown", "iam_circuit_open", 102.0),
    )
    assert made.shown(103.0) == {
        "since_s": 100.0,
        "until_s": None,
        "cause": "iam_timeout",
        "refused": 2,
        "degraded": {"stale": 1},
        "codes": {"iam_timeout": 1, "iam_circuit_open": 2},
        "routes": {"shop": {"refused": 1, "degraded": {"stale": 1}}, "stock": {"refused": 1, "degraded": {}}},
    }


@pytest.mark.parametrize(("answered", "over_s"), [(True, 10.0), (False, 60.0)])
def test_it_is_over_after_a_quiet_minute_or_ten_seconds_in_which_iam_answers(answered: bool, over_s: float) -> None:
    made = outage(("shop", "unknown", "iam_timeout", 100.0))
    if answered:
        made.answered()
    lasting, over = made.shown(100.0 + over_s), made.shown(100.5 + over_s)
    assert lasting is not None
    assert over is not None
    assert (lasting["until_s"], over["until_s"]) == (None, 100.0)
    made.failed("shop", "unknown", "iam_error", 101.0 + over_s)
    another = made.shown(102.0 + over_s)
    assert another is not None
    assert (another["since_s"], another["refused"], another["cause"]) == (101.0 + over_s, 1, "iam_error")


def test_workers_that_had_it_together_are_added_up_and_an_older_one_is_not() -> None:
    one = outage(("shop", "unknown", "iam_timeout", 1000.0)).shown(1001.0)
    same = outage(("shop", "stale", "iam_circuit_open", 990.0), ("a", "unknown", "iam_timeout", 999.0)).shown(1001.0)
    older = outage(("shop", "unknown", "iam_error", 10.0)).shown(1001.0)
    merged = merge_last_outage([None, one, older, same])
    assert merged is not None
    assert (merged["since_s"], merged["until_s"], merged["cause"]) == (990.0, None, "iam_timeout")
    assert (merged["refused"], merged["degraded"]) == (2, {"stale": 1})
    assert merged["routes"]["shop"] == {"refused": 1, "degraded": {"stale": 1}}
    assert merge_last_outage([None, None]) is None


def test_agreement_is_counted_by_route_and_over_workers() -> None:
    one, other = Agreements(), Agreements()
    for route, agreement, at_s in (("shop", "same", 1.0), ("shop", "different", 2.0), ("stock", "unknown", 3.0)):
        one.add(route, agreement, at_s)
    other.add("shop", "different", 9.0)
    merged = merge_shadow([{"sample": 0.1, **made.shown()} for made in (one, other)])
    assert merged == {
        "sample": 0.1,
        "same": 1,
        "different": 2,
        "unknown": 1,
        "last_different_s": 9.0,
        "differences": {"shop": {"said": "", "since_s": 2.0, "latest_s": 9.0}},
        "routes": {
            "shop": {"same": 1, "different": 2, "unknown": 0},
            "stock": {"same": 0, "different": 0, "unknown": 1},
        },
    }
    assert merge_shadow([None]) is None


def test_requests_are_counted_once_each_and_a_failing_upstream_is_no_outage_of_iam() -> None:
    recent = Recent(clock=lambda: 1000.0, wall=lambda: 5000.0)
    for outcome, degraded, code in (
        ("allow", "", ""),
        ("allow", "stale", ""),
        ("unknown", "stale", "iam_timeout"),
        ("stale", "stale", "iam_timeout"),
        ("deny", "", "iam_denied"),
    ):
        record = AccessRecord(
            999.0, route="shop", status=200, authz_outcome=outcome, authz_code=code, degraded=degraded
        )
        recent.request_ended(record, NO_SPAN)
    shown = recent.last_outage()
    assert shown is not None
    assert (shown["refused"], shown["degraded"]) == (1, {"stale": 1})
    recent.shadow("shop", "different")
    assert recent.agreements()["different"] == 1
