"""What is kept of the last minute: counted once, bounded, and nothing of a request that could be a secret."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.admin.figures import EDGES_S, bucket_of, percentiles_ms
from gateway.admin.recent import KEPT_S, MOST_REFUSALS, Recent
from gateway.model.request import AccessRecord
from gateway.telemetry.fanout import Fanout
from gateway.telemetry.observer import NO_SPAN

SECRET = "s3cr3t-t0ken"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recent(clock):
    return Recent(clock, lambda: 1_700_000_000.0)


def record(clock, took_s=0.01, **changes) -> AccessRecord:
    made = AccessRecord(started_s=clock.now - took_s, request_id="r-1", route="inventory", status=200)
    return replace(made, **changes)


def test_rates_are_of_whole_seconds_and_of_the_time_that_there_was(clock, recent):
    for _ in range(20):
        recent.request_ended(record(clock), NO_SPAN)
    assert recent.routes() == {}, "this second is not over"
    clock.now += 1
    figures = recent.routes()["inventory"]
    assert (figures["requests"], figures["rate_10s"], figures["rate_1m"]) == (20, 20, 20)
    clock.now += 4
    assert recent.routes()["inventory"]["rate_10s"] == 4
    clock.now += 10
    figures = recent.routes()["inventory"]
    assert (figures["rate_10s"], figures["requests"]) == (0, 20)
    clock.now += 45
    assert recent.routes()["inventory"]["rate_1m"] == pytest.approx(20 / 60)
    clock.now += 1
    assert recent.routes() == {}, "after a minute it is forgotten"


def test_denied_unknown_degraded_and_errors_are_counted_apart(clock, recent):
    recent.request_ended(record(clock, status=403, authz_outcome="deny", code="iam_denied"), NO_SPAN)
    recent.request_ended(record(clock, status=503, authz_outcome="unknown", code="iam_timeout"), NO_SPAN)
    recent.request_ended(record(clock, authz_outcome="stale", degraded="stale"), NO_SPAN)
    recent.request_ended(record(clock, status=502, authz_outcome="allow"), NO_SPAN)
    clock.now += 1
    figures = recent.routes()["inventory"]
    counted = {name: figures[name] for name in ("requests", "denied", "unknown", "degraded", "errors")}
    assert counted == {"requests": 4, "denied": 1, "unknown": 1, "degraded": 1, "errors": 2}
    assert {name: values[-1] for name, values in recent.history().items()} == counted


def test_the_last_refusals_are_bounded_and_the_latest_comes_first(clock, recent):
    for number in range(2 * MOST_REFUSALS):
        denial = record(clock, status=403, authz_outcome="deny", code="iam_denied", authz_reason="denied: read x:y")
        recent.request_ended(replace(denial, request_id=f"r-{number}"), NO_SPAN)
    refusals = recent.refusals()
    assert len(refusals) == MOST_REFUSALS
    assert refusals[0] == {
        "at_s": 1_700_000_000.0,
        "request_id": f"r-{2 * MOST_REFUSALS - 1}",
        "route": "inventory",
        "outcome": "deny",
        "code": "iam_denied",
        "reason": "denied: read x:y",
    }


def test_nothing_of_a_request_that_could_be_secret_is_kept(clock, recent):
    secret = {"path": f"/inventory/{SECRET}", "subject": SECRET, "client": SECRET, "reason": SECRET, "method": SECRET}
    recent.request_ended(record(clock, status=403, authz_outcome="deny", code="iam_denied", **secret), NO_SPAN)
    clock.now += 1
    shown = json.dumps([recent.routes(), recent.history(), recent.refusals(), recent.iam()])
    assert SECRET not in shown
    assert "iam_denied" in shown


def test_everything_is_bounded_however_long_it_runs(clock, recent):
    for _ in range(3 * KEPT_S):
        recent.request_ended(record(clock), NO_SPAN)
        recent.iam_call_ended(NO_SPAN, 1, "", 0.001)
        clock.now += 1
    assert recent.routes()["inventory"]["requests"] == KEPT_S
    assert recent.iam()["calls"] == KEPT_S
    assert len(recent._over) <= KEPT_S
    clock.now += 3600
    assert recent.routes() == {}
    assert recent.iam() == {"calls": 0, "evaluations": 0, "failed": 0, "times": []}
    assert set(recent.history()["requests"]) == {0}


def test_calls_to_iam_are_counted_with_their_questions_and_durations(clock, recent):
    recent.iam_call_ended(NO_SPAN, 3, "", 0.002)
    recent.iam_call_ended(NO_SPAN, 5, "iam_timeout", 2.5)
    clock.now += 1
    calls = recent.iam()
    assert (calls["calls"], calls["evaluations"], calls["failed"]) == (2, 8, 1)
    assert percentiles_ms(dict(calls["times"]))["p99"] == pytest.approx(2500, rel=0.1)


def test_how_long_a_websocket_was_open_is_no_latency(clock, recent):
    recent.request_ended(record(clock, took_s=3600, status=101), NO_SPAN)
    clock.now += 1
    assert recent.routes()["inventory"]["times"] == []


@pytest.mark.parametrize("seconds", [0.0, 0.00005, 0.0034, 0.25, 1.7, 60.0, 119.0])
def test_a_percentile_is_never_too_small_and_at_most_a_tenth_too_large(seconds):
    shown = percentiles_ms({bucket_of(seconds): 1})["p50"]
    assert seconds * 1000 * 0.995 <= shown <= max(seconds * 1.1, EDGES_S[0]) * 1000 * 1.005


def test_percentiles_are_those_of_the_ranks():
    times: dict[int, int] = {}
    for number in range(1, 101):
        bucket = bucket_of(number / 1000)
        times[bucket] = times.get(bucket, 0) + 1
    shown = percentiles_ms(times)
    assert shown["p50"] == pytest.approx(50, rel=0.1)
    assert shown["p95"] == pytest.approx(95, rel=0.1)
    assert shown["p99"] == pytest.approx(99, rel=0.1)
    assert percentiles_ms({}) == {"p50": None, "p95": None, "p99": None}
    assert percentiles_ms({len(EDGES_S): 1})["p50"] == pytest.approx(EDGES_S[-1] * 1000, rel=0.01)


def test_it_hears_what_every_observer_hears(clock, recent):
    Fanout([recent]).request_ended(record(clock), NO_SPAN)
    clock.now += 1
    assert recent.routes()["inventory"]["requests"] == 1
