"""What of the chart watches the gateway: the documented rules and dashboard, and a monitor that finds the service."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.packaging.rendering import HELM, ROOT, one, rendered

pytestmark = pytest.mark.integration


def test_monitoring_matches_what_it_watches() -> None:
    full = rendered(HELM / "ci/full-values.yaml")
    monitor = one(full, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert [e["metadata"]["name"] for e in full if e["kind"] == "Service" and wanted <= e["metadata"]["labels"].items()]
    assert monitor["spec"]["endpoints"] == [{"port": "admin", "path": "/metrics", "interval": "15s"}]
    rules = one(full, "PrometheusRule")
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    assert rules["spec"] == yaml.safe_load((ROOT / "docs/prometheus/alerts.yaml").read_text())
    (dashboard,) = [e for e in full if e["metadata"]["name"].endswith("-dashboard")]
    shown = json.loads(dashboard["data"]["iam-gateway.json"])
    assert shown == json.loads((ROOT / "docs/grafana/dashboard.json").read_text())


@pytest.mark.parametrize(
    ("copy", "original"),
    [("alerts.yaml", "docs/prometheus/alerts.yaml"), ("dashboard.json", "docs/grafana/dashboard.json")],
)
def test_the_chart_carries_the_documented_rules_and_dashboard(copy: str, original: str) -> None:
    """`scripts/sync-chart` copies them: a chart can only read its own files."""
    assert (HELM / "files" / copy).read_text() == (ROOT / original).read_text()
