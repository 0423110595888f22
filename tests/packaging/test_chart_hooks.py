"""What the chart does before it changes anything: the text stays as it is, a mistake stops it, one token is made."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

from tests.packaging.rendering import HELM, lay_out, render

pytestmark = pytest.mark.integration
FILES = sorted((HELM / "ci").glob("*-values.yaml"))

ROUTES = """\
# The first line is a comment, and the file has words that YAML 1.1 takes for true and false.
version: 1
server: {name: "on", access_log: off}
iam: {url: "http://iam:8181", token: "${IAM_TOKEN}"}   # a comment at the end
identity: {opaque: {}}
upstreams: {u: {url: "http://u:80"}}
routes:
  - id: on
    path: /on/*
    upstream: u
    authorize: {GET: ["read switch:on"], "*": ["write switch:{method}"]}

  - {id: off, path: /off, upstream: u, authorize: public, methods: [GET]}
"""
VALUES: dict[str, Any] = {"config": {"routes": ROUTES}, "iamToken": {"existingSecret": "iam", "key": "token"}}


def _named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def test_the_text_of_routes_yaml_is_left_alone() -> None:
    """Byte for byte: comments, empty lines, `on` and `off`."""
    objects = render(VALUES)
    for name in ("release-iam-gateway", "release-iam-gateway-check"):
        assert _named(objects, "ConfigMap", name)["data"]["routes.yaml"] == ROUTES


@pytest.mark.parametrize("text", ["  \n  # indented\n" + ROUTES, ROUTES + "\n\n", ROUTES.rstrip("\n")])
def test_space_at_its_ends_does_no_harm(text: str) -> None:
    objects = render({"config": {"routes": text}})
    data = _named(objects, "ConfigMap", "release-iam-gateway")["data"]["routes.yaml"]
    assert data.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_renders_give_the_same_bytes(file: Path) -> None:
    """As tools do that cannot look into the cluster: whatever differs would be rolled out each time."""
    values = yaml.safe_load(file.read_text()) or {}
    with Chart.load(HELM) as chart:
        first, second = (chart.render(values=values, name="release", namespace="prod") for _ in range(2))
    assert first == second


def _check(values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """The hook of an upgrade, run as its job would."""
    objects = render(values)
    job = _named(objects, "Job", "release-iam-gateway-check")
    assert "pre-upgrade" in job["metadata"]["annotations"]["helm.sh/hook"].split(",")
    pod = job["spec"]["template"]["spec"]
    file = lay_out(pod, objects, folder)
    (container,) = pod["containers"]
    arguments = [argument.replace("/etc/gateway/routes.yaml", str(file)) for argument in container["args"]]
    variables = {each["name"]: each["value"] for each in container["env"]}
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "gateway", *arguments], env=variables, text=True, capture_output=True, check=False
    )


def test_a_good_upgrade_passes_the_hook(tmp_path: Path) -> None:
    done = _check(VALUES, tmp_path)
    assert (done.returncode, "valid" in done.stdout) == (0, True), done.stderr


def test_an_upgrade_with_a_mistake_is_stopped_by_the_hook(tmp_path: Path) -> None:
    """With the place of the mistake in the user's own file."""
    done = _check(
        {**VALUES, "config": {"routes": ROUTES.replace("upstream: u, authorize", "upstrem: u, authorize")}}, tmp_path
    )
    assert done.returncode == 1
    assert "routes.yaml:13:" in done.stderr
    assert "upstream" in done.stderr


def test_hooks_run_in_order_and_before_anything_changes() -> None:
    weights = {}
    for each in render(VALUES):
        annotations = each["metadata"].get("annotations", {})
        if annotations.get("helm.sh/hook") == "pre-install,pre-upgrade":
            weights[each["kind"], each["metadata"]["name"].rsplit("-", 1)[1]] = int(annotations["helm.sh/hook-weight"])
    assert weights["ServiceAccount", "token"] < weights["Job", "token"]
    assert weights["RoleBinding", "token"] < weights["Job", "token"]
    assert weights["ConfigMap", "check"] < weights["Job", "check"]


def test_no_pod_of_a_hook_is_taken_for_a_gateway() -> None:
    objects = render(VALUES)
    selector = _named(objects, "Service", "release-iam-gateway")["spec"]["selector"].items()
    for job in (each for each in objects if each["kind"] == "Job"):
        assert not selector <= job["spec"]["template"]["metadata"]["labels"].items()


def test_new_pods_check_their_configuration_with_their_own_variables() -> None:
    pod = _named(render(VALUES), "Deployment", "release-iam-gateway")["spec"]["template"]["spec"]
    (init,), (gateway,) = pod["initContainers"], pod["containers"]
    assert init["args"] == ["validate", "/etc/gateway/routes.yaml"]
    assert (init["env"], init["volumeMounts"]) == (gateway["env"], gateway["volumeMounts"])


class Api(BaseHTTPRequestHandler):
    """As much of Kubernetes as makes secrets."""

    kept: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        assert self.headers["authorization"] == "Bearer of-the-pod"
        document = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = document["metadata"]["name"]
        self.send_response(409 if name in self.kept else 201)
        self.kept.setdefault(name, {"path": self.path, **document})
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    Api.kept = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_admin_token_is_made_once(api: ThreadingHTTPServer, tmp_path: Path) -> None:
    """Install and upgrade run the same job: the second finds the secret and leaves it."""
    (tmp_path / "token").write_text("of-the-pod\n")
    objects = render(VALUES)
    (container,) = _named(objects, "Job", "release-iam-gateway-token")["spec"]["template"]["spec"]["containers"]
    tokens = []
    for _ in range(2):
        variables = {each["name"]: each["value"] for each in container["env"]}
        variables |= {"API": f"http://127.0.0.1:{api.server_port}", "ACCOUNT": str(tmp_path)}
        done = subprocess.run(  # noqa: S603 - the chart's own script
            [sys.executable, "-c", *container["args"]], env=variables, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (secret,) = Api.kept.values()
        tokens.append(secret["stringData"]["token"])
        assert tokens[-1] not in done.stdout
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) >= 40
    assert secret["path"] == "/api/v1/namespaces/prod/secrets"
    gateway = _named(objects, "Deployment", "release-iam-gateway")["spec"]["template"]["spec"]["containers"][0]
    (reference,) = [
        each["valueFrom"]["secretKeyRef"] for each in gateway["env"] if each["name"] == "GATEWAY_ADMIN_TOKEN"
    ]
    assert reference == {"name": secret["metadata"]["name"], "key": "token"}


def test_with_a_secret_of_your_own_nothing_is_made() -> None:
    objects = render({"adminToken": {"existingSecret": "mine"}})
    assert not [each for each in objects if each["kind"] in ("Role", "RoleBinding", "Secret")]


def test_what_makes_the_token_may_do_nothing_else() -> None:
    (role,) = [each for each in render({}) if each["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def test_a_route_of_the_gateway_api_leads_to_the_service() -> None:
    objects = render({"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example"]}})
    route = _named(objects, "HTTPRoute", "release-iam-gateway")["spec"]
    assert (route["parentRefs"], route["hostnames"]) == ([{"name": "public"}], ["a.example"])
    assert route["rules"][0]["backendRefs"] == [{"name": "release-iam-gateway", "port": 80}]


def test_an_image_is_pinned_by_its_digest() -> None:
    digest = "sha256:" + "0f" * 32
    pod = _named(render({"image": {"tag": "1", "digest": digest}}), "Deployment", "release-iam-gateway")
    assert pod["spec"]["template"]["spec"]["containers"][0]["image"] == f"iam-gateway@{digest}"
