"""Policies by name, their files, and a route on top of one."""

from __future__ import annotations

import pytest

from gateway.config.policies import BUILT_IN_NAMES
from gateway.model.route import IamFailureMode, UpstreamFailureMode
from tests.config.texts import JWT, place, route, whole

CEDAR = {"policies/access/a.cedar": "permit(principal, action, resource);"}


def test_the_default_policy_is_fail_closed_with_the_documented_defaults(load_text) -> None:
    (only,) = load_text(whole()).routes
    assert only.policy == "fail-closed"
    assert (only.resilience.timeout.connect_s, only.resilience.timeout.read_s, only.resilience.timeout.write_s) == (
        1,
        5,
        5,
    )
    assert only.resilience.retry.attempts == 1
    assert (only.resilience.breaker.failure_threshold, only.resilience.breaker.open_for_s) == (5, 30)
    assert only.resilience.breaker.open_for_max_s == 30
    assert only.resilience.failure_statuses == {502, 503, 504}
    assert {rule.mode for rule in only.on_iam_failure.values()} == {IamFailureMode.FAIL_CLOSED}


def test_audit_is_the_patient_one(load_text) -> None:
    (only,) = load_text(route("policy: audit")).routes
    retry, breaker = only.resilience.retry, only.resilience.breaker
    assert (retry.attempts, retry.backoff_s, retry.backoff_max_s) == (3, 2, 8)
    assert retry.on == only.resilience.failure_statuses == set(range(500, 600))
    assert (breaker.failure_threshold, breaker.open_for_s) == (5, 60)
    assert only.deadline_s == 30


@pytest.mark.parametrize("name", BUILT_IN_NAMES)
def test_every_built_in_policy_loads_without_a_warning(load_text, name) -> None:
    assert load_text(route(f"policy: {name}")).warnings == ()


def test_degrade_stale_means_get_and_head_up_to_what_is_remembered(load_text) -> None:
    (only,) = load_text(route("policy: degrade-stale")).routes
    assert {method for method, rule in only.on_iam_failure.items() if rule.mode is IamFailureMode.STALE} == {
        "GET",
        "HEAD",
    }
    assert only.on_iam_failure["GET"].max_stale_s == 300


def test_a_route_s_keys_go_over_the_policy_s_and_maps_merge_by_key(load_text) -> None:
    (only,) = load_text(route("policy: audit\nretry: {attempts: 2}\ncircuit_breaker: {open_for: 10s}")).routes
    assert (only.resilience.retry.attempts, only.resilience.retry.backoff_s) == (2, 2)
    assert (only.resilience.breaker.open_for_s, only.resilience.breaker.failure_threshold) == (10, 5)
    assert only.deadline_s == 30


def test_lists_replace(load_text) -> None:
    (only,) = load_text(route("policy: audit\nfailure_statuses: [500]\nretry: {on: [501]}")).routes
    assert only.resilience.failure_statuses == {500}
    assert only.resilience.retry.on == {501}


def test_the_server_s_defaults_are_below_both(load_text) -> None:
    text = route("policy: p", server="server: {deadline: 7s, max_body: 1MiB, max_concurrency: 9}")
    (only,) = load_text(text, {"policies/p.yaml": "max_body: 2MiB\n"}).routes
    assert (only.deadline_s, only.max_body, only.max_concurrency) == (7, 2**21, 4)


def test_a_rule_of_the_route_refines_the_policy_s_rule(load_text) -> None:
    (only,) = load_text(route("policy: degrade-stale\non_iam_failure: {max_stale: 60s}")).routes
    assert only.on_iam_failure["GET"].mode is IamFailureMode.STALE
    assert only.on_iam_failure["GET"].max_stale_s == 60


def test_a_rule_that_degrades_otherwise_replaces_the_policy_s_rule(load_text) -> None:
    files = {"policies/p.yaml": "on_iam_failure: {degrade: stale, max_stale: 60s, methods: [GET]}\n"}
    (only,) = load_text(route("policy: p\non_iam_failure: {degrade: fallback, response: {json: {a: 1}}}"), files).routes
    assert only.on_iam_failure["HEAD"].mode is IamFailureMode.FALLBACK
    assert only.on_iam_failure["HEAD"].response.body == b'{"a":1}'


def test_a_file_replaces_the_built_in_policy_of_its_name(load_text) -> None:
    files = {"policies/fail-closed.yaml": "deadline: 4s\n"}
    configuration = load_text(whole(), files)
    assert configuration.routes[0].deadline_s == 4
    assert any(path.name == "fail-closed.yaml" for path in configuration.files)


MISTAKES = [
    ("deadline: ‸5\n", "bad-duration"),
    ("‸dedline: 5s\n", "unknown-key"),
    ("retry: {attempts: 1, ‸attempts: 2}\n", "duplicate-key"),
    ("on_iam_failure: {degrade: stale, max_stale: ‸10m}\n", "max-stale"),
    ("on_iam_failure: {degrade: ‸allow}\n", "fail-open"),
    ("on_iam_failure: {degrade: ‸local}\n", "no-access-policies"),
    ("retry: {backoff: 2s, backoff_max: ‸1s}\n", "backoff-max"),
    ("deadline: ‸${NOT_SET}\n", "unset-variable"),
    ("‸authorize: public\n", "unknown-key"),
    ("‸- a\n", "wrong-type"),
    ("‸", "empty-file"),
    ("a: ‸'b\n", "yaml-syntax"),
]


@pytest.mark.parametrize("policy", ["p", "fail-closed"])
@pytest.mark.parametrize(("marked", "id_"), MISTAKES)
def test_a_mistake_in_a_policy_is_told_once_whether_it_is_used_or_not(mistakes, marked, id_, policy) -> None:
    text, line, col = place(marked)
    more = "policy: fail-closed\n" if id_ != "yaml-syntax" else ""
    found = mistakes(route(more.strip() or "deadline: 1s", identity=JWT), {f"policies/{policy}.yaml": text})
    assert [each.id for each in found] == [id_]
    assert found[0].file.endswith(f"policies/{policy}.yaml")
    assert (found[0].line, found[0].col) == (line, col) or id_ == "yaml-syntax"


def test_a_mistake_that_a_built_in_policy_makes_here_stands_at_the_route(mistakes) -> None:
    text, line, col = place(route("policy: ‸degrade-stale", iam="iam: {url: http://127.0.0.1, cache: {max_stale: 0s}}"))
    (found,) = mistakes(text)
    assert (found.line, found.col, found.id) == (line, col, "max-stale")
    assert found.file.endswith("routes.yaml")


def test_copies_for_nobody_are_refused_also_by_policy(mistakes) -> None:
    text, line, col = place(route("authorize: public\nmethods: [GET]\npolicy: ‸p"))
    (found,) = mistakes(text, {"policies/p.yaml": "on_upstream_failure: stale\n"})
    assert (found.line, found.col, found.id) == (line, col, "public-route")


def test_a_yml_file_is_told_to_be_unread(load_text) -> None:
    (warning,) = load_text(whole(), {"policies/p.yml": "deadline: 1s\n"}).warnings
    assert "p.yml:1:1: warning[policy-not-read]: not read: name it p.yaml" in warning


def test_access_policies_are_watched_and_allow_degrading_to_them(load_text) -> None:
    files = {**CEDAR, "policies/access/entities.json": "[]", "policies/access/.hidden": "x"}
    configuration = load_text(route("on_iam_failure: {degrade: local}", identity=JWT), files)
    assert configuration.routes[0].on_iam_failure["GET"].mode is IamFailureMode.LOCAL
    assert configuration.access_policies is not None
    assert configuration.access_policies.is_absolute()
    assert [path.name for path in configuration.files] == ["a.cedar", "entities.json", "routes.yaml"]


def test_embedded_iam_needs_no_url(load_text) -> None:
    configuration = load_text(whole(iam="iam: {api: embedded, url: http://127.0.0.1}"), CEDAR)
    assert configuration.iam.urls == ()
    assert "warning[unused-key]: url has no effect" in configuration.warnings[0]


def test_a_policies_folder_without_cedar_files_is_no_access_policy(load_text) -> None:
    assert load_text(whole(), {"policies/access/README.md": "x"}).access_policies is None


def test_an_upstream_s_fallback_is_the_route_s_own_answer(load_text) -> None:
    keys = "on_upstream_failure: {degrade: fallback, response: {status: 503, headers: {X-A: b}, json: [1, ä]}}"
    rule = load_text(route(keys)).routes[0].on_upstream_failure["GET"]
    assert rule.mode is UpstreamFailureMode.FALLBACK
    assert rule.response.status == 503
    assert rule.response.body == '[1,"ä"]'.encode()
    assert rule.response.headers == ((b"content-type", b"application/json"), (b"x-a", b"b"))


def test_an_upstream_s_stale_by_word_is_for_reading_only(load_text) -> None:
    rules = load_text(route("on_upstream_failure: stale", identity=JWT)).routes[0].on_upstream_failure
    assert {method for method, rule in rules.items() if rule.mode is UpstreamFailureMode.STALE} == {"GET", "HEAD"}
    assert rules["GET"].max_stale_s == 300
