"""One line a request, with exactly the promised fields, and nothing in it that could speak for itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.access_log import AccessLog, json_line, text_line
from gateway.telemetry.observer import NO_SPAN
from gateway.telemetry.tracing import PropagatingObserver
from tests.telemetry.conftest import TOKEN, TRACE, record, request

FIELDS = [
    "timestamp",
    "level",
    "event",
    "request_id",
    "trace_id",
    "span_id",
    "method",
    "path",
    "route",
    "status",
    "duration_ms",
    "authz",
    "upstream",
    "upstream_ms",
    "retries",
    "degraded",
    "client",
]
WHEN = "2026-04-13T14:30:00.123Z"
DENIED = {
    "status": 403,
    "code": "iam_denied",
    "authz_outcome": "deny",
    "authz_source": "iam",
    "authz_reason": "iam: no",
}
UNKNOWN = {"status": 503, "code": "iam_timeout", "authz_outcome": "unknown", "authz_code": "iam_timeout"}


def line(**changes) -> dict:
    return json.loads(json_line(record(**changes), WHEN, 0.0123456))


def test_a_line_has_exactly_the_promised_fields_in_order():
    made = line(
        authz_outcome="allow",
        authz_source="cache",
        authz_s=0.0018,
        upstream="inventory",
        upstream_s=0.009,
        retries=1,
        degraded="stale",
    )
    assert list(made) == FIELDS
    assert made == {
        "timestamp": WHEN,
        "level": "info",
        "event": "request",
        "request_id": "r-1",
        "trace_id": TRACE,
        "span_id": "00f067aa0ba902b7",
        "method": "GET",
        "path": "/inventory/7",
        "route": "inventory",
        "status": 200,
        "duration_ms": 12.346,
        "authz": {"outcome": "allow", "source": "cache", "code": None, "duration_ms": 1.8},
        "upstream": "inventory",
        "upstream_ms": 9.0,
        "retries": 1,
        "degraded": "stale",
        "client": "192.0.2.7",
    }


def test_what_did_not_happen_is_null():
    made = line(status=404, route="", path_template="", code="route_not_found")
    assert [made[name] for name in ("route", "authz", "upstream", "upstream_ms", "degraded")] == [None] * 5
    assert (made["retries"], made["code"]) == (0, "route_not_found")


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "info"),
        ({"status": 404}, "info"),
        ({"status": 401, "code": "unauthenticated"}, "info"),
        (DENIED, "warning"),
        (UNKNOWN, "warning"),
        ({"status": 502, "code": "upstream_unreachable"}, "warning"),
        ({"status": 500, "code": "internal_error"}, "error"),
    ],
)
def test_the_level_says_whether_somebody_should_look(changes, level):
    assert line(**changes)["level"] == level


@pytest.mark.parametrize(("changes", "reason"), [(DENIED, "iam: no"), (UNKNOWN | {"reason": "slow"}, "slow")])
def test_denials_and_unknowns_say_why(changes, reason):
    made = line(**changes)
    assert list(made) == [*FIELDS, "code", "reason"]
    assert (made["code"], made["reason"]) == (changes["code"], reason)


def test_a_caller_who_left_before_an_answer_is_499():
    made = line(status=0, client_left=True)
    assert (made["status"], made["reason"], made["level"]) == (499, "the client left", "info")


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=50))
def test_no_text_leaves_its_field(path, method, reason):
    made = json_line(record(path=path, method=method, request_id=path, reason=reason, code="x"), WHEN, 0)
    assert made.isascii()
    assert made.isprintable()
    read = json.loads(made)
    assert (read["path"], read["method"]) == (path, method)
    shown = text_line(record(path=path, method=method, request_id=path, reason=reason), WHEN, 0)
    assert shown.isascii()
    assert shown.isprintable()


def test_the_text_for_people():
    made = text_line(record(authz_outcome="allow", authz_source="iam", authz_s=0.0018), WHEN, 0.0123)
    assert made == "14:30:00.123 200 GET /inventory/7 12.300ms authz=allow/iam 1.800ms id=r-1"
    made = text_line(
        record(**UNKNOWN, authz_source="iam", upstream="x", retries=2, degraded="stale", reason="slow"), WHEN, 0
    )
    assert made.endswith("upstream=x 0.000ms retries=2 degraded=stale code=iam_timeout (slow) id=r-1")


@pytest.mark.parametrize("changes", [{}, {"status": 500}, DENIED, UNKNOWN])
def test_where_the_log_is_off_nothing_is_written_for_a_request(changes):
    lines: list[str] = []
    AccessLog(lines.append, json_line, everything=False).request_ended(record(**changes), NO_SPAN)
    assert lines == []


def test_times_are_utc_with_milliseconds():
    lines: list[str] = []
    now_s = [1_776_090_600.1239]
    log = AccessLog(lines.append, json_line, everything=True, clock=lambda: now_s[0], monotonic=lambda: 5.0)
    for _ in range(2):
        log.request_ended(record(started_s=4.5), NO_SPAN)
        now_s[0] += 0.9
    first, second = (json.loads(written) for written in lines)
    assert (first["timestamp"], second["timestamp"]) == ("2026-04-13T14:30:00.123Z", "2026-04-13T14:30:01.023Z")
    assert first["duration_ms"] == 500


def test_no_query_and_no_token_is_written():
    made = record()
    PropagatingObserver().request_started(request(raw=b"/x?access_token=" + TOKEN.encode() + b"&sig=1"), made)
    assert made.path == "/x"
    assert TOKEN not in json_line(made, WHEN, 0)
    assert TOKEN not in text_line(made, WHEN, 0)
