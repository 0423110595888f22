"""The wheel in an environment of its own, without the repository: alone, then with the extra `cedar`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.soak


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    ran = subprocess.run(  # noqa: S603 - our own programs
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_wheel_serves_alone_and_runs_the_demo_with_its_extra(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").iterdir()
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", home, cwd=tmp_path)
    run(home / "bin" / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    gateway = home / "bin" / "iam-gateway"
    assert "cedarpy" not in run(home / "bin" / "pip", "list", cwd=tmp_path)
    assert "grpcio" not in run(home / "bin" / "pip", "list", cwd=tmp_path)
    run(gateway, "init", "--upstream", "http://127.0.0.1:1", "--iam", "http://127.0.0.1:2", cwd=tmp_path)
    assert "valid" in run(gateway, "validate", cwd=tmp_path)
    assert "iam-gateway[cedar]" in run(gateway, "demo", cwd=tmp_path, code=3)

    run(home / "bin" / "pip", "install", "--quiet", f"{wheel}[cedar]", cwd=tmp_path)
    offset = str(free_port())  # added to ports from 8080 to 9916
    command = [gateway, "demo", "--quiet", "--port-offset", offset]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603 - ours
        try:
            assert demo.stdout is not None
            end = time.monotonic() + 60
            while "status page" not in demo.stdout.readline():
                assert demo.poll() is None
                assert time.monotonic() < end
            assert "export ALICE=" in run(gateway, "demo", "env", "--port-offset", offset, cwd=tmp_path)
        finally:
            demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(30) == 0
