"""The admin listener of a running gateway, with one process and with two workers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.admin.conftest import OPERATOR, ActiveConfig, routes, running

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

PATIENCE_S = 20.0
ALLOWED = {"authorization": "Bearer allow"}
DOCUMENTS = ["/status", "/routes", "/breakers", "/config", "/health/systems"]
GET = ["/", "/page.js", "/page.css", "/livez", "/readyz", "/metrics", "/status/stream", *DOCUMENTS]
POST = [
    "/-/reload",
    "/-/drain",
    "/cache/purge",
    "/breakers/iam/open",
    "/breakers/iam/close",
    "/breakers/iam/auto",
    "/breakers/iam/try",
]


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until it finds something."""
    async with asyncio.timeout(PATIENCE_S):
        while not (value := await found()):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.1)
    return value


@asynccontextmanager
async def caller(process: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Someone who may; each request on a connection of its own, so that all workers get some."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=process.url, headers=ALLOWED, trust_env=False, limits=limits, timeout=20
    ) as client:
        yield client


async def events(operator: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """The first events of the stream."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S), operator.stream("GET", "/status/stream") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                return found
    return found


async def test_everything_can_be_seen_and_nothing_is_stored(site: ActiveConfig) -> None:
    operator = site.operator
    for path in GET:
        head = await operator.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["cache-control"] == "no-store"
    for path in DOCUMENTS:
        assert (await operator.get(path)).json()
    assert (await operator.get("/livez")).json() == {"status": "alive"}
    assert (await operator.get("/readyz")).json() == {"status": "ready"}


async def test_every_error_is_a_problem_that_is_not_stored(site: ActiveConfig) -> None:
    admin = site.operator
    cases = [
        (404, await admin.get("/nowhere")),
        (404, await admin.get("/status/")),
        (404, await admin.post("/breakers/nobody/open", headers=OPERATOR)),
        (404, await admin.post("/breakers/iam/sideways", headers=OPERATOR)),
        (403, await admin.post("/-/reload")),
        (421, await admin.get("/status", headers={"host": "evil.example"})),
        *[(405, await admin.get(path)) for path in POST],
        *[(405, await admin.post(path, headers=OPERATOR)) for path in GET],
    ]
    for status, reply in cases:
        assert reply.status_code == status, (reply.request.method, reply.url)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.json()["status"] == status
        if status == 405:
            wanted = {"GET", "HEAD"} if reply.request.method == "POST" else {"POST"}
            assert set(reply.headers["allow"].split(", ")) == wanted


async def test_the_status_shows_requests_denials_and_unknowns(site: ActiveConfig) -> None:
    process, operator, workers = site.process, site.operator, site.workers
    async with caller(process) as client:
        for number in range(12):
            assert (await client.get(f"/counted/{number}?secret=q")).status_code == 200
        denied = await client.get("/counted/7?secret=q", headers={"authorization": "Bearer somebody"})
        site.iam.mode = "errors"
        unknown = await client.get("/counted/7")
        site.iam.mode = "ok"
        assert (denied.status_code, unknown.status_code) == (403, 503)

    async def counted() -> Any:
        status = (await operator.get("/status")).json()
        (row,) = [route for route in status["routes"] if route["id"] == "counted"]
        return (status, row) if row["requests"] == 14 else None

    status, row = await until(counted)
    assert (status["workers"], status["workers_expected"], status["ready"]) == (workers, workers, True)
    assert (row["denied"], row["unknown"], row["errors"]) == (1, 1, 1)
    assert row["rate_1m"] > 0
    assert row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
    assert row["if_iam_fails"][0]["text"] == "answers 503"
    assert sum(status["history"]["requests"]) >= 14
    refusals = {refusal["outcome"]: refusal for refusal in status["refusals"] if refusal["route"] == "counted"}
    assert refusals["deny"]["request_id"] == denied.headers["x-request-id"]
    assert (refusals["deny"]["code"], refusals["deny"]["reason"]) == ("iam_denied", "denied: read system:inventory")
    assert (refusals["unknown"]["code"], refusals["unknown"]["route"]) == ("iam_error", "counted")
    card = status["iam"]
    assert (card["state"], card["last_error"]["code"]) == ("closed", "iam_error")
    assert card["calls_1m"] >= 14
    assert card["failed_1m"] >= 1
    assert card["mean_batch_size"] >= 1
    assert card["latency_ms"]["p99"] is not None
    assert status["upstreams"]["inventory"]["origins"][0]["in_flight"] == 0
    assert {"file", "hash", "loaded_at_s", "warnings", "reload_problems"} <= status["config"].keys()
    assert "secret" not in json.dumps(status)


async def test_ready_stays_ready_while_iam_is_down(site: ActiveConfig) -> None:
    process, operator, workers = site.process, site.operator, site.workers
    await site.iam.stop()
    async with caller(process) as client:

        async def opened() -> Any:
            await asyncio.gather(*(client.get("/inventory/7") for _ in range(8)))
            breaker = (await operator.get("/breakers")).json()["breakers"]["iam"]
            return breaker["open_in"] == workers and breaker

        breaker = await until(opened)
    assert (breaker["state"], breaker["workers"]) == ("open", workers)
    assert 0 < breaker["remaining_s"] <= 4
    card = (await operator.get("/status")).json()["iam"]
    assert (card["state"], card["last_error"]["code"]) == ("open", "iam_unreachable")
    assert (await operator.get("/readyz")).status_code == 200
    assert (await operator.get("/livez")).status_code == 200
    await site.iam.start()
    await operator.post("/breakers/iam/close", headers=OPERATOR)
    await operator.post("/breakers/iam/auto", headers=OPERATOR)


async def test_an_operator_opens_closes_and_frees_a_circuit(site: ActiveConfig) -> None:
    process, operator, workers = site.process, site.operator, site.workers
    async with caller(process) as client:
        for name, path, code in (
            ("iam", "/inventory/7", "iam_circuit_open"),
            ("inventory", "/inventory/7", "upstream_circuit_open"),
        ):
            forced = await operator.post(f"/breakers/{name}/open", headers=OPERATOR)
            assert forced.json() == {"breaker": name, "mode": "open"}
            replies = await asyncio.gather(*(client.get(path) for _ in range(8)))
            assert {reply.json().get("code") for reply in replies} == {code}
            shown = (await operator.get("/breakers")).json()["breakers"][name]
            assert (shown["state"], shown["forced"], shown["open_in"]) == ("open", "open", workers)
            await operator.post(f"/breakers/{name}/auto", headers=OPERATOR)

            async def healed(path: str = path) -> Any:
                replies = await asyncio.gather(*(client.get(path) for _ in range(8)))
                return {reply.status_code for reply in replies} == {200}

            await until(healed)


async def test_a_part_of_an_aggregate_is_named_with_a_dot(site: ActiveConfig) -> None:
    process, operator = site.process, site.operator
    name = "user-audit.Workday"
    assert (await operator.post(f"/breakers/{name}/open", headers=OPERATOR)).status_code == 200
    async with caller(process) as client:
        replies = await asyncio.gather(*(client.get("/audit/a@b") for _ in range(4)))
    for reply in replies:
        assert reply.json()["failures"]["Workday"]["code"] == "upstream_circuit_open"
    assert (await operator.post(f"/breakers/{name}/close", headers=OPERATOR)).status_code == 200
    shown = (await operator.get("/breakers")).json()["breakers"][name]
    assert (shown["state"], shown["forced"]) == ("closed", "closed")
    assert (await operator.post(f"/breakers/{name}/auto", headers=OPERATOR)).status_code == 200


async def test_a_purge_forgets_the_decisions_of_every_worker(site: ActiveConfig) -> None:
    process, operator = site.process, site.operator
    async with caller(process) as client:
        await asyncio.gather(*(client.get("/monitoring/7") for _ in range(16)))
    kept = (await operator.get("/status")).json()["cache"]["entries"]
    assert kept >= 1
    assert (await operator.post("/cache/purge", headers=OPERATOR)).json() == {"purged": kept}
    assert (await operator.get("/status")).json()["cache"]["entries"] == 0


async def test_a_purge_of_one_subject_is_of_nobody_else(site: ActiveConfig) -> None:
    process, operator = site.process, site.operator
    async with caller(process) as client:
        await client.get("/monitoring/7")
    kept = (await operator.get("/status")).json()["cache"]["entries"]
    assert kept >= 1
    for wrong in ("subject=", "subject", "user=alice", "subject=a&subject=b", "subject=alice&all=1", "&"):
        assert (await operator.post(f"/cache/purge?{wrong}", headers=OPERATOR)).status_code == 400, wrong
    assert (await operator.post("/cache/purge?subject=nobody", headers=OPERATOR)).json() == {"purged": 0}
    assert (await operator.get("/status")).json()["cache"]["entries"] == kept
    name = hashlib.sha256(ALLOWED["authorization"].removeprefix("Bearer ").encode()).hexdigest()
    assert (await operator.post(f"/cache/purge?subject={name}", headers=OPERATOR)).json() == {"purged": kept}
    assert (await operator.get("/status")).json()["cache"]["entries"] == 0


async def test_a_reload_says_whether_it_serves_and_what_is_wrong(site: ActiveConfig) -> None:
    process, operator = site.process, site.operator
    before = process.file.read_text()
    process.file.write_text(before.replace("id: open", "id: opened"))
    reply = await operator.post("/-/reload", headers=OPERATOR)
    assert (reply.status_code, reply.json()) == (200, {"reloaded": True, "problems": []})
    status = (await operator.get("/status")).json()
    assert "opened" in [row["id"] for row in status["routes"]]
    assert len(status["config"]["hashes"]) == 1
    process.file.write_text(before.replace("upstream: inventory", "upstream: inventroy"))
    reply = await operator.post("/-/reload", headers=OPERATOR)
    assert reply.status_code == 422
    assert reply.json()["reloaded"] is False
    assert any("did you mean" in line for line in reply.json()["problems"])
    shown = (await operator.get("/status")).json()["config"]
    assert any("inventroy" in line for line in shown["reload_problems"])
    assert shown["hash"] == status["config"]["hash"], "the last good one serves"
    process.file.write_text(before)
    assert (await operator.post("/-/reload", headers=OPERATOR)).json()["reloaded"] is True


async def test_the_stream_follows_what_happens(site: ActiveConfig) -> None:
    operator = site.operator
    first, second = await events(operator, 2)
    assert (first["workers"], first["iam"]["state"]) == (site.workers, "closed")
    assert second["time_s"] > first["time_s"]
    async with operator.stream("GET", "/status/stream") as reply:
        await operator.post("/breakers/iam/open", headers=OPERATOR)
        async with asyncio.timeout(PATIENCE_S):
            async for line in reply.aiter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["iam"]["state"] == "open":
                    break
    await operator.post("/breakers/iam/close", headers=OPERATOR)
    await operator.post("/breakers/iam/auto", headers=OPERATOR)


@pytest.mark.parametrize("workers", [1, 2])
async def test_draining_ends_readiness_first_then_the_streams_and_the_process(tmp_path: Path, workers: int) -> None:
    async with running(tmp_path, workers) as site:
        operator = site.operator
        async with operator.stream("GET", "/status/stream") as stream:
            reply = await operator.post("/-/drain", headers=OPERATOR)
            assert (reply.status_code, reply.json()) == (202, {"draining": True})
            refused = await operator.get("/readyz")
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
            assert (await operator.get("/livez")).status_code == 200
            async with asyncio.timeout(PATIENCE_S):
                lines = [line async for line in stream.aiter_lines()]
        assert "event: end" in lines
        assert await asyncio.wait_for(site.process.process.wait(), PATIENCE_S) == 0


async def test_metrics_are_of_all_workers(site: ActiveConfig) -> None:
    process, operator, workers = site.process, site.operator, site.workers
    async with caller(process) as client:
        await asyncio.gather(*(client.get("/open/7") for _ in range(20)))
    plain = await operator.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [sample for family in text_string_to_metric_families(plain.text) for sample in family.samples]
    served = sum(
        sample.value
        for sample in samples
        if sample.name == "http_server_request_duration_seconds_count" and sample.labels["http_route"] == "/open/*"
    )
    assert served == 20
    circuits = {
        (sample.labels["name"], sample.labels["state"]): sample.value
        for sample in samples
        if sample.name == "gateway_circuit_state"
    }
    assert (circuits["iam", "closed"], circuits["iam", "open"]) == (workers, 0)


async def test_open_metrics_are_given_to_who_asks_for_them(site: ActiveConfig) -> None:
    operator = site.operator
    reply = await operator.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert reply.text.endswith("# EOF\n")
    assert "gateway_circuit_state" in {family.name for family in open_metrics(reply.text)}


async def test_secrets_are_masked_in_the_configuration(tmp_path: Path) -> None:
    def with_secrets(iam: Any, upstream: Any) -> str:
        text = routes(iam, upstream).replace("iam:\n", 'iam:\n  token: "${IAM_TOKEN}"\n')
        return text.replace("drain_timeout: 4s", 'drain_timeout: 4s, admin_token: "${ADMIN_TOKEN}"')

    async with running(tmp_path, 1, with_secrets, IAM_TOKEN="iam-s3cret", ADMIN_TOKEN="admin-s3cret") as site:
        assert (await site.operator.get("/config")).status_code == 401
        token = {"authorization": "Bearer admin-s3cret"}
        shown = [(await site.operator.get(path, headers=token)).text for path in DOCUMENTS]
    assert "***" in json.dumps(json.loads(shown[DOCUMENTS.index("/config")])["iam"]["auth"])
    assert "s3cret" not in "".join(shown)


async def test_a_worker_that_is_gone_is_missed_until_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path, 2) as site:

        async def answering(count: int) -> bool:
            return bool((await site.operator.get("/status")).json()["workers"] == count)

        await until(lambda: answering(2))
        supervisor = site.process.process.pid
        victim = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0]  # noqa: ASYNC240 - /proc
        os.kill(int(victim), signal.SIGKILL)
        await until(lambda: answering(1))
        assert (await site.operator.get("/status")).json()["workers_expected"] == 2
        await until(lambda: answering(2))
