"""The chart by Helm's own engine: linted, rendered with every values file of helm/ci, and every object valid."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from gateway.app.run import Overrides
from gateway.config import load
from tests.packaging.rendering import HELM, lay_out, one, render, rendered

FILES = sorted((HELM / "ci").glob("*-values.yaml"))
OLDEST, NEWEST = "1.25", "1.37"
CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
pytestmark = pytest.mark.integration


def _values(name: str) -> dict[str, Any]:
    return yaml.safe_load((HELM / "ci" / f"{name}-values.yaml").read_text()) or {}


def _pod(objects: Any) -> dict[str, Any]:
    pod: dict[str, Any] = one(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def test_the_chart_is_linted() -> None:
    for file in FILES:
        report = lint(HELM, yaml.safe_load(file.read_text()) or {}, strict=True, kube_version=f"v{NEWEST}.0")
        assert report["errors"] == [], file.name
        assert [each for each in report["messages"] if each["severity"] >= 2] == [], file.name


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_object_is_valid(file: Path, version: str) -> None:
    for each in rendered(file):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_versions_are_those_that_the_chart_claims() -> None:
    chart = yaml.safe_load((HELM / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert kubernetes_validate.latest_version().startswith(NEWEST)


def test_every_object_has_a_name_of_its_own_and_the_chart_s_labels() -> None:
    for file in FILES:
        objects = rendered(file)
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(names) == len(set(names))
        for each in objects:
            assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "release"


@pytest.mark.parametrize("name", ["default", "full", "embedded"])
def test_the_gateway_serves_what_the_chart_writes(name: str, tmp_path: Path) -> None:
    """The ConfigMap, laid out as its volume does, is a good configuration with the admin listener guarded."""
    objects = rendered(HELM / "ci" / f"{name}-values.yaml")
    variables = {each["name"]: "value" for each in _pod(objects)["containers"][0]["env"]}
    loaded = load(lay_out(_pod(objects), objects, tmp_path), variables)
    options = dict(argument.split("=") for argument in _pod(objects)["containers"][0]["args"] if "=" in argument)
    overrides = Overrides.parse(
        options["--listen"], options["--admin"], options["--drain-notice"], options["--drain-timeout"]
    )
    configuration = dataclasses.replace(overrides, admin_token=variables["GATEWAY_ADMIN_TOKEN"]).over(loaded)
    assert str(configuration.server.listen) == "0.0.0.0:8080"
    assert str(configuration.server.admin) == "0.0.0.0:9901"
    assert configuration.server.admin_token == "value"
    sleep = re.search(r"sleep\((\d+)\)", json.dumps(_pod(objects)["containers"][0].get("lifecycle")))
    before_s = int(sleep.group(1)) if sleep else 0
    assert configuration.server.drain_notice_s is not None
    ending_s = before_s + configuration.server.drain_notice_s + configuration.server.drain_timeout_s
    assert _pod(objects)["terminationGracePeriodSeconds"] >= ending_s + 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pods_are_restricted(file: Path) -> None:
    """Kubernetes' "restricted" standard, for the gateway and for the test pod."""
    objects = rendered(file)
    for pod in (_pod(objects), one(objects, "Pod")["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostNetwork" not in pod
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            if container["name"] in ("sidecar", "before"):
                continue  # a value's own
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_configuration_is_mounted_as_a_folder(file: Path) -> None:
    """A subPath would never see a change."""
    container = _pod(rendered(file))["containers"][0]
    assert not any("subPath" in mount for mount in container["volumeMounts"])
    assert container["args"][:3] == ["serve", "-c", "/etc/gateway/routes.yaml"]


def test_probes_ask_the_admin_port_and_none_asks_iam() -> None:
    container = _pod(rendered(HELM / "ci/default-values.yaml"))["containers"][0]
    asked = {probe: container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert {each["port"] for each in asked.values()} == {"admin"}
    assert asked["readinessProbe"]["path"] == "/readyz"
    assert asked["livenessProbe"]["path"] == asked["startupProbe"]["path"] == "/livez"


def test_with_autoscaling_the_deployment_says_no_number() -> None:
    full = rendered(HELM / "ci/full-values.yaml")
    assert "replicas" not in one(full, "Deployment")["spec"]
    assert one(full, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3
    assert one(rendered(HELM / "ci/default-values.yaml"), "Deployment")["spec"]["replicas"] == 2


def test_the_admin_listener_is_never_published() -> None:
    full = rendered(HELM / "ci/full-values.yaml")
    services = {each["metadata"]["name"].removeprefix("edge"): each for each in full if each["kind"] == "Service"}
    public, admin, decisions = services[""], services["-admin"], services["-decisions"]
    assert public["spec"]["type"] == "LoadBalancer"
    assert [port["name"] for port in public["spec"]["ports"]] == ["http"]
    assert admin["spec"]["type"] == "ClusterIP"
    backends = json.dumps(one(full, "Ingress"))
    assert admin["metadata"]["name"] not in backends
    assert decisions["metadata"]["name"] not in backends


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicaCount": "two"}, "replicaCount"),
        ({"replicas": 2}, "replicas"),
        ({"service": {"port": 0}}, "port"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"config": {"routes": {"version": 1}}}, "routes"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs names no Gateway"),
        ({"config": {"routes": "version: 1"}}, "config.routes has no routes"),
        ({"config": {"routes": "routes: [}"}}, "config.routes is not YAML"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmError, match=complaint):
        render(values)


def _keys(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> list[str]:
    missing = []
    for name, value in values.items():
        known = schema.get("properties", {}).get(name)
        if known is None and schema.get("additionalProperties") is False:
            missing.append(prefix + name)
        elif isinstance(value, dict) and known and "properties" in known:
            missing += _keys(value, known, f"{prefix}{name}.")
    return missing


def test_every_value_is_in_the_schema_and_in_the_readme() -> None:
    values = yaml.safe_load((HELM / "values.yaml").read_text())
    schema = json.loads((HELM / "values.schema.json").read_text())
    assert _keys(values, schema) == []
    readme = (HELM / "README.md").read_text()
    assert [name for name in values if f"`{name}" not in readme] == []


def test_the_notes_name_the_secret_and_the_config_map() -> None:
    with Chart.load(HELM) as chart:
        manifests = chart.render(values=_values("existing"), name="release", namespace="prod")
    (notes,) = [text for name, text in manifests.items() if name.endswith("NOTES.txt")]
    assert "get secret my-admin" in notes
    assert "A change of my-routes is served" in notes
    assert "One replica" in notes


def test_the_decision_listener_has_a_port_a_service_and_a_rule_of_its_own() -> None:
    objects = rendered(HELM / "ci" / "full-values.yaml")
    ports = _pod(objects)["containers"][0]["ports"]
    assert {"name": "decisions", "containerPort": 8082, "protocol": "TCP"} in ports
    services = [each for each in objects if each["kind"] == "Service"]
    asked = next(each for each in services if each["metadata"]["name"].endswith("-decisions"))
    assert asked["spec"]["ports"] == [{"name": "decisions", "port": 8082, "targetPort": "decisions", "protocol": "TCP"}]
    rules = one(objects, "NetworkPolicy")["spec"]["ingress"]
    rule = next(each for each in rules if each["ports"][0]["port"] == "decisions")
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "envoy"}}}]
    for each in rendered(HELM / "ci" / "existing-values.yaml"):
        assert "decisions" not in json.dumps(each.get("spec", {}).get("ports", []))
