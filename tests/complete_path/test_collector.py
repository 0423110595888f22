"""The OpenTelemetry Collector, configured as `docker compose` does it: a request arrives as one trace and in metrics.

Built by scripts/build-foreign from the Collector's own modules.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.complete_path.foreign import ROOT, of_tools
from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S, until
from tests.e2e.conftest import GatewayProcess, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

CONFIGURATION = ROOT / "examples" / "compose" / "collector.yaml"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
SPANS = {"GET /app/*", "authorize", "POST /access/v1/evaluations", "GET"}
METRICS = {"http.server.request.duration", "http.client.request.duration", "gateway.authz.decisions"}
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"}}
identity: {identity}
upstreams: {{app: {{url: "{upstream}"}}}}
routes:
  - {{id: app, path: /app/*, upstream: app, authorize: ["read thing:app"]}}
"""


@dataclass
class Collector:
    """The running Collector. `log`: what it shows of what it got."""

    url: str
    file: Path

    @property
    def log(self) -> str:
        return self.file.read_text()


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    http, grpc = free_port(), free_port()
    text = CONFIGURATION.read_text().replace("0.0.0.0:4317", f"127.0.0.1:{grpc}")
    (tmp_path / "collector.yaml").write_text(text.replace("0.0.0.0:4318", f"127.0.0.1:{http}"))
    made = Collector(f"http://127.0.0.1:{http}", tmp_path / "collector.log")
    with made.file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            of_tools("otelcol"), f"--config={tmp_path / 'collector.yaml'}", stdout=log, stderr=log
        )
    await until(lambda: "Everything is ready" in made.log or process.returncode is not None)
    assert process.returncode is None, made.log
    yield made
    process.kill()
    await process.wait()


async def test_one_request_arrives_as_one_trace_and_in_the_metrics(
    start_gateway: Callable[..., Awaitable[GatewayProcess]],
    collector: Collector,
    iam: Server,
    upstream: Server,
    issuer: Issuer,
    tmp_path: Path,
) -> None:
    iam.answer = permits(lambda _: True)
    routes = ROUTES.format(iam=iam.url, upstream=upstream.url, identity=issuer.settings(tmp_path))
    gateway = await start_gateway(routes, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **SOON)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=PATIENCE_S) as client:
        assert (await client.get("/app/7", headers=issuer.bearer("alice"))).status_code == 200
    (sent,) = upstream.seen[-1].values("traceparent")
    (asked,) = iam.seen[-1].values("traceparent")
    trace = sent.split("-")[1]
    assert asked.split("-")[1] == trace

    def of_the_trace() -> set[str]:
        return set(re.findall(rf"^(.+?) {trace} [0-9a-f]{{16}}", collector.log, re.MULTILINE))

    await until(lambda: of_the_trace() >= SPANS)
    await until(lambda: all(name in collector.log for name in METRICS))
