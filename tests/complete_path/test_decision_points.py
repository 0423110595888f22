"""Each decision point decides the example of its page, is killed under load, and comes back.

The page is followed word for word; what it started then serves the load. Everything that reached the upstream stands in
its log, with the name of who asked in the query: nobody who was not permitted may be there.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.complete_path.foreign import folder_of_tools, of_npm, of_tools
from tests.complete_path.patience import PATIENCE_S
from tests.docs.console import Session, Step, steps

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

PAGES = Path(__file__).parents[2] / "docs" / "decision-points"
PROGRAMS = {
    "gateway-iam": lambda: "",
    "cerbos": lambda: of_npm("@cerbos", "cerbos-linux-x64", "cerbos-linux-x64"),
    "opa": lambda: of_tools("opa"),
    "openfga": lambda: of_tools("openfga"),
}
SLOW = {"keycloak"}  # by scripts/peers
SLOW_START_S = 600.0
PERMITTED = {("alice", "GET"), ("bob", "GET")}
ASKED = (*sorted(PERMITTED), ("bob", "DELETE"), ("mallory", "GET"), ("carol", "DELETE"))
QUIET_S = 1.5


@dataclass
class Load:
    """Callers who ask again and again, and what they were answered since `since`."""

    url: str
    folder: Path
    answers: Counter[tuple[str, str, int, bool]] = field(default_factory=Counter)
    over: bool = False

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, trust_env=False) as client:
            await asyncio.gather(*(self._call(client, who, method) for who, method in ASKED for _ in range(2)))

    def credentials(self, who: str) -> dict[str, str]:
        """As the page asks: with a token where it got one."""
        token = self.folder / f"{who}.token"
        return {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {"X-User": who}

    async def _call(self, client: httpx.AsyncClient, who: str, method: str) -> None:
        while not self.over:
            reply = await client.request(method, f"/orders/7?who={who}", headers=self.credentials(who))
            if reply.status_code == 503:
                assert int(reply.headers["retry-after"]) >= 1
            self.answers[who, method, reply.status_code, "x-gateway-degraded" in reply.headers] += 1

    async def of_a_moment(self, seconds: float = 1.0) -> set[tuple[str, str, int, bool]]:
        """What everybody was answered from now on."""
        self.answers.clear()
        await asyncio.sleep(seconds)
        return set(self.answers)


@pytest.fixture
def session(tmp_path: Path, name: str) -> Iterator[Session]:
    session = Session(tmp_path, patience_s=SLOW_START_S if name in SLOW else PATIENCE_S)
    yield session
    session.end()


def _provide(program: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page's commands find the program by its name."""
    if program:
        (folder / name).symlink_to(program)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in SLOW else []) for name in (*PROGRAMS, *SLOW)]
)
async def test_a_decision_point_decides_is_killed_under_load_and_comes_back(
    name: str,
    session: Session,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name in SLOW:
        shutil.copytree(folder_of_tools(name), tmp_path / name)
    else:
        _provide(PROGRAMS[name](), name, tmp_path_factory.mktemp("bin"), monkeypatch)
    page = steps(PAGES / f"{name}.md")
    for step in page:
        await asyncio.to_thread(session.follow, step)
    start = next(step for step in page if step.command.endswith(">pdp.pid"))
    load = Load(f"http://127.0.0.1:{session.port('8080')}", tmp_path)
    loading = asyncio.create_task(load.run())
    try:
        await _killed_and_revived(load, session, start, tmp_path)
    finally:
        load.over = True
        await loading
    reached = set(re.findall(r'"(\w+) /orders/7\?who=(\w+) HTTP', (tmp_path / "upstream.log").read_text()))
    assert reached == {(method, who) for who, method in PERMITTED}


async def _killed_and_revived(load: Load, session: Session, start: Step, folder: Path) -> None:
    decided = {(who, method, 200 if (who, method) in PERMITTED else 403, False) for who, method in ASKED}
    undecided = {(who, method, *((200, True) if (who, method) in PERMITTED else (503, False))) for who, method in ASKED}
    assert await _soon(load, decided)
    os.kill(int((folder / "pdp.pid").read_text()), signal.SIGKILL)
    await asyncio.sleep(QUIET_S)  # until the answers of the last second are old, and the circuit is open
    assert await load.of_a_moment() == undecided
    await asyncio.to_thread(session.follow, start)
    assert await _soon(load, decided)


async def _soon(load: Load, expected: set[tuple[str, str, int, bool]]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while (found := await load.of_a_moment(0.5)) != expected:
        assert time.monotonic() < end, found
    return True
