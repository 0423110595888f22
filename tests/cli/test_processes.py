"""Commands as processes: ports that are taken, pipes that break, disks that are full, terminals, signals."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import build
from tests.cli.conftest import CONFIGURATION, Run

pytestmark = pytest.mark.hazard

GATEWAY = (sys.executable, "-m", "gateway")
PATIENCE_S = 60


@pytest.fixture
def taken() -> Iterator[str]:
    """An address on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


@pytest.fixture
def configured(folder: Path, taken: str) -> Path:
    """A configuration for the demo whose listener is taken."""
    text = CONFIGURATION.replace('listen: "127.0.0.1:0"', f'listen: "{taken}"')
    text = (
        text.replace("127.0.0.1:9001", taken)
        .replace("stock", "inventory", 1)
        .replace("upstream: stock", "upstream: inventory")
    )
    file = folder / "demo.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--listen", "TAKEN"),
        ("serve", "--admin", "TAKEN"),
        ("serve", "--listen", "TAKEN", "--workers", "2"),
        ("iam", "--listen", "TAKEN", "--policies", "access"),
    ],
)
def test_a_port_in_use_is_3(process: Run, folder: Path, taken: str, arguments: tuple[str, ...]) -> None:
    (folder / "access").mkdir()
    (folder / "access" / "all.cedar").write_text("permit (principal, action, resource);\n")
    ran = process(*(taken if word == "TAKEN" else word for word in arguments))
    ran.refuses(3, f"cannot listen on {taken}", "in use")


@pytest.mark.parametrize("address", ["no.such.host.invalid:80", "192.0.2.1:80"])
def test_an_address_that_is_not_ours_is_3(process: Run, address: str) -> None:
    process("serve", "--listen", address).refuses(3, f"cannot listen on {address}: ")


@pytest.mark.usefixtures("configured")
def test_a_demo_that_cannot_have_its_ports_is_3(process: Run, folder: Path, taken: str) -> None:
    ran = process("demo", "-c", "demo.yaml", XDG_RUNTIME_DIR=str(folder))
    ran.refuses(3, taken)


def test_a_demo_with_a_wrong_file_is_1(process: Run, folder: Path) -> None:
    process("demo", "-c", "missing.yaml", XDG_RUNTIME_DIR=str(folder / "nowhere")).refuses(
        1, "missing.yaml:1:1: error["
    )


def accepts(address: tuple[str, int]) -> bool:
    """Whether somebody listens."""
    with socket.socket() as caller:
        return caller.connect_ex(address) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_as_soon_as_the_port_is_open_is_a_clean_stop(folder: Path, number: int, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    command = [*GATEWAY, "serve", "--listen", f"127.0.0.1:{address[1]}", "--workers", workers]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as serving:  # noqa: S603 - our own program
        while not accepts(address):
            assert serving.poll() is None
            time.sleep(0.002)
        serving.send_signal(number)
        _, said = serving.communicate(timeout=PATIENCE_S)
        assert serving.returncode == 0, said
        assert b"Traceback" not in said


def test_a_pipe_that_breaks_is_no_crash(folder: Path) -> None:
    """`gateway schema | head -0`: nobody is told, nobody is puzzled."""
    for command in (("schema",), ("routes",), ("explain", "GET /open/x")):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(  # noqa: S603 - our own program
            [*GATEWAY, *command], stdout=write, stderr=subprocess.PIPE, cwd=folder, timeout=PATIENCE_S, check=False
        )
        os.close(write)
        assert done.stderr == b""
        assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603 - our own program
            [*GATEWAY, "schema"], stdout=full, stderr=subprocess.PIPE, cwd=folder, timeout=PATIENCE_S, check=False
        )
    assert done.stderr == b"cannot write: No space left on device\n"
    assert done.returncode == 1


def test_the_module_is_the_program(process: Run) -> None:
    process("--version").says(0, out=f"gateway {build()}")
    process("frobnicate").says(2, err="Usage: python -m gateway")
    script = Path(sys.executable).with_name("gateway")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=PATIENCE_S, check=True)  # noqa: S603
    assert done.stdout == f"gateway {build()}\n"


def _on_a_terminal(folder: Path, *arguments: str, **environ: str) -> str:
    """What a command writes to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "CI"}}
    environment = {**clean, "TERM": "xterm-256color", "COLUMNS": "120", **environ}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*GATEWAY, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # how a terminal ends
        pass
    finally:
        os.close(ours)
        process.wait(PATIENCE_S)
    return written.decode()


def test_tables_and_colour_only_on_a_terminal_and_no_color_obeyed(folder: Path, process: Run) -> None:
    shown = _on_a_terminal(folder, "routes")
    assert "\x1b[" in shown
    assert "\t" not in shown
    plain = _on_a_terminal(folder, "routes", NO_COLOR="1")
    assert "\x1b[3" not in plain
    assert "\x1b[9" not in plain
    assert "inventory" in plain
    piped = process("routes", FORCE_COLOR="")
    assert "\x1b" not in piped.out
    assert "inventory\t" in piped.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_serving_process_ends_cleanly_with_0(folder: Path, number: signal.Signals) -> None:
    access = folder / "access"
    access.mkdir()
    (access / "all.cedar").write_text("permit (principal, action, resource);\n")
    process = await asyncio.create_subprocess_exec(
        *(*GATEWAY, "iam", "--policies", "access", "--listen", "127.0.0.1:0"),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    first = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
    assert b"serving 1 policies" in first or b"serving 1 polic" in first
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err
