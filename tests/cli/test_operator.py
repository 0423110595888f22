"""`gateway reload` and `gateway status`: by the admin listener, with exit codes for scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.hazard

STATUS = {
    "version": "1",
    "ready": True,
    "draining": False,
    "in_flight": 3,
    "config": {"file": "routes.yaml", "warnings": [], "reload_problems": ["routes.yaml:1:1: error[x]: y"]},
    "routes": [{}, {}],
    "iam": {"api": "authzen", "state": "open"},
    "problems": [{"severity": "down", "title": "IAM is down", "text": "IAM cannot be reached."}],
    "breakers": {
        "iam": {"state": "open", "forced": None, "remaining_s": 4.2},
        "shop": {"state": "closed", "forced": None, "remaining_s": 0.0},
    },
}


class Admin(BaseHTTPRequestHandler):
    """An admin listener that says what it is told to."""

    answers: tuple[int, Any]

    def do_GET(self) -> None:
        status, document = self.answers
        if self.command == "POST" and self.headers.get("x-gateway-admin") != "1":
            status = 403
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def admin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_reload_that_serves(run: Run, admin: str) -> None:
    Admin.answers = 200, {"reloaded": True, "problems": []}
    run("reload", "--admin", admin).says(0, out="reloaded")


def test_a_reload_that_is_refused_prints_every_mistake(run: Run, admin: str) -> None:
    Admin.answers = (
        422,
        {"reloaded": False, "problems": ["routes.yaml:1:1: error[a]: b", "routes.yaml:2:1: error[c]: d"]},
    )
    ran = run("reload", "--admin", admin)
    assert ran.code == 1
    assert ran.err.splitlines()[1:] == Admin.answers[1]["problems"]


def test_the_status_in_a_few_lines(run: Run, admin: str) -> None:
    Admin.answers = 200, STATUS
    ran = run("status", "--admin", admin)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "gateway 1: ready, 3 requests in flight",
        "configuration: routes.yaml, 2 routes, 0 warnings",
        "refused since: routes.yaml:1:1: error[x]: y",
        "IAM: authzen, circuit open",
        "down: IAM is down. IAM cannot be reached.",
        "circuit iam: open, 4 s left",
    ]
    assert json.loads(run("status", "--admin", admin, "--output", "json").out) == STATUS


@pytest.mark.parametrize("command", ["reload", "status"])
def test_who_is_not_let_in_is_told_what_is_needed(run: Run, admin: str, command: str) -> None:
    Admin.answers = 401, {}
    ran = run(command, "--admin", admin)
    assert ran.code == 1
    assert "GATEWAY_ADMIN_TOKEN" in ran.err


@pytest.mark.parametrize("command", ["reload", "status"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[::1"])
def test_who_is_not_there_is_3(run: Run, command: str, url: str) -> None:
    ran = run(command, "--admin", url)
    assert (ran.code, len(ran.err.splitlines())) == (3, 1)
