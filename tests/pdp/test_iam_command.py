"""`gateway iam` as a process: it serves, reloads, breaks on request, and ends with the exit code that is promised."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.hazard
PATIENCE_S = 30.0
ALICE = 'permit(principal == Identity::"alice", action, resource);\n'
READ = {
    "subject": {"type": "identity", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "system", "id": "inventory"},
}


class Iam:
    """A running `gateway iam`. `lines` is what it said on stderr so far."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.lines: list[str] = []
        self._said = threading.Condition()
        self.process = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", "gateway", "iam", "--policies", str(folder), "--listen", "127.0.0.1:0", *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        ready = self.said("gateway iam: serving")
        found = re.search(r"http://127\.0\.0\.1:\d+", ready)
        assert found is not None, self.lines
        self.url = found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()

    def said(self, text: str) -> str:
        """Wait for a line with `text` in it."""
        with self._said:
            self._said.wait_for(lambda: any(text in line for line in self.lines), PATIENCE_S)
            return next((line for line in self.lines if text in line), "")

    def ask(self, question: Any = READ) -> Any:
        return httpx.post(f"{self.url}/access/v1/evaluation", json=question, timeout=PATIENCE_S).json()

    def fault(self, **wanted: Any) -> None:
        httpx.post(f"{self.url}/-/fault", json=wanted, timeout=PATIENCE_S).raise_for_status()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start() -> Iterator[Callable[..., Iam]]:
    """Starts `gateway iam`, and makes sure that it ends."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, *options: str) -> Iam:
            iam = Iam(folder, *options)
            stack.callback(lambda: (iam.process.kill(), iam.process.communicate()))
            return iam

        yield start


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(  # noqa: S603 - this program itself
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_cleanly(folder: Callable[..., Path], start: Callable[..., Iam], number: int):
    iam = start(folder(ALICE, [{"uid": {"type": "Identity", "id": "alice"}}]))
    assert "1 policies and 1 entities" in iam.lines[0]
    assert iam.ask() == {"decision": True}
    discovered = httpx.get(f"{iam.url}/.well-known/authzen-configuration").json()
    assert discovered["policy_decision_point"] == iam.url
    assert httpx.post(f"{iam.url}/-/fault", json={"mode": "down"}).status_code == 404
    assert iam.end(number) == 0
    assert len(iam.lines) == 1, "one clear line, and no decisions unless asked for"


def test_no_answer_waits_for_an_acknowledgement(folder: Callable[..., Path], start: Callable[..., Iam]):
    """Head and body leave in two writes: the second must not wait 40 ms for the caller's delayed acknowledgement."""
    iam = start(folder(ALICE))
    with httpx.Client(base_url=iam.url, trust_env=False) as client:
        taken_s = []
        for _ in range(30):
            reply = client.post("/access/v1/evaluation", json=READ)
            assert reply.json()["decision"] is True
            taken_s.append(reply.elapsed.total_seconds())
    assert sorted(taken_s)[len(taken_s) // 3] < 0.03


def test_a_hangup_reloads_and_a_mistake_keeps_the_last_good_policies(
    folder: Callable[..., Path], start: Callable[..., Iam]
):
    iam = start(folder(ALICE))
    folder(ALICE + "permit(")
    iam.process.send_signal(signal.SIGHUP)
    assert "p.cedar:2:8: error[policy-syntax]" in iam.said("error[policy-syntax]")
    assert iam.said("the last good ones stay in use")
    assert iam.ask() == {"decision": True}
    folder(ALICE.replace("alice", "bob"))
    iam.process.send_signal(signal.SIGHUP)
    assert iam.said("reloaded 1 policies")
    assert iam.ask() == {"decision": False}


def test_verbose_logs_decisions_and_never_a_token(folder: Callable[..., Path], start: Callable[..., Iam]):
    iam = start(folder(ALICE), "--verbose")
    iam.ask()
    iam.ask({**READ, "subject": {"type": "token", "id": "s3cret"}})
    assert 'Identity::"alice" "read" System::"inventory": allow (p.cedar:1:1)' in iam.said('"alice"')
    assert 'Token "read" System::"inventory": deny (no policy permits it)' in iam.said("Token")
    assert "s3cret" not in "".join(iam.lines)


def test_down_resets_every_connection_and_can_be_taken_back(folder: Callable[..., Path], start: Callable[..., Iam]):
    iam = start(folder(ALICE), "--control")
    with httpx.Client(timeout=PATIENCE_S) as kept:
        assert kept.post(f"{iam.url}/access/v1/evaluation", json=READ).json() == {"decision": True}
        iam.fault(mode="down")
        for _ in range(2):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)):
                kept.post(f"{iam.url}/access/v1/evaluation", json=READ)
    iam.fault(mode="ok")
    assert iam.ask() == {"decision": True}
    assert iam.end(signal.SIGTERM) == 0


def test_hang_answers_nobody_and_does_not_keep_the_process_from_ending(
    folder: Callable[..., Path], start: Callable[..., Iam]
):
    iam = start(folder(ALICE), "--control")
    iam.fault(mode="hang", for_s=600)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{iam.url}/access/v1/evaluation", json=READ, timeout=0.3)
    assert iam.end(signal.SIGTERM) == 0


def test_a_port_in_use_is_one_line_and_exit_code_3(folder: Callable[..., Path]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("iam", "--policies", str(folder(ALICE)), "--listen", address)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == f"cannot listen on {address}: Address already in use\n"


def test_bad_policies_are_all_their_mistakes_and_exit_code_1(folder: Callable[..., Path]):
    path = folder("permit(;\n", "[{}]")
    ended = run("iam", "--policies", str(path), "--listen", "127.0.0.1:0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert [line.partition(": ")[0] for line in ended.stderr.splitlines()] == [
        f"{path}/entities.json:1:2",
        f"{path}/p.cedar:1:8",
    ]


@pytest.mark.parametrize("address", ["8181", "127.0.0.1", "127.0.0.1:x", ":8181", "::1:8181", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_a_usage_error(folder: Callable[..., Path], address: str):
    ended = run("iam", "--policies", str(folder(ALICE)), "--listen", address)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_policy_test_by_process(folder: Callable[..., Path]):
    case = '[[case]]\nwhy = "alice reads"\nsubject = "alice"\ncheck = "read system:x"\nallow = true\n'
    path = folder(ALICE, c__cases__toml=case)
    passed = run("policy", "test", str(path))
    assert (passed.returncode, passed.stderr) == (0, "1 passed, 0 failed\n")
    assert passed.stdout == f"pass\t{path}/c.cases.toml:1:1\talice read system:x\tallow\talice reads\n"
    failed = run("policy", "test", str(folder(c__cases__toml=case.replace("true", "false"))))
    assert failed.returncode == 1
    assert (
        f"{path}/c.cases.toml:1:1: error[case-failed]: alice read system:x: expected deny, got allow" in failed.stderr
    )
    broken = run("policy", "test", str(path / "none"))
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "error[no-folder]" in broken.stderr
