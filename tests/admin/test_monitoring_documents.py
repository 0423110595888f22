"""Dashboard, alerts and collector configuration: they load, and speak of nothing that the gateway does not have."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.telemetry.instruments import INSTRUMENTS, InstrumentKind
from gateway.telemetry.prometheus import prometheus_name
from tests.admin.conftest import running
from tests.complete_path.foreign import on_path
from tests.e2e.conftest import free_port

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((DOCS / "prometheus" / "alerts.yaml").read_text())
ALERT_TESTS = yaml.safe_load((DOCS / "prometheus" / "alerts.test.yaml").read_text())
COLLECTOR = yaml.safe_load((DOCS / "otel-collector.yaml").read_text())
OURS = re.compile(r"\b((?:gateway|http|process)_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_PROMETHEUS = {"job", "instance", "le"}
WITHIN_S = 60.0


def samples() -> dict[str, set[str]]:
    """Every sample that `/metrics` can have → its labels."""
    known: dict[str, set[str]] = {}
    for instrument in INSTRUMENTS:
        name, labels = prometheus_name(instrument), {label.replace(".", "_") for label in instrument.labels}
        if instrument.kind is InstrumentKind.HISTOGRAM:
            known |= {f"{name}_{part}": labels for part in ("count", "sum")} | {f"{name}_bucket": labels | {"le"}}
        else:
            known[name + ("_total" if instrument.kind is InstrumentKind.COUNTER else "")] = labels
    return known


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of all panels and annotations."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def filled_in(expression: str) -> str:
    """As Grafana sends it."""
    for variable, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$route", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


@pytest.mark.parametrize(("where", "expression"), [*queries(), *((rule["alert"], rule["expr"]) for rule in rules())])
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str) -> None:
    found = OURS.findall(GROUPED.sub("", expression))
    assert found, where
    labels: set[str] = set()
    for name, selector in found:
        assert name in samples(), f"{where} asks for {name}"
        labels |= samples()[name] | OF_PROMETHEUS
        assert set(LABEL.findall(selector)) <= samples()[name] | OF_PROMETHEUS, f"{where}: {selector}"
    grouped = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")}
    assert grouped <= labels, where


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for _, expression in queries())
    assert {name for instrument in INSTRUMENTS if (name := prometheus_name(instrument)) not in shown} == set()


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_dashboard_asks_the_data_source_that_was_chosen() -> None:
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline"


@pytest.mark.integration
def test_promtool_accepts_rules_and_queries(tmp_path: Path) -> None:
    promtool = on_path("promtool")
    recorded = [
        {"record": f"query:{number}", "expr": filled_in(expression)} for number, (_, expression) in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    folder = DOCS / "prometheus"
    for command in (
        ["check", "rules", str(file), str(folder / "alerts.yaml")],
        ["check", "config", str(folder / "scrape.yaml")],
        ["test", "rules", str(folder / "alerts.test.yaml")],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_documented() -> None:
    names = {rule["alert"] for rule in rules()}
    cases = [case for test in ALERT_TESTS["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if "exp_alerts" in case} == names, "fires"
    assert {case["alertname"] for case in cases if "exp_alerts" not in case} == names, "is silent on a quiet day"
    text = (DOCS / "observability.md").read_text()
    assert {name for name in names if f"`{name}`" not in text} == set()
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_collector_listens_where_the_gateway_sends() -> None:
    protocols = COLLECTOR["receivers"]["otlp"]["protocols"]
    ports = {name: int(settings["endpoint"].rpartition(":")[2]) for name, settings in protocols.items()}
    assert ports == {"http": 4318, "grpc": 4317}, "the ports of the specification"
    said = (DOCS / "otel-collector.yaml").read_text()
    for port in ports.values():
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}" in said


def test_every_part_of_the_collector_is_defined_and_used() -> None:
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in COLLECTOR["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == COLLECTOR[kind].keys()
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
    outcomes = COLLECTOR["processors"]["tail_sampling"]["policies"][1]["string_attribute"]
    assert outcomes["key"] == "gateway.authz.outcome"


def configured(target: str, folder: Path) -> Path:
    """The documented configuration, in a hurry."""
    folder.mkdir()
    settings = yaml.safe_load((DOCS / "prometheus" / "scrape.yaml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(DOCS / "prometheus" / "alerts.yaml")]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    return file


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that scrapes the target every second, with our rules and the exemplars."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        on_path("prometheus"),
        f"--config.file={configured(target, folder)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        process.kill()
        await process.wait()


async def ask(client: httpx.AsyncClient, expression: str) -> list[Any]:
    """What Prometheus answers to a query; nothing while it starts."""
    with suppress(httpx.TransportError):
        reply = (await client.get("/api/v1/query", params={"query": expression})).json()
        if reply["status"] != "success":
            assert reply["errorType"] in {"unavailable", "internal"}, reply
            return []
        return list(reply["data"]["result"])
    return []


@pytest.mark.hazard
@pytest.mark.integration
async def test_a_real_prometheus_scrapes_two_workers_evaluates_and_alerts(tmp_path: Path) -> None:
    """Every query of the dashboard is answered, and killing IAM makes the alert pending."""
    on_path("prometheus")
    async with (
        running(tmp_path, 2) as site,
        prometheus(f"127.0.0.1:{site.process.admin_port}", tmp_path / "p") as server,
    ):
        async with httpx.AsyncClient(base_url=site.process.url, trust_env=False, timeout=20) as client:
            allowed = {"authorization": "Bearer allow"}
            found: list[Any] = []
            async with asyncio.timeout(WITHIN_S):
                while not found:
                    await client.get("/inventory/7", headers=allowed)
                    await asyncio.sleep(0.2)
                    found = await ask(server, "sum(rate(http_server_request_duration_seconds_count[10s])) > 0")
                await site.iam.stop()
                while not (found := await ask(server, 'ALERTS{alertname="GatewayIamCircuitOpen"}')):
                    await client.get("/inventory/7", headers=allowed)
                    await asyncio.sleep(0.1)
        assert found[0]["metric"]["alertstate"] == "pending"
        for where, expression in queries():
            reply = await server.get("/api/v1/query", params={"query": filled_in(expression)})
            assert reply.json()["status"] == "success", (where, reply.text)
        assert await ask(server, filled_in(next(panel for panel in panels())["targets"][0]["expr"]))
        (target,) = (await server.get("/api/v1/targets")).json()["data"]["activeTargets"]
        assert target["lastError"] == ""
        told = (await site.operator.get("/metrics")).content
    checked = await asyncio.to_thread(
        subprocess.run, [on_path("promtool"), "check", "metrics"], input=told, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
