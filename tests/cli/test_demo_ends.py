"""A demo that cannot go on says so: it never just stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import httpx
import pytest

from gateway.demo.state import moved
from tests.partial.demo import START_S, Demo, copy_shipped

pytestmark = [
    pytest.mark.hazard,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to find the gateway's process in"),
]


def serving(parent: int) -> int:
    """The process id of the demo's gateway."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            ours = f"PPid:\t{parent}\n" in (folder / "status").read_text()
        except OSError:
            continue
        if ours and b"serve" in command:
            return int(folder.name)
    raise AssertionError("the demo runs no gateway")


async def test_a_gateway_that_dies_ends_the_demo_with_3_and_a_line(tmp_path: Path) -> None:
    demo = Demo(copy_shipped(tmp_path))
    await demo.start()
    assert demo.process is not None
    os.kill(serving(demo.process.pid), signal.SIGKILL)
    assert await asyncio.wait_for(demo.process.wait(), START_S) == 3
    await demo.reader
    assert demo.errors.decode().endswith("the gateway has ended by itself, and with it the demo\n")
    await demo.client.aclose()
    await demo.admin.aclose()


async def test_a_demo_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    demo = Demo(copy_shipped(tmp_path))
    await demo.start()
    assert demo.process is not None
    child, admin = serving(demo.process.pid), demo.admin
    demo.process.kill()
    await demo.process.wait()
    async with asyncio.timeout(10):
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    with pytest.raises(httpx.TransportError):
        await admin.get("/livez")
    await demo.client.aclose()
    await demo.admin.aclose()


async def test_a_second_demo_runs_beside_the_first_and_tells_its_tokens(tmp_path: Path) -> None:
    file = copy_shipped(tmp_path)
    moved_file = moved(file, 1, tmp_path / "moved")
    ports = [[int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", each.read_text())] for each in (file, moved_file)]
    assert ports[1] == [port + 1 for port in ports[0]]
    assert (moved_file.parent / "policies" / "access").is_dir()
    demo = Demo(file)
    await demo.start()
    code, told, _ = await demo.command("demo", "env")
    assert code == 0
    assert f"export GATEWAY={demo.state['gateway']}\n" in told
    assert f"export ALICE={demo.state['tokens']['alice']}\n" in told
    assert (await demo.command("demo", "env", "--port-offset", "1"))[0] == 1
    begun_s = time.monotonic()
    assert await demo.stop() == 0
    assert time.monotonic() - begun_s < 5, "a second, on a machine with nothing else to do"
