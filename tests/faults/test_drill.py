"""`gateway drill` breaks each part of a running demo, shows what callers see, and mends it; Ctrl-C leaves nothing.

A drill of IAM and one of a system run side by side: neither hides what the other shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.faults.actors import until
from tests.partial.demo import Demo, copy_shipped

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

BREAKABLE_S = 60.0
IAM = """
  cache: {ttl: 0s}
  circuit_breaker: {open_for: 1s}
  timeout: {connect: 500ms, read: 500ms, total: 800ms}"""
FAIL_CLOSED = """
timeout: {connect: 500ms, read: 1s}
circuit_breaker: {failure_threshold: 5, open_for: 1s}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    """The shipped demo, whose circuits open for a second only and whose permits are not reused."""
    file = copy_shipped(tmp_path_factory.mktemp("demo"))
    text = file.read_text().replace("cache: {ttl: 5s}", IAM).replace("open_for: 30s", "open_for: 1s")
    file.write_text(text)
    (file.parent / "policies" / "fail-closed.yaml").write_text(FAIL_CLOSED)
    demo = Demo(file)
    await demo.start()
    yield demo
    if demo.process is not None and demo.process.returncode is None:
        assert await demo.stop() == 0


async def _drill(demo: Demo, *arguments: str) -> str:
    code, said, errors = await demo.command("drill", *arguments)
    assert code == 0, errors
    before, broken, after = said.partition("\n-- ")[0], said.partition("\n-- ")[2], said.partition("-- repaired\n")[2]
    well = re.compile(r"[0-9:]{8} closed\*? +200\*? +200\*? +200\*? +200\*? +200\*? +403\*?")
    rows = [line for line in said.splitlines() if line[:2].isdigit()]
    assert well.fullmatch(next(line for line in before.splitlines() if line[:2].isdigit()))
    assert well.fullmatch([line for line in after.splitlines() if line[:2].isdigit()][-1])
    assert max(map(len, said.splitlines())) <= 80 or "waiting for" in max(said.splitlines(), key=len)
    assert len(rows) > 4
    return broken.partition("-- repaired")[0]


@pytest.mark.parametrize(
    ("mode", "iam_code", "system_answer"),
    [
        ("down", "iam_unreachable", "navigation: 502 upstream_unreachable"),
        ("errors", "iam_error", "navigation: 500"),
        ("hang", "iam_timeout", "navigation: 504 upstream_timeout"),
        ("slow", "iam_timeout", "navigation: 504 upstream_timeout"),
    ],
)
async def test_a_drill_shows_what_callers_see_and_everything_is_well_afterwards(
    demo: Demo, mode: str, iam_code: str, system_answer: str
) -> None:
    of_iam, of_system = await asyncio.gather(
        _drill(demo, f"iam-{mode}", "--for", "2s"),
        _drill(demo, f"upstream-{mode}", "--system", "registry", "--for", "2s"),
    )
    assert f"inventory: 503 {iam_code} retry in" in of_iam
    assert "monitoring: 200 (iam; mode=stale; age=" in of_iam
    assert "public: 5" not in of_iam
    assert "denied: 503" in of_iam, "nobody is called denied whom nobody was asked about"
    assert system_answer in of_system


async def test_an_interrupted_drill_mends_what_it_broke(demo: Demo) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "drill", "iam-down", "--for", "1h"),
        env={**demo.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(BREAKABLE_S):
        while b"503" not in await process.stdout.readline():
            pass
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), BREAKABLE_S)
    assert b"-- repaired" in out
    assert b"Traceback" not in err, err.decode()
    assert process.returncode not in (0, None)

    async def well() -> bool:
        return (await demo.get("/inventory/7")).status_code == 200

    await until(well)


async def test_an_interrupted_demo_leaves_nothing_running(demo: Demo) -> None:
    """Neither IAM nor the gateway nor a system; and the next drill finds no demo."""
    assert demo.process is not None
    assert demo.state is not None
    family = list(_family(demo.process.pid))
    assert len(family) >= 3, "the demo, IAM and the gateway"
    assert await demo.stop() == 0
    assert not [pid for pid in family if _alive(pid)]
    for url in (demo.state["gateway"], demo.state["admin"], demo.state["control"]):
        with socket.socket() as caller:
            assert caller.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) != 0
    code, _, err = await demo.command("drill", "iam-down", "--for", "1s")
    assert code == 1
    assert "no demo is running" in err


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
