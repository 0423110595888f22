"""Mistakes in the access policies beside a routes.yaml: no command serves with them, and each shows all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load
from gateway.pdp import unasked
from gateway.pdp.check import access_warnings

pytestmark = pytest.mark.hazard
PATIENCE_S = 30.0
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0"}}
iam: {iam}
identity: {{jwt: {{issuer: i, audience: a, algorithms: [ES256], jwks_url: "https://idp.example/jwks"}}}}
upstreams: {{u: {{url: "http://127.0.0.1:9"}}}}
routes:
  - {{id: a, path: /a, upstream: u, authorize: ["read system:a"]{rest}}}
"""
AUTHZEN = '{url: "http://127.0.0.1:9"}'


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(  # noqa: S603 - this program itself
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def write(folder: Path, policy: str, iam: str = "{api: embedded}", rest: str = "") -> Path:
    access = folder / "policies" / "access"
    access.mkdir(parents=True)
    (access / "p.cedar").write_text(policy)
    (folder / "routes.yaml").write_text(ROUTES.format(iam=iam, rest=rest))
    return folder


def test_validate_shows_them_as_text_and_as_json(tmp_path: Path):
    folder = write(tmp_path, "permit(principal action);\nforbid();")
    text = run(folder, "validate")
    assert (text.returncode, text.stdout) == (1, "")
    assert [line.split(": ")[0] for line in text.stderr.splitlines()] == [
        "policies/access/p.cedar:1:18",
        "policies/access/p.cedar:2:1",
    ]
    document = json.loads(run(folder, "validate", "--output", "json").stdout)
    assert document["valid"] is False
    assert [(problem["line"], problem["severity"]) for problem in document["problems"]] == [(1, "error"), (2, "error")]


@pytest.mark.parametrize(
    ("iam", "rest"),
    [("{api: embedded}", ""), (AUTHZEN, ", on_iam_failure: {degrade: local}")],
    ids=["embedded", "local"],
)
def test_nothing_serves_with_policies_that_it_needs_and_cannot_read(tmp_path: Path, iam: str, rest: str):
    ended = run(write(tmp_path, "permit(", iam, rest), "serve")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("policies/access/p.cedar:1:8: error[policy-syntax]")
    assert "Traceback" not in ended.stderr


NAMES = """permit(principal is Person, action == Action::"read", resource is System);
permit(principal, action == Action::"raed", resource == System::"a");
permit(principal, action in [Action::"read", Action::"changes"], resource is Systm);
permit(principal, action == Action::"removals", resource in SystemGroup::"all");
"""
ENTITIES = """[
  {"uid": {"type": "Action", "id": "read"}, "parents": [{"type": "Action", "id": "changes"}]},
  {"uid": {"type": "System", "id": "s"}, "parents": [{"type": "SystemGroup", "id": "all"}]}
]"""


def warnings_of(folder: Path, policy: str = NAMES, rest: str = "") -> list[str]:
    write(folder, policy, rest=rest)
    (folder / "policies" / "access" / "entities.json").write_text(ENTITIES)
    configuration = load(folder / "routes.yaml", {})
    return [line.removeprefix(f"{folder}/policies/access/") for line in access_warnings(configuration)]


RAED = "p.cedar:2:1: warning[unasked-action]: no route asks for the action 'raed'; did you mean 'read'?"
SYSTM = (
    "p.cedar:3:1: warning[unknown-type]: no route asks for a 'Systm', and entities.json has none; "
    "did you mean 'System'?"
)
REMOVALS = "p.cedar:4:1: warning[unasked-action]: no route asks for the action 'removals'"


def test_what_policies_name_and_no_route_asks_for_is_told_with_its_place(tmp_path: Path):
    assert warnings_of(tmp_path) == [RAED, SYSTM, REMOVALS]
    shown = json.loads(run(tmp_path, "validate", "--output", "json").stdout)
    assert [warning["id"] for warning in shown["warnings"]] == ["unasked-action", "unknown-type", "unasked-action"]
    assert run(tmp_path, "validate", "--strict").returncode == 1


def test_where_a_route_leaves_open_what_it_asks_only_near_misses_are_told(tmp_path: Path):
    more = ', methods: [GET]}\n  - {id: b, path: "/b/{what}", upstream: u, authorize: ["{path.what} {path.what}:x"]'
    assert warnings_of(tmp_path, rest=more) == [RAED, SYSTM]


def test_the_shipped_policies_are_all_asked_for():
    root = Path(__file__).parents[2]
    assert list(unasked.warnings_of(root / "policies" / "access", load(root / "routes.yaml", {}).routes)) == []
