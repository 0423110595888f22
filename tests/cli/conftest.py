"""The command line, inside this process for what only computes, as a process of its own for the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli import app
from tests.support.command_line import CliRunner

CONFIGURATION = """\
version: 1
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", trusted_proxies: [127.0.0.0/8]}
iam: {url: "http://127.0.0.1:1", timeout: {connect: 300ms, read: 300ms, total: 400ms}}
identity: {header: {name: X-User}}
upstreams: {stock: {url: "http://127.0.0.1:9001"}, pages: {url: "http://127.0.0.1:9002"}}
routes:
  - id: inventory
    path: /inventory/*
    upstream: stock
    authorize:
      GET: ["read system:inventory", "{method} route:{route.path}"]
      "*": ["write system:{query.system}"]
    on_iam_failure: {degrade: stale, max_stale: 60s}
  - {id: switch, path: "/inventory/switches/{switch}", upstream: stock, authorize: ["read switch:{path.switch}"]}
  - {id: tenant, path: /inventory/*, host: tenant.example, upstream: stock, authorize: ["read system:tenant"]}
  - {id: open, path: /open/*, upstream: pages, methods: [GET], authorize: public}
  - {id: known, path: /known, upstream: pages, authorize: authenticated}
  - id: menu
    path: /menu
    authorize: authenticated
    navigation: {upstream: pages, items: /items/*, check: "{item.action} {item.resource}"}
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def says(self, code: int, *, out: str = "", err: str = "") -> None:
        """Assert the exit code and a part of what was said; nothing may look like a crash."""
        assert self.code == code, self
        assert out in self.out, self
        assert err in self.err, self
        assert "Traceback" not in self.out + self.err, self

    def refuses(self, code: int, *parts: str) -> None:
        """Assert that nothing but one line of diagnostics was said, with these parts."""
        assert self.code == code, self
        assert self.out == "", self
        assert len(self.err.splitlines()) == 1, self
        assert all(part in self.err for part in parts), self


Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a valid routes.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "routes.yaml").write_text(CONFIGURATION)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a command in this process."""

    def run(*arguments: str) -> Ran:
        result = CliRunner().invoke(app, arguments, prog_name="gateway")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process(folder: Path) -> Run:
    """Run a command as a process of its own; `environ` adds to its environment."""

    def process(*arguments: str, **environ: str) -> Ran:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "gateway", *arguments],
            env={**os.environ, **environ},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return process
