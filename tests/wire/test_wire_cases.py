"""Bytes on a connection to the real listener, and what may become of them: `must` cases are holes when they fail.

`SHOULD` lists the hardening cases that are known to differ, each argued in docs/threat-model.md; a case that is listed
and passes is an error too, so that the list cannot grow stale.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import GatewayProcess, Server, free_port, permits
from tests.wire.client import converse
from tests.wire.judge import faults
from tests.wire.sentinel import Sentinel

CASES = json.loads((Path(__file__).parent / "cases.json").read_text())
SHOULD: frozenset[str] = frozenset()
SETTLE_S = 0.05
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}"}}
iam: {{api: authzen, url: "{iam}", cache: {{ttl: 0s, negative_ttl: 0s}}}}
identity: {{opaque: {{}}}}
upstreams: {{sentinel: {{url: "http://127.0.0.1:{sentinel}"}}}}
routes:
  - {{id: inventory, path: /inventory/*, upstream: sentinel, deadline: 3s, authorize: ["access system:inventory"]}}
  - {{id: monitoring, path: /monitoring/*, upstream: sentinel, authorize: ["access system:monitoring"]}}
  - {{id: open, path: /open/*, upstream: sentinel, authorize: public}}
"""

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]


def _may(evaluation: dict[str, Any]) -> bool:
    subject, resource = evaluation["subject"]["id"], evaluation["resource"]["id"]
    return bool(subject == "allow" or (subject == "inv" and resource == "inventory"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[int, Sentinel]]:
    """One gateway for all cases: its port, and the sentinel behind it."""
    sentinel, iam = Sentinel(), Server(permits(_may))
    await iam.start()
    port, admin, upstream_port = free_port(), free_port(), free_port()
    upstream = await asyncio.start_server(sentinel.serve, "127.0.0.1", upstream_port, limit=1 << 20)
    file = tmp_path_factory.mktemp("wire") / "routes.yaml"
    file.write_text(ROUTES.format(port=port, admin=admin, iam=iam.url, sentinel=upstream_port))
    gateway = GatewayProcess(file, port, admin)
    await gateway.start()
    yield port, sentinel
    assert await gateway.stop() == 0
    upstream.close()
    await iam.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged(bench: tuple[int, Sentinel]) -> Callable[[dict[str, Any]], Any]:
    """A function from a case to what is wrong with it."""
    port, sentinel = bench
    control = next(case for case in CASES if case["id"] == "B01")
    await converse(control, port)
    added = {name for name, _ in sentinel.requests[0].headers} - {"host", "authorization", "connection"}

    async def judge(case: dict[str, Any]) -> list[str]:
        sentinel.reset()
        talk = await converse(case, port)
        await asyncio.sleep(SETTLE_S)
        sentinel.judged += len(sentinel.requests)
        return faults(case, talk, sentinel, added)

    return judge


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']}-{case['area']}")
async def test_bytes_on_the_wire(judged: Callable[[dict[str, Any]], Any], case: dict[str, Any]) -> None:
    wrong = await judged(case)
    if case["id"] in SHOULD:
        assert case["level"] == "should"
        assert wrong, f"{case['id']} passes now: take it off the list"
    else:
        assert not wrong, f"{case['why']}: {'; '.join(wrong)}"


async def test_nothing_arrives_after_its_case_was_judged(bench: tuple[int, Sentinel]) -> None:
    """What arrives during a later case is a fault there; what arrives between two cases, or after the last, is here."""
    _, sentinel = bench
    await asyncio.sleep(1.0)
    assert sentinel.arrived == sentinel.judged + 1, "one is the control"
