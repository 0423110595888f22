"""The decision log of a real gateway: every kind of decision, rotation, a full disk."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.complete_path.patience import until
from tests.e2e.conftest import iam, start_gateway, upstream

__all__ = ["iam", "start_gateway", "upstream"]
pytestmark = [pytest.mark.hazard, pytest.mark.integration]

ROUTES = """
version: 1
server:
  listen: "127.0.0.1:{port}"
  admin: "127.0.0.1:{admin}"
  trusted_proxies: [127.0.0.0/8]
  decision_log: {path: decisions.jsonl}
iam: {url: "IAM"}
identity: {header: {name: X-User}}
upstreams: {a: {url: "UPSTREAM"}}
routes:
  - {id: guarded, path: /guarded/*, upstream: a, authorize: ["read system:guarded"]}
  - {id: known, path: /known, upstream: a, authorize: authenticated}
  - {id: open, path: /open, upstream: a, authorize: public}
  - {id: mine, path: /permissions, methods: [POST], authorize: authenticated, permissions: {}}
  - id: audit
    path: /audit/{email}
    authorize: ["audit user:{path.email}"]
    aggregate:
      systems:
        One: {upstream: a, path: "/one"}
        Two: {upstream: a, path: "/two", authorize: ["see system:two"]}
      bulk: {path: /audit, items: /emails, param: email}
"""


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def written(log: Path) -> bytes:
    return log.read_bytes()


def short(line: dict[str, Any]) -> tuple[str, str, str, list[bool | None]]:
    return line["route"], line["outcome"], line["source"], [each["decision"] for each in line["questions"]]


async def test_every_kind_of_decision_has_its_line(start_gateway: Any, iam: Any, upstream: Any, tmp_path: Path) -> None:
    gateway = await start_gateway(ROUTES.replace("IAM", iam.url).replace("UPSTREAM", upstream.url))
    allow, nobody = {"x-user": "allow"}, {"x-user": "nobody"}
    questions = {"evaluations": [{"action": {"name": "x"}, "resource": {"type": "a", "id": "b"}}] * 2}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as client:
        await client.get("/guarded/7?secret=1", headers=allow)
        await client.get("/guarded/7", headers=nobody)
        await client.get("/guarded/7")  # nobody at all: refused before any decision
        await client.get("/open", headers=allow)
        await client.get("/known", headers=allow)
        await client.post("/permissions", headers=nobody, json=questions)
        await client.get("/audit/a@b", headers=allow)
        await client.post("/audit", headers=allow, json={"emails": ["a@b", "c@d"]})
        await until(lambda: len(lines(tmp_path)) == 9)
        assert [short(line) for line in lines(tmp_path)] == [
            ("guarded", "allow", "iam", [True]),
            ("guarded", "deny", "iam", [False]),
            ("known", "allow", "authenticated", []),
            ("mine", "allow", "authenticated", []),
            ("mine", "allow", "iam", [False, False]),
            ("audit", "allow", "iam", [True, True]),
            ("audit.bulk", "allow", "authenticated", []),
            ("audit", "allow", "iam", [True, True]),
            ("audit", "allow", "iam", [True, True]),
        ]
        assert lines(tmp_path)[0]["path"] == "/guarded/*"

        (tmp_path / "decisions.jsonl").rename(tmp_path / "old.jsonl")
        gateway.process.send_signal(signal.SIGHUP)
        await until((tmp_path / "decisions.jsonl").exists)
        await client.get("/known", headers=allow)
        await until(lambda: len(lines(tmp_path)) == 1)
        await a_full_disk_costs_lines_and_no_request(gateway, client, tmp_path / "decisions.jsonl")


async def a_full_disk_costs_lines_and_no_request(gateway: Any, client: httpx.AsyncClient, log: Path) -> None:
    pid, unlimited = gateway.process.pid, resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (len(written(log)) + 50, unlimited))
    for _ in range(20):
        assert (await client.get("/known", headers={"x-user": "allow"})).status_code == 200
    await asyncio.sleep(0.2)
    metrics = (await client.get(f"{gateway.admin}/metrics")).text
    (counted,) = [line for line in metrics.splitlines() if 'dropped_total{signal="decisions"}' in line]
    assert float(counted.split()[-1]) > 0
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert (await client.get("/guarded/7", headers={"x-user": "allow"})).status_code == 200
    await until(lambda: b'"route":"guarded"' in written(log).splitlines()[-1])
    whole = [line for line in written(log).splitlines() if line.endswith(b"}")]
    assert [json.loads(line)["route"] for line in whole][-1] == "guarded"
