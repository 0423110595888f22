"""Mistakes in the access policies beside a routes.yaml: no command serves with them, and each shows all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
