"""The examples are configurations that load, as they are and without any secret in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load
from gateway.model.route import AggregateAction

pytestmark = pytest.mark.hazard

ROOT = Path(__file__).parents[2]
EXAMPLES = ["user-audit.yaml", "device-audit.yaml"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_validate_accepts_it(name: str) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gateway", "validate", f"examples/{name}"]
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"examples/{name}: ")


def test_they_audit_the_six_systems_with_credentials_of_the_gateways_own() -> None:
    audited: list[str] = []
    for name in EXAMPLES:
        configuration = load(ROOT / "examples" / name, {})
        assert all(upstream.auth is not None for upstream in configuration.upstreams.values())
        actions = [route.action for route in configuration.routes if not route.id.endswith((".bulk", "health"))]
        for action in actions:
            assert isinstance(action, AggregateAction)
            audited += [part.name for part in action.parts]
    assert audited == ["Workday", "ActiveDirectory", "Entra", "Lansweeper", "Intune", "Helix"]
