"""Evidence of several workers: one decision log of whole lines, one file of permits, through kill -9 and a purge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess, Seen, Server, echo, free_port, iam, permits
from tests.production.backends import Backend, backend, descriptors, metrics, pid, post, until

__all__ = ["backend", "iam"]
pytestmark = [pytest.mark.hazard, pytest.mark.integration]
REQUESTS = 200
USERS = [f"user-{number}" for number in range(20)]
SECRET = "a-word-that-only-the-key-file-has"
ROUTES = """
version: 1
server:
  listen: "127.0.0.1:PORT"
  admin: "127.0.0.1:ADMIN"
  trusted_proxies: [127.0.0.0/8]
  decision_log: {path: decisions.jsonl}
iam:
  url: "IAM"
  timeout: {connect: 1s, read: 5s, total: 6s}
  retry: {attempts: 1}
  cache: {snapshot: {path: permits, every: 200ms, key: "${file:key}"}}
identity: {header: {name: X-User}}
upstreams: {menus: {url: "MENUS"}, backend: {url: "BACKEND"}}
routes:
  - id: guarded
    path: /guarded/*
    upstream: menus
    authorize: ["read system:guarded"]
    on_iam_failure: {degrade: stale, max_stale: 5m}
  - {id: live, path: /live/*, upstream: backend, authorize: ["read system:live"], recheck: 1s}
  - id: menu
    path: /menu
    methods: [GET]
    authorize: authenticated
    navigation: {upstream: menus, items: /menus/*, check: "{item.action} {item.resource}", on_denied: remove}
"""


def answered(seen: Seen) -> tuple[int, dict[str, str], bytes]:
    """The menus, or what was asked."""
    if seen.target != "/menu":
        return echo(seen)
    menus = [{"action": "read", "resource": name} for name in ("system:shown", "system:secret")]
    return 200, {"Content-Type": "application/json"}, json.dumps({"menus": menus}).encode()


def may(evaluation: dict[str, Any]) -> bool:
    return evaluation["resource"]["id"] != "secret" and evaluation["subject"]["id"] != "denied"


class Room:
    """Everything of one test in one folder."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.file = folder, folder / "routes.yaml"
        self.log = folder / "decisions.jsonl"
        self.port, self.admin = free_port(), free_port()
        (folder / "key").write_text(SECRET)
        self.file.write_text(text.replace("PORT", str(self.port)).replace("ADMIN", str(self.admin)))
        self.old: list[GatewayProcess] = []

    async def start(self) -> GatewayProcess:
        gateway = GatewayProcess(self.file, self.port, self.admin, arguments=("--workers", "2"))
        await gateway.start()
        return gateway

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def of_route(self, route: str, count: int) -> list[dict[str, Any]]:
        """Its lines, once there are so many."""

        async def there() -> list[dict[str, Any]]:
            found = [line for line in await asyncio.to_thread(self.lines) if line["route"] == route]
            return found if len(found) >= count else []

        found: list[dict[str, Any]] = await until(there, f"{count} lines of {route}")
        return found


async def each_alone(gateway: GatewayProcess, users: Sequence[str], path: str) -> list[httpx.Response]:
    """On a connection each, so that the kernel spreads them over the workers."""
    unkept = httpx.Limits(max_connections=20, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60, limits=unkept) as client:
        return await asyncio.gather(*(client.get(path, headers={"x-user": user}) for user in users))


def workers_of(gateway: GatewayProcess) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid(gateway)}/task/{pid(gateway)}/children").read_text().split()]


async def kill_all(gateway: GatewayProcess) -> None:
    """As the machine does that has no memory left: nobody gets to say or to write anything."""
    workers = workers_of(gateway)
    for number in (pid(gateway), *workers):
        os.kill(number, signal.SIGKILL)
    assert gateway.process is not None
    await asyncio.gather(gateway.process.wait(), *gateway._readers)


async def test_workers_share_log_and_permits_through_an_outage_and_kill_9(
    tmp_path: Path, iam: Server, backend: Backend
) -> None:
    iam.answer = permits(may)
    menus = Server(answered)
    await menus.start()
    text = ROUTES.replace("IAM", iam.url).replace("MENUS", menus.url).replace("BACKEND", backend.url)
    room = Room(tmp_path, text)
    gateway = await room.start()
    try:
        await log_is_whole(room, gateway)
        await a_navigation_and_a_recheck_have_their_lines(room, gateway)
        await a_purge_by_subject_ends_their_streams_in_every_worker(gateway)
        await until(lambda: permits_in_the_file(room, USERS), "every permit in the file")
        await iam.stop()
        await kill_all(gateway)
        gateway = await room.start()
        await only_those_who_were_permitted_go_on(room, gateway)
        assert gateway.process is not None
        assert await gateway.stop() == 0
        assert [path.name for path in await asyncio.to_thread(lambda: sorted(tmp_path.glob(".*")))] == []
        no_secret_stands_in(room)
    finally:
        await menus.stop()
        if gateway.process is not None and gateway.process.returncode is None:
            await gateway.stop()


async def log_is_whole(room: Room, gateway: GatewayProcess) -> None:
    users = (USERS * (REQUESTS // len(USERS)))[:REQUESTS]
    long = "x" * 3000
    responses = await each_alone(gateway, users, f"/guarded/{long}?token={SECRET}")
    assert Counter(response.status_code for response in responses) == {200: REQUESTS}
    assert (await each_alone(gateway, ["denied"], "/guarded/1"))[0].status_code == 403
    lines = await room.of_route("guarded", REQUESTS + 1)
    assert len({line["request_id"] for line in lines}) == len(lines) == REQUESTS + 1
    assert Counter(line["outcome"] for line in lines) == {"allow": REQUESTS, "deny": 1}
    holding = [str(room.log) in await asyncio.to_thread(descriptors, number) for number in workers_of(gateway)]
    assert holding == [True, True], "each worker writes, and no supervisor does"
    assert (room.log.stat().st_mode & 0o777, (room.folder / "permits").stat().st_mode & 0o777) == (0o600, 0o600)


async def a_navigation_and_a_recheck_have_their_lines(room: Room, gateway: GatewayProcess) -> None:
    (menu,) = await each_alone(gateway, ["reader"], "/menu")
    assert [each["resource"] for each in menu.json()["menus"]] == ["system:shown"]
    whole, items = await room.of_route("menu", 2)
    assert (whole["outcome"], whole["source"], whole["questions"]) == ("allow", "authenticated", [])
    assert (items["outcome"], items["source"], items["request_id"]) == ("allow", "iam", whole["request_id"])
    asked = {each["resource"]["id"]: each["decision"] for each in items["questions"]}
    assert asked == {"shown": True, "secret": False}

    headers = {"x-user": "watcher"}
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client,
        client.stream("GET", "/live/events", headers=headers) as stream,
    ):
        assert stream.status_code == 200
        first, *again = await room.of_route("live", 3)
        assert (first["outcome"], first["reason"]) == ("allow", None)
        assert {line["reason"] for line in again} == {"asked again for an open stream"}
        assert {line["request_id"] for line in again} == {first["request_id"]}
        assert all(line["questions"][0]["decision"] is True for line in again)


async def a_purge_by_subject_ends_their_streams_in_every_worker(gateway: GatewayProcess) -> None:
    """Several connections, so that both workers have a stream of each."""

    async def watch(user: str) -> None:
        async with client.stream("GET", "/live/events", headers={"x-user": user}) as stream:
            opened.append(user)
            with contextlib.suppress(httpx.TransportError):
                async for _ in stream.aiter_bytes():
                    pass

    client = httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60)
    opened: list[str] = []
    gone = [asyncio.create_task(watch("leaver")) for _ in range(6)]
    stay = [asyncio.create_task(watch("stayer")) for _ in range(6)]

    async def all_open() -> bool:
        return len(opened) == len(gone) + len(stay)

    try:
        await until(all_open, "twelve streams")
        assert (await post(gateway, "/cache/purge?subject=")).status_code == 400
        assert (await post(gateway, "/cache/purge?subjekt=leaver")).status_code == 400
        purged = await post(gateway, "/cache/purge?subject=leaver")
        assert purged.json()["purged"] >= 1
        await asyncio.wait_for(asyncio.gather(*gone), 10)
        assert not any(task.done() for task in stay)
    finally:
        for task in (*gone, *stay):
            task.cancel()
        await asyncio.gather(*gone, *stay, return_exceptions=True)
        await client.aclose()


async def permits_in_the_file(room: Room, users: Sequence[str]) -> bool:
    """Whether the file that both workers write has a permit for each of these, and knows none by name."""
    file = room.folder / "permits"
    if not file.exists():
        return False
    content = await asyncio.to_thread(file.read_bytes)
    assert not any(user.encode() in content for user in (*users, "leaver"))
    body = content[:-32].split(b"\n", 2)[2]
    return len(body) // 80 >= len(users)


async def only_those_who_were_permitted_go_on(room: Room, gateway: GatewayProcess) -> None:
    strangers = ["denied", "leaver", "stranger"]
    responses = await each_alone(gateway, [*USERS, *USERS, *strangers], "/guarded/again")
    statuses = [response.status_code for response in responses]
    assert statuses == [200] * (2 * len(USERS)) + [503] * len(strangers)
    assert all("mode=stale" in response.headers["x-gateway-degraded"] for response in responses[: 2 * len(USERS)])
    lines = await room.of_route("guarded", REQUESTS + 1 + len(responses))
    assert Counter(line["outcome"] for line in lines)["stale"] == 2 * len(USERS)
    assert 'gateway_authz_decisions_total{code="iam_' in await metrics(gateway)


def no_secret_stands_in(room: Room) -> None:
    """Neither the key, nor a query, in anything that was written."""
    for path in room.folder.iterdir():
        if path.name != "key" and path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path.name
