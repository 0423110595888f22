"""A demo that cannot go on says so: it never just stops."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

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
