"""One request is one trace, from the caller through IAM to the upstream, as a receiver outside the process sees it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.admin.conftest import ActiveConfig, running
from tests.complete_path.patience import until
from tests.e2e.conftest import Seen
from tests.telemetry.conftest import Receiver, grpc_receiver, receiver
from tests.telemetry.test_foreign import collector

__all__ = ["collector", "grpc_receiver", "receiver"]

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", trusted_proxies: [127.0.0.1/32], drain_timeout: 4s}
iam: {url: "IAM", max_concurrency: 1, timeout: {connect: 1s, read: 2s, total: 2s}, retry: {attempts: 1}}
identity: {opaque: {}}
upstreams: {items: {url: "UPSTREAM"}}
routes:
  - {id: items, path: "/items/{item}", upstream: items, authorize: ["read item:{path.item}"]}
"""
ALLOWED = {"authorization": "Bearer allow"}


def routes(iam: Any, upstream: Any) -> str:
    return ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url)


def exporting(endpoint: str, protocol: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_SERVICE_NAME": "edge-under-test",
    }


def trace_of(seen: Seen) -> tuple[str, str]:
    """Trace id and span id that a server was told."""
    (value,) = seen.values("traceparent")
    version, trace_id, span_id, flags = value.split("-")
    assert (version, flags) == ("00", "01")
    return trace_id, span_id


async def ten_share_a_call(site: ActiveConfig) -> list[dict[str, Any]]:
    """One caller holds IAM's only place while ten wait, two for each of five items; the lines of the log of all.

    It is another caller: the questions of one whose question IAM left without an answer share no call for a while.
    """
    async with httpx.AsyncClient(base_url=site.process.url, headers=ALLOWED, trust_env=False, timeout=20) as client:
        site.iam.mode = "hang"
        first = asyncio.create_task(client.get("/items/first", headers={"authorization": "Bearer another"}))
        await until(lambda: len(site.iam.seen) == 1)
        waiting = [asyncio.create_task(client.get(f"/items/{number % 5}")) for number in range(10)]
        async with asyncio.timeout(2):
            while (await site.operator.get("/status")).json()["in_flight"] < 11:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        site.iam.mode = "ok"
        assert {reply.status_code for reply in await asyncio.gather(*waiting)} == {200}
        assert (await first).json()["code"] == "iam_timeout"
    await until(lambda: site.process.output.count(b"\n") >= 11)
    return [json.loads(line) for line in site.process.output.splitlines()]


async def check_what_ten_shared(site: ActiveConfig, received: Receiver) -> None:
    lines = await ten_share_a_call(site)
    await until(lambda: len(received.spans) == 11 + 11 + 2 + 10)
    served = {span.span_id: span for span in received.named("GET /items/{item}")}
    authorized = {span.span_id: span for span in received.named("authorize")}
    attempts = received.named("GET")
    (shared,) = [span for span in received.named("POST /access/v1/evaluations") if len(span.links) > 1]
    assert {(span.trace_id.hex(), span.span_id.hex()) for span in served.values()} == {
        (line["trace_id"], line["span_id"]) for line in lines
    }, "the log leads to the trace"
    assert {span.parent_span_id for span in authorized.values()} == served.keys()
    assert len(shared.links) == 10
    for link in shared.links:
        assert authorized[link.span_id].trace_id == link.trace_id
    assert authorized[shared.parent_span_id].trace_id == shared.trace_id
    asked = site.iam.seen[-1]
    assert len(json.loads(asked.body)["evaluations"]) == 5, "the same question is asked once"
    assert trace_of(asked) == (shared.trace_id.hex(), shared.span_id.hex())
    assert {(span.trace_id.hex(), span.span_id.hex()) for span in attempts} == {
        trace_of(seen) for seen in site.upstream.seen
    }, "every upstream request belongs to its own attempt"
    for attempt in attempts:
        assert served[attempt.parent_span_id].trace_id == attempt.trace_id
    failed = [span for span in served.values() if span.status.code == 2]
    assert len(failed) == 1
    assert b"allow" not in failed[0].SerializeToString()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_ten_requests_that_share_a_call_are_ten_traces_with_a_link_each(
    tmp_path: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    received = request.getfixturevalue("grpc_receiver" if protocol == "grpc" else "receiver")
    async with running(tmp_path, 1, routes, **exporting(received.endpoint, protocol)) as site:
        await check_what_ten_shared(site, received)
        await until(lambda: "http.server.request.duration" in received.metrics)
    (attribute,) = [item for item in received.resources[0].attributes if item.key == "service.name"]
    assert attribute.value.string_value == "edge-under-test"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_the_same_goes_through_a_collector_that_is_not_ours(
    tmp_path: Path, protocol: str, collector: dict[str, int], receiver: Receiver
) -> None:
    environ = exporting(f"http://127.0.0.1:{collector[protocol]}", protocol)
    async with running(tmp_path, 1, routes, **environ) as site:
        await check_what_ten_shared(site, receiver)


async def test_a_trusted_callers_trace_goes_on(tmp_path: Path, receiver: Receiver) -> None:
    async with running(tmp_path, 1, routes, **exporting(receiver.endpoint, "http/protobuf")) as site:
        headers = {**ALLOWED, "traceparent": f"00-{TRACE}-{CALLER}-01"}
        async with httpx.AsyncClient(base_url=site.process.url, headers=headers, trust_env=False) as client:
            assert (await client.get("/items/7?secret=1")).status_code == 200
        await until(lambda: len(receiver.spans) == 4)
        metrics = await site.operator.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    (served,) = receiver.named("GET /items/{item}")
    assert served.parent_span_id.hex() == CALLER
    assert trace_of(site.iam.seen[0])[0] == trace_of(site.upstream.seen[0])[0] == TRACE
    assert f'trace_id="{TRACE}"' in metrics.text, "the exemplar leads to the trace"
    assert not [span for span in receiver.spans if b"secret" in span.SerializeToString()]
