"""Several workers are shown as one gateway: counts add up, percentiles are taken of all, the worst state is told."""

from __future__ import annotations

import copy

import pytest

from gateway.admin.figures import bucket_of
from gateway.admin.merge import merge_breakers, merge_status


def breaker(state: str = "closed", **changes) -> dict:
    made = {
        "name": "iam",
        "kind": "iam",
        "state": state,
        "forced": None,
        "remaining_s": 0.0,
        "set_aside_s": 0.0,
        "consecutive_failures": 0,
        "last_failure": "",
        "opened_at_s": None,
        "trial": False,
        "generation": 0,
    }
    return {**made, **changes}


def figures(requests: int, took_s: float, **changes) -> dict:
    made = {"requests": requests, "denied": 0, "unknown": 0, "degraded": 0, "errors": 0, "causes": {}, "stood_in": {}}
    return {**made, "times": [[bucket_of(took_s), requests]], "rate_10s": requests / 10, "rate_1m": 0.5, **changes}


def worker(**changes) -> dict:
    made = {
        "version": "1",
        "time_s": 100.0,
        "ready": True,
        "draining": False,
        "config": {
            "file": "routes.yaml",
            "hash": "a",
            "loaded_at_s": 1.0,
            "warnings": ["w"],
            "reload_problems": [],
            "refused_since_s": None,
            "failure_summary": "if IAM is down: 1 route answers 503",
        },
        "iam": {
            "api": "authzen",
            "queue": 1,
            "in_flight": 2,
            "calls": 10,
            "last_error": None,
            "lately": {"calls": 4, "evaluations": 10, "failed": 1, "times": [[bucket_of(0.002), 4]]},
        },
        "breakers": {"iam": breaker()},
        "routes": [
            {
                "id": "inventory",
                "path": "/inventory/*",
                "in_flight": 1,
                "max_concurrency": None,
                "lately": figures(10, 0.01),
                "access": "checks",
                "to": "inventory",
                "if_iam_fails": [{"methods": ["GET"], "mode": "fail_closed", "text": "503"}],
                "if_upstream_fails": [],
            }
        ],
        "outages": [],
        "iam_outage": None,
        "shadow": None,
        "unrouted": None,
        "history": {name: [0, 2] for name in ("requests", "denied", "unknown", "degraded", "errors")},
        "refusals": [],
        "upstreams": {
            "inventory": {
                "name": "inventory",
                "origins": [
                    {
                        "origin": "http://a",
                        "in_flight": 1,
                        "idle": 2,
                        "connecting": 0,
                        "pending": 0,
                        "set_aside_s": 0.0,
                        "ill": False,
                        "last_error": None,
                    }
                ],
            }
        },
        "cache": {"entries": 3},
        "copies": {"questions": 1, "bytes": 10, "max_bytes": 100},
        "in_flight": 1,
        "streams": 2,
    }
    return copy.deepcopy({**made, **changes})


def test_one_process_is_shown_as_it_is():
    status = merge_status([worker()])
    assert (status["workers"], status["workers_expected"], status["ready"]) == (1, 1, True)
    assert status["iam"]["state"] == "closed"
    assert status["iam"]["mean_batch_size"] == 2.5
    (route,) = status["routes"]
    assert "lately" not in route
    assert route["rate_10s"] == 1.0
    assert route["latency_ms"]["p50"] == pytest.approx(10, rel=0.1)


def test_counts_of_workers_add_up():
    status = merge_status([worker(), worker(), worker()], expected=3)
    assert (status["in_flight"], status["streams"], status["cache"]["entries"]) == (3, 6, 9)
    assert (status["iam"]["queue"], status["iam"]["in_flight"], status["iam"]["calls"]) == (3, 6, 30)
    assert (status["iam"]["calls_1m"], status["iam"]["failed_1m"]) == (12, 3)
    assert (status["routes"][0]["requests"], status["routes"][0]["rate_10s"]) == (30, 3.0)
    assert status["history"]["requests"] == [0, 6]
    assert status["upstreams"]["inventory"]["origins"][0]["idle"] == 6
    assert status["copies"]["bytes"] == 30


def test_percentiles_are_of_all_requests_not_of_the_workers_percentiles():
    """Three requests of ten are slow, all in one worker: the median is fast, whichever worker is asked first."""
    slow = worker(routes=[{"id": "inventory", "in_flight": 0, "lately": figures(3, 1.0)}])
    fast = worker(routes=[{"id": "inventory", "in_flight": 0, "lately": figures(7, 0.01)}])
    latency = merge_status([slow, fast], expected=2)["routes"][0]["latency_ms"]
    assert latency["p50"] == pytest.approx(10, rel=0.1)
    assert latency["p95"] == pytest.approx(1000, rel=0.1)


def test_shares_are_of_all_requests():
    denied = worker(routes=[{"id": "inventory", "in_flight": 0, "lately": figures(1, 0.01, denied=1)}])
    idle = worker(routes=[{"id": "inventory", "in_flight": 0, "lately": None}])
    others = worker(routes=[{"id": "inventory", "in_flight": 0, "lately": figures(3, 0.01)}])
    route = merge_status([denied, idle, others], expected=3)["routes"][0]
    assert route["shares"] == {"denied": 0.25, "unknown": 0.0, "degraded": 0.0, "errors": 0.0}


def test_a_breaker_is_shown_in_its_worst_state_with_how_many_have_it_open():
    merged = merge_breakers(
        [
            {"iam": breaker("closed", consecutive_failures=2, last_failure="iam_error")},
            {"iam": breaker("open", remaining_s=3.0, last_failure="iam_timeout")},
            {"iam": breaker("open", remaining_s=1.0)},
        ]
    )["iam"]
    assert (merged["state"], merged["remaining_s"], merged["last_failure"]) == ("open", 3.0, "iam_timeout")
    assert (merged["open_in"], merged["workers"], merged["consecutive_failures"]) == (2, 3, 2)


def test_the_iam_card_follows_its_breaker():
    opened = worker(breakers={"iam": breaker("open", remaining_s=4.0, forced="open")})
    card = merge_status([worker(), opened], expected=2)["iam"]
    assert (card["state"], card["remaining_s"], card["forced"]) == ("open", 4.0, "open")


def test_the_embedded_iam_has_a_card_without_a_breaker():
    embedded = {"api": "embedded", "lately": {"calls": 0, "evaluations": 0, "failed": 0, "times": []}}
    card = merge_status([worker(iam=embedded, breakers={})])["iam"]
    assert (card["api"], card["state"], card["forced"], card["mean_batch_size"]) == ("embedded", "closed", None, None)


def test_the_last_error_is_the_latest_of_all_workers():
    def failed(at_s: float) -> dict:
        iam = worker()["iam"]
        return worker(iam={**iam, "last_error": {"code": "iam_error", "reason": "x", "at_s": at_s}})

    assert merge_status([failed(5.0), failed(7.0), worker()], expected=3)["iam"]["last_error"]["at_s"] == 7.0


def test_refusals_of_all_workers_are_in_order_and_bounded():
    def refusing(*times: float) -> dict:
        return worker(refusals=[{"at_s": at_s, "request_id": str(at_s)} for at_s in sorted(times, reverse=True)])

    merged = merge_status([refusing(*range(0, 80, 2)), refusing(*range(1, 80, 2))], expected=2)["refusals"]
    assert [refusal["at_s"] for refusal in merged] == list(range(79, 29, -1))


def test_workers_on_different_configurations_are_told():
    config = worker()["config"]
    other = worker(config={**config, "hash": "b", "loaded_at_s": 9.0, "reload_problems": ["routes.yaml:1:1: error"]})
    merged = merge_status([worker(), other], expected=2)["config"]
    assert merged["hashes"] == ["a", "b"]
    assert (merged["loaded_at_s"], merged["reload_problems"]) == (9.0, ["routes.yaml:1:1: error"])


@pytest.mark.parametrize(("answering", "ready"), [([], False), ([worker()], False), ([worker(), worker()], True)])
def test_a_worker_that_does_not_answer_is_missed(answering, ready):
    status = merge_status(answering, expected=2)
    assert (status["workers"], status["workers_expected"], status["ready"]) == (len(answering), 2, ready)
