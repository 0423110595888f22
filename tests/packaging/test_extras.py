"""Without an extra the program works, and what needs the extra says so in one sentence.

The import is blocked here. `tests/packaging/test_installed.py` installs the package without its extras.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import json, sys
sys.modules[sys.argv[1]] = None  # a later import raises ModuleNotFoundError
from typer.testing import CliRunner
from gateway.cli import app
runs = [CliRunner().invoke(app, command) for command in json.load(sys.stdin)]
print(json.dumps([[run.exit_code, run.stderr] for run in runs]))
"""
OPAQUE = (
    "version: 1\niam: {url: http://127.0.0.1:1}\nidentity: {opaque: {}}\nupstreams: {a: {url: http://127.0.0.1:1}}\n"
)
ROUTES = OPAQUE + "routes: [{id: a, path: /*, upstream: a, authorize: [read x:y]}]\n"
EMBEDDED = ROUTES.replace("{url: http://127.0.0.1:1}\nidentity", "{api: embedded}\nidentity")
SENTENCE = "Cedar is not installed. Install the extra iam-gateway[cedar], or: pip install cedarpy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies" / "access").mkdir(parents=True)
    (tmp_path / "policies" / "access" / "p.cedar").write_text("permit (principal, action, resource);\n")
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "embedded.yaml").write_text(EMBEDDED)
    return tmp_path


def without(module: str, folder: Path, *commands: str) -> list[tuple[int, str]]:
    """What each command ends with, in one process that cannot import the module."""
    ran = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", WITHOUT, module],
        cwd=folder,
        env={"HOME": str(folder), "PATH": ""},
        input=json.dumps([shlex.split(command) for command in commands]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [(code, said) for code, said in json.loads(ran.stdout)]


def test_what_needs_cedar_says_how_to_install_it_and_nothing_else_needs_it(folder: Path) -> None:
    needs = {
        "validate embedded.yaml": 1,
        "serve -c embedded.yaml": 1,
        "iam --listen 127.0.0.1:0": 1,
        "policy test": 1,
        "demo": 3,
    }
    works = ["validate routes.yaml", "explain 'GET /' -c routes.yaml --subject x", "routes -c routes.yaml"]
    ran = without("cedarpy", folder, *works, *needs)
    assert [code for code, _ in ran] == [*(0 for _ in works), *needs.values()]
    for _, said in ran[len(works) :]:
        assert said.rstrip().endswith(SENTENCE)
        assert len(said.splitlines()) == 1


def test_without_opentelemetry_it_serves_and_says_that_nothing_is_exported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gateway.telemetry.otlp.choice import choose
    from gateway.telemetry.setup import PropagatingObserver, _exporting

    for name in [name for name in sys.modules if name.startswith(("opentelemetry", "gateway.telemetry.otlp"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    observer, closing = _exporting(choose(environ), None, environ, lambda _: lambda _: None)  # type: ignore[arg-type]
    assert isinstance(observer, PropagatingObserver)
    assert closing == []
    assert "Install the extra iam-gateway[otlp]" in caplog.text
