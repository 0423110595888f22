"""Every metric under its promised name, the same by Prometheus and in a merge of workers."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
from ast import literal_eval
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.telemetry import prometheus
from gateway.telemetry.instruments import ACTIVE_REQUESTS, INSTRUMENTS, STARTED, InstrumentKind
from gateway.telemetry.metrics import MetricsObserver
from gateway.telemetry.observer import NO_SPAN, Server
from gateway.telemetry.store import Store, merge, process_readings
from tests.telemetry.conftest import record

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SEMANTIC_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def observer(store):
    return MetricsObserver(store)


def samples(store: Store) -> dict[tuple, float]:
    """(name, labels without empty ones) → value, as Prometheus reads it."""
    text = prometheus.text(store.snapshot()).decode()
    return {
        (sample.name, tuple(sorted((name, value) for name, value in sample.labels.items() if value))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(store: Store, name: str, **labels: str) -> float:
    return samples(store)[name, tuple(sorted(labels.items()))]


def test_a_request_is_counted_by_route_template_and_status(store, observer):
    observer.request_ended(record(method="GET", status=200), NO_SPAN)
    observer.request_ended(record(method="GET", status=503, code="iam_timeout"), NO_SPAN)
    shared = {"http_request_method": "GET", "url_scheme": "http", "http_route": "/inventory/*"}
    name = "http_server_request_duration_seconds_count"
    assert value(store, name, **shared, http_response_status_code="200") == 1
    assert value(store, name, **shared, http_response_status_code="503", error_type="iam_timeout") == 1


def test_a_denial_is_no_error_of_the_server(store, observer):
    observer.request_ended(record(status=403, code="iam_denied"), NO_SPAN)
    assert not [labels for _, labels in samples(store) if "error_type" in dict(labels)]


def test_the_buckets_are_those_of_the_semantic_conventions(store, observer):
    observer.request_ended(record(), NO_SPAN)
    bounds = [
        float(dict(labels)["le"])
        for name, labels in samples(store)
        if name == "http_server_request_duration_seconds_bucket"
    ]
    assert sorted(bounds)[:-1] == SEMANTIC_BUCKETS


def test_nothing_a_client_sends_makes_a_series(store, observer):
    for number in range(1000):
        observer.request_ended(
            record(method=f"M{number}", path=f"/x/{number}", status=404, client=str(number)), NO_SPAN
        )
    assert value(
        store,
        "http_server_request_duration_seconds_count",
        http_request_method="_OTHER",
        url_scheme="http",
        http_route="/inventory/*",
        http_response_status_code="404",
    ) == pytest.approx(1000)


def test_a_caller_who_left_is_counted_apart(store, observer):
    observer.request_ended(record(status=0, client_left=True), NO_SPAN)
    assert next(dict(labels)["http_response_status_code"] for _, labels in samples(store)) == "499"


def test_decisions_keep_denials_and_unknowns_apart(store, observer):
    observer.decided("inventory", "allow", "", "iam", 0.001)
    observer.decided("inventory", "deny", "iam_denied", "iam", 0.001)
    observer.decided("inventory", "unknown", "iam_timeout", "iam", 2)
    name = "gateway_authz_decisions_total"
    assert value(store, name, route="inventory", outcome="allow") == 1
    assert value(store, name, route="inventory", outcome="deny", code="iam_denied") == 1
    assert value(store, name, route="inventory", outcome="unknown", code="iam_timeout") == 1
    name = "gateway_authz_duration_seconds_count"
    assert value(store, name, route="inventory", outcome="allow") == 1
    assert value(store, name, route="inventory", outcome="unknown") == 1
    quick = {"route": "inventory", "outcome": "allow", "le": "0.00025"}
    assert value(store, "gateway_authz_duration_seconds_bucket", **quick) == 0


def test_calls_to_iam_are_counted_with_their_size(store, observer):
    observer.iam_call_ended(NO_SPAN, 3, "", 0.002)
    observer.iam_call_ended(NO_SPAN, 50, "iam_timeout", 2)
    observer.iam_call_ended(NO_SPAN, 0, "iam_error", 0.1, 503, Server("iam.test", "8443", "https://iam.test:8443"))
    observer.iam_queue(7)
    observer.cache("hit")
    assert value(store, "gateway_iam_batch_size_sum") == 53
    assert value(store, "gateway_iam_queue") == 7
    assert value(store, "gateway_authz_cache_total", result="hit") == 1
    name = "http_client_request_duration_seconds_count"
    assert value(store, name, http_request_method="POST", upstream="iam", error_type="iam_timeout") == 1
    asked = {"http_request_method": "POST", "upstream": "iam", "server_address": "iam.test", "server_port": "8443"}
    assert value(store, name, **asked, http_response_status_code="503", error_type="iam_error") == 1


def test_attempts_are_counted_by_upstream(store, observer):
    observer.attempt_ended(NO_SPAN, "workday", "GET", 200, "", 0.1)
    observer.attempt_ended(NO_SPAN, "workday", "BREW", 0, "upstream_timeout", 0.1)
    name = "http_client_request_duration_seconds_count"
    assert value(store, name, http_request_method="GET", upstream="workday", http_response_status_code="200") == 1
    assert value(store, name, http_request_method="_OTHER", upstream="workday", error_type="upstream_timeout") == 1


def test_a_circuit_is_in_one_state_from_the_start_until_it_is_gone(store, observer):
    def states() -> dict[str, float]:
        found = [(dict(labels), number) for (name, labels), number in samples(store).items() if "circuit_state" in name]
        return {labels["state"]: number for labels, number in found}

    observer.breaker_added("iam", "iam", "closed")
    assert states() == {"closed": 1, "open": 0, "half_open": 0}
    observer.circuit("iam", "iam", "closed", "open", "5 consecutive failures")
    assert states() == {"closed": 0, "open": 1, "half_open": 0}
    assert (
        samples(store)["gateway_circuit_transitions_total", (("from", "closed"), ("name", "iam"), ("to", "open"))] == 1
    )
    observer.breaker_removed("iam", "iam")
    assert states() == {}


def test_degraded_answers_retries_and_reloads_are_counted(store, observer):
    observer.degraded("monitoring", "stale")
    observer.retry("user-audit.Workday", 2, 3, "upstream_timeout")
    observer.config_reload("failure", "routes.yaml:1:1: error")
    assert value(store, "gateway_degraded_total", route="monitoring", mode="stale") == 1
    assert value(store, "gateway_retries_total", target="user-audit.Workday") == 1
    assert value(store, "gateway_config_reloads_total", result="failure") == 1


def test_workers_add_up():
    stores = [Store() for _ in range(3)]
    for store in stores:
        observer = MetricsObserver(store)
        observer.decided("inventory", "allow", "", "iam", 0.02)
        observer.breaker_added("iam", "iam", "closed")
    MetricsObserver(stores[0]).decided("only-here", "deny", "iam_denied", "iam", 0.3)
    sent = (json.loads(json.dumps(store.snapshot())) for store in stores)
    merged = prometheus.text(merge(sent)).decode()
    assert 'gateway_authz_decisions_total{code="",outcome="allow",route="inventory"} 3.0' in merged
    assert 'gateway_authz_decisions_total{code="iam_denied",outcome="deny",route="only-here"} 1.0' in merged
    assert 'gateway_authz_duration_seconds_count{outcome="allow",route="inventory"} 3.0' in merged
    assert 'gateway_authz_duration_seconds_bucket{le="0.025",outcome="allow",route="inventory"} 3.0' in merged
    assert 'gateway_circuit_state{kind="iam",name="iam",state="closed"} 3.0' in merged


def test_every_metric_is_shown_before_anything_happened(store):
    families = {family.name for family in text_string_to_metric_families(prometheus.text(store.snapshot()).decode())}
    assert families == {prometheus.prometheus_name(instrument) for instrument in INSTRUMENTS}


def _rows() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([a-z._]+)` \| `([a-z_]+)` \| (\w+) \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {name: [shown, kind, labels] for name, shown, kind, labels in rows}


def test_every_metric_is_documented_and_no_other():
    assert _rows().keys() == {instrument.name for instrument in INSTRUMENTS}


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.name)
def test_a_metric_is_documented_as_it_is(instrument):
    shown, kind, labels = _rows()[instrument.name]
    suffix = "_total" if instrument.kind is InstrumentKind.COUNTER else ""
    assert shown == prometheus.prometheus_name(instrument) + suffix
    assert kind == instrument.kind.value
    assert re.findall(r"`([^`]+)`", labels) == [label.replace(".", "_") for label in instrument.labels]


def test_a_refused_reload_is_seen_for_as_long_as_it_lasts(store, observer):
    """A counter's alert would end by itself with the file still refused."""
    observer.config_serves("a", 0)
    assert value(store, "gateway_config_last_reload_successful") == 1
    observer.config_serves("a", 2)
    assert value(store, "gateway_config_last_reload_successful") == 0
    assert value(store, "gateway_config_info", hash="a") == 1
    observer.config_serves("b", 0)
    assert value(store, "gateway_config_last_reload_successful") == 1
    assert ("gateway_config_info", (("hash", "a"),)) not in samples(store)


def test_of_several_workers_one_that_was_refused_is_enough(store, observer):
    other = Store()
    observer.config_serves("a", 0)
    MetricsObserver(other).config_serves("a", 1)
    both = merge([store.snapshot(), other.snapshot()])
    assert both["gateway.config.last.reload.successful"] == [[[], 0]]
    assert both["gateway.config.info"] == [[["a"], 2]]


def test_the_process_is_described_as_prometheus_clients_do(store):
    store.read(process_readings)
    assert value(store, "gateway_build_info", version=__version__, python=platform.python_version()) == 1
    assert value(store, "process_cpu_seconds_total") > 0
    assert value(store, "process_resident_memory_bytes") > 1_000_000
    assert 0 < value(store, "process_open_fds") <= value(store, "process_max_fds")


def test_the_start_of_a_process_is_in_unix_time():
    before_s = time.time()
    code = "from gateway.telemetry.store import process_readings; print({i.name: v for i, _, v in process_readings()})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)  # noqa: S603
    assert before_s - 1 <= literal_eval(told.stdout)[STARTED.name] <= time.time() + 1


def test_what_is_read_adds_up_over_workers(store):
    other = Store()
    for each, requests in ((store, 2), (other, 3)):
        each.read(lambda requests=requests: [(ACTIVE_REQUESTS, (), requests), (STARTED, (), 100.0 + requests)])
    merged = merge([store.snapshot(), other.snapshot()])
    assert merged[ACTIVE_REQUESTS.name] == [[[], 5]]
    assert merged[STARTED.name] == [[[], 102.0]]
