"""The status in words: what is broken, since when and why; and only what moved is sent."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.admin.cost import Agreements
from gateway.admin.feed import changes
from gateway.admin.figures import Outages, Seen, bucket_of, merge_outages
from gateway.admin.merge import merge_status
from tests.admin.test_merge import breaker, figures, worker

GOOD = Seen(10, 0, {}, {})


def status(**more: Any) -> dict[str, Any]:
    return merge_status([worker(**more)])


def first(**more: Any) -> dict[str, Any]:
    return status(**more)["problems"][0]


def outage(name: str = "inventory", **more: Any) -> dict[str, Any]:
    made = {"what": "route", "name": name, "since_s": 60.0, "until_s": None, "requests": 100, "errors": 71}
    return {**made, "causes": {"upstream_timeout": 71}, "degraded": {}, **more}


def test_nothing_is_wrong_when_nothing_is_wrong():
    assert status()["problems"] == []
    assert status()["routes"][0]["now"] == {"state": "", "texts": ["as usual"]}
    assert status()["upstreams"]["inventory"]["state"] == "well"


def test_an_upstream_that_times_out_is_named_with_route_share_and_since():
    problem = first(outages=[outage()])
    assert problem["title"] == "Upstream inventory times out"
    assert problem["text"] == "inventory itself times out. The gateway cannot see why: look at the log of inventory."
    assert problem["effect"] == "Route inventory: 100 requests, 71 got 504, 29 normal."
    assert problem["next"] == "The gateway goes on sending requests to inventory."
    assert (problem["counted"], problem["harm"]) == ({"since_s": 60.0, "until_s": None}, "fail")
    assert problem["since_s"] == 60.0


def test_iam_that_is_down_is_told_once_and_with_what_it_means():
    down = {"iam": breaker("open", last_failure="iam_unreachable", opened_at_s=90.0, remaining_s=5.0)}
    shown = status(breakers=down, outages=[outage(causes={"iam_unreachable": 71})])
    (problem,) = shown["problems"]
    assert (problem["title"], problem["since_s"], problem["breaker"]) == ("IAM is down", 90.0, "iam")
    assert problem["text"] == "IAM cannot be reached."
    assert problem["effect"] == "Now: 1 route answers 503."
    assert "again in 5 s" in problem["next"]
    assert shown["routes"][0]["now"] == {"state": "iam", "texts": ["503"]}


def test_an_iam_that_answers_behind_an_open_circuit_is_told_so():
    iam = worker()["iam"] | {"answered_at_s": 99.0}
    down = {"iam": breaker("open", last_failure="iam_timeout", opened_at_s=90.0)}
    assert "Circuit open, IAM answered 1 s ago" in first(iam=iam, breakers=down)["text"]


def test_an_open_circuit_can_be_tried_and_marks_its_upstream():
    down = {"inventory": breaker("open", name="inventory", kind="upstream", last_failure="upstream_unreachable")}
    shown = status(breakers={"iam": breaker()} | down)
    assert shown["problems"][0]["title"] == "Upstream inventory cannot be reached"
    assert shown["problems"][0]["breaker"] == "inventory"
    assert shown["upstreams"]["inventory"]["state"] == "down"
    assert shown["routes"][0]["now"]["texts"] == ["503: the circuit of its upstream is open"]


def test_one_origin_of_several_is_a_warning_with_its_reason():
    upstreams = worker()["upstreams"]
    good = upstreams["inventory"]["origins"][0]
    bad = {
        **good,
        "origin": "http://b",
        "set_aside_s": 4.0,
        "last_error": {"code": "x", "reason": "refused", "at_s": 9},
    }
    upstreams["inventory"]["origins"].append(bad)
    problem = first(upstreams=upstreams)
    assert (problem["severity"], problem["since_s"]) == ("warning", 9)
    assert problem["title"] == "inventory: 1 of 2 origins set aside"
    assert "http://b refused" in problem["text"]


def test_the_worst_comes_first_and_what_is_over_last():
    over = outage("iam", what="circuit", since_s=10.0, until_s=95.0, causes={"iam_timeout": 1})
    config = worker()["config"] | {"reload_problems": ["routes.yaml:1:1: error[x]: y"]}
    shown = status(outages=[over, outage()], config=config)
    assert [one["severity"] for one in shown["problems"]] == ["failing", "warning", "over"]
    assert shown["problems"][-1]["title"] == "IAM answers again"
    assert shown["problems"][-1]["text"] == "IAM did not answer in time."
    assert shown["problems"][-1]["counted"] == {"since_s": 10.0, "until_s": 95.0}
    assert [one["harm"] for one in shown["problems"]] == ["fail", "none", "none"]


def test_a_route_is_broken_from_its_first_bad_second_until_ten_good_ones():
    outages = Outages()
    for at in range(100, 110):
        outages.second("route", "shop", Seen(10, 5, {"502": 5}, {}) if at < 103 else GOOD, float(at))
    (found,) = outages.shown(110.0)
    assert (found["since_s"], found["until_s"], found["causes"]) == (99.0, None, {"502": 15})
    for at in range(110, 114):
        outages.second("route", "shop", GOOD, float(at))
    (ended,) = outages.shown(114.0)
    assert (ended["until_s"], ended["requests"], ended["errors"]) == (102.0, 30, 15), (
        "without the good seconds after it"
    )
    assert outages.shown(102.0 + 3601) == []


def test_one_error_among_many_is_no_outage():
    outages = Outages()
    outages.second("route", "shop", Seen(100, 1, {"502": 1}, {}), 100.0)
    assert outages.shown(100.0) == []


def test_a_circuit_is_an_outage_until_it_is_closed():
    outages = Outages()
    for at, after in ((100.0, "open"), (130.0, "half_open"), (131.0, "open"), (160.0, "half_open"), (161.0, "closed")):
        outages.circuit("iam", after, "5 failures", at)
    found = {one["what"]: one for one in outages.shown(161.0)}
    assert (found["circuit"]["since_s"], found["circuit"]["until_s"]) == (100.0, 161.0)
    assert outages.shown(222.0)[0]["until_s"] == 161.0


def test_the_cost_of_an_outage_of_iam_is_counted_while_its_circuit_is_open_and_until_it_is_quiet():
    outages = Outages()
    outages.second("iam", "iam", Seen(10, 4, {"iam_timeout": 4}, {}), 100.0)
    outages.circuit("iam", "open", "5 consecutive failures", 100.5)
    outages.second("iam", "iam", Seen(10, 3, {"iam_circuit_open": 5}, {"stale": 2}), 101.0)
    outages.second("iam", "iam", GOOD, 190.0)
    assert outages.shown(190.0)[-1]["until_s"] is None, "nobody asked for a while, but the circuit is open"
    outages.circuit("iam", "closed", "", 191.0)
    outages.second("iam", "iam", GOOD, 202.0)
    found = {one["what"]: one for one in outages.shown(202.0)}["iam"]
    assert (found["since_s"], found["until_s"]) == (99.0, 191.0)
    assert (found["errors"], found["degraded"]) == (7, {"stale": 2})


def test_a_route_whose_upstream_is_stood_in_for_is_an_outage_without_errors():
    outages = Outages()
    outages.second("route", "shop", Seen(10, 0, {"upstream_timeout": 2}, {"stale": 2}), 100.0)
    (found,) = outages.shown(100.0)
    problem = first(outages=[{**found, "name": "inventory"}])
    assert problem["severity"] == "failing"
    assert problem["effect"] == "Route inventory: 10 requests, 2 got an old answer, 8 normal."
    assert problem["harm"] == "late"


def test_the_effect_names_its_routes_and_adds_up():
    """Every request that is counted is told: failed here, failed for another reason, old, or normal."""
    rows = [{**worker()["routes"][0], "id": name} for name in ("inventory", "prices", "quiet")]
    iam_too = outage(requests=40, errors=12, causes={"503": 10, "iam_timeout": 2})
    stale = outage("prices", requests=10, errors=0, causes={"http_503": 4}, degraded={"stale": 4})
    problem = first(routes=rows, outages=[iam_too, stale])
    figures = "50 requests, 10 got 503, 4 got an old answer, 2 failed for another reason, 34 normal."
    assert problem["effect"].startswith(f"Routes inventory and prices: {figures} Other routes: normal.")
    assert "inventory: 25 % got 503, 5 % failed for another reason" in problem["effect"]
    assert "prices: 40 % got an old answer" in problem["effect"]
    assert "%" not in problem["text"], "the cause is the cause alone"


def test_a_limit_of_our_own_is_nobody_elses_fault():
    problem = first(outages=[outage(causes={"overloaded": 71})])
    assert problem["title"] == "Route inventory: too many requests at once"
    assert problem["text"].startswith("More requests come in than max_concurrency lets through")
    assert problem["effect"] == "Route inventory: 100 requests, 71 got 503, 29 normal."
    assert status(outages=[outage(causes={"overloaded": 71})])["upstreams"]["inventory"]["state"] == "well"


def test_what_costs_most_requests_comes_first():
    both = outage(causes={"overloaded": 60, "upstream_timeout": 11})
    titles = [one["title"] for one in status(outages=[both])["problems"]]
    assert titles == ["Route inventory: too many requests at once", "Upstream inventory times out"]


def test_an_iam_that_is_slow_says_since_when():
    slow = outage("iam", what="slow", since_s=60.0, errors=2, causes={})
    lately = {"calls": 40, "evaluations": 40, "failed": 0, "times": [[bucket_of(1.5), 40]]}
    problem = first(outages=[slow], iam=worker()["iam"] | {"lately": lately})
    assert (problem["title"], problem["since_s"], problem["harm"]) == ("IAM is slow", 60.0, "late")
    assert problem["effect"] == "All routes that ask IAM: 100 calls to IAM, 2 took 1 s or longer, 98 normal."
    assert status(outages=[slow])["problems"] == [], "one slow call among many"


def test_what_served_instead_of_iam_is_said_in_words():
    instead = outage("iam", what="iam", errors=0, causes={"iam_timeout": 4}, degraded={"partial": 3, "stale": 1})
    problem = first(outages=[instead])
    figures = "100 requests, 3 got a partial answer, 1 was let in by an old permit, 96 normal."
    assert (problem["effect"], problem["harm"]) == (f"All routes: {figures}", "late")


def test_an_iam_that_fails_some_requests_is_told_though_its_circuit_is_closed():
    problem = first(outages=[outage("iam", what="iam", causes={"iam_timeout": 71})])
    assert (problem["title"], problem["text"]) == ("IAM does not decide every request", "IAM does not answer in time.")


def test_an_iam_whose_circuit_just_closed_is_told_as_over_alone():
    over = outage("iam", what="circuit", since_s=60.0, until_s=95.0, causes={"5 failures, last: iam_timeout": 1})
    shown = status(outages=[outage("iam", what="iam", causes={"iam_circuit_open": 71}), over])
    (problem,) = shown["problems"]
    assert problem["title"] == "IAM answers again"
    assert problem["effect"] == "All routes: 100 requests, 71 got 503, 29 normal."
    assert problem["counted"] == {"since_s": 60.0, "until_s": 95.0}


def test_a_refused_configuration_says_since_when():
    config = worker()["config"] | {"reload_problems": ["routes.yaml:1:1: error[x]: y", "z"], "refused_since_s": 40.0}
    problem = first(config=config)
    assert (problem["severity"], problem["since_s"]) == ("warning", 40.0)
    assert problem["text"] == "routes.yaml:1:1: error[x]: y (and 1 more)"
    assert problem["title"] == "The new configuration was rejected (no user affected)"
    assert problem["harm"] == "none"


def test_a_second_iam_that_decides_otherwise_is_told_with_the_check_and_the_share():
    agreements = Agreements()
    for at_s, agreement in ((40.0, "same"), (50.0, "different"), (90.0, "different"), (91.0, "unknown")):
        agreements.add("inventory", agreement, at_s, "denies what IAM permits: read system:x")
    own = {"sample": 1.0, **agreements.shown()}
    (problem,) = merge_status([worker(shadow=own), worker(shadow=own)], 2)["problems"]
    assert (problem["severity"], problem["since_s"]) == ("warning", 50.0)
    assert problem["text"] == "inventory: it denies what IAM permits: read system:x (4 times)."
    assert problem["effect"].startswith("4 of 6 decisions differ since the start.")
    assert status(shadow=own, time_s=1000.0)["problems"] == [], "it agrees again"


def test_what_several_workers_saw_at_the_same_time_is_one_outage():
    merged = merge_outages([[outage(since_s=60.0, until_s=80.0)], [outage(since_s=62.0)], [outage("other")]])
    same = next(one for one in merged if one["name"] == "inventory")
    assert (len(merged), same["since_s"], same["until_s"], same["errors"]) == (2, 60.0, None, 142)


def test_only_what_moved_is_in_the_changes():
    before = status()
    after = copy.deepcopy(before)
    assert changes(before, after) == {"breakers": {}, "upstreams": {}, "routes": []}
    after["time_s"] = 101.0
    after["routes"][0]["requests"] = 11
    after["breakers"]["iam"]["state"] = "open"
    changed = changes(before, after)
    assert changed is not None
    assert changed.keys() == {"time_s", "breakers", "upstreams", "routes"}
    assert changed["routes"] == after["routes"]
    assert list(changed["breakers"]) == ["iam"]


@pytest.mark.parametrize("other", [{"routes": []}, {"breakers": {}}, {"more": 1}])
def test_another_set_of_routes_is_told_whole(other: dict[str, Any]):
    assert changes(status(), status() | other) is None
    assert changes(None, status()) is None


def test_a_route_without_trouble_does_not_change_with_time():
    one, other = worker(), worker(time_s=101.0, routes=[worker()["routes"][0] | {"lately": figures(10, 0.01)}])
    changed = changes(merge_status([one]), merge_status([other]))
    assert changed is not None
    assert changed["routes"] == []
