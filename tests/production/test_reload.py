"""A configuration is replaced under a running gateway: all or nothing, and nobody who is being served notices."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess, free_port
from tests.production.backends import AUTHORIZED, Backend, metrics, pid, post, routes, status, until, write

pytestmark = pytest.mark.hazard
NEW = "  - {id: new, path: /new/*, upstream: backend, authorize: public}\n"
BROKEN = "version: 1\nroutes: [{id: x, path: /x, upstrem: y}]\n"


async def _get(gateway: GatewayProcess, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
        return await client.get(path, headers=headers)


async def _serves(gateway: GatewayProcess, path: str) -> bool:
    return (await _get(gateway, path)).status_code == 200


async def _hup(gateway: GatewayProcess) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)


async def _ask(gateway: GatewayProcess) -> None:
    assert (await post(gateway, "/-/reload")).json() == {"reloaded": True, "problems": []}


async def _nothing(gateway: GatewayProcess) -> None:
    """The folder is watched."""


async def test_a_changed_file_serves_by_signal_by_request_and_by_itself(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    gateway = await start_gateway(routes(iam, backend))
    for how in (_hup, _ask, _nothing):
        path = f"/new{how.__name__}"
        assert (await _get(gateway, f"{path}/x")).status_code == 404
        write(gateway, routes(iam, backend, more=NEW.replace("/new", path)))
        await how(gateway)
        await until(partial(_serves, gateway, f"{path}/x"), "the new route")
    assert 'gateway_config_reloads_total{result="success"}' in await metrics(gateway)


async def test_a_config_map_is_noticed_when_its_symlink_is_swapped(tmp_path: Path, iam: Any, backend: Backend) -> None:
    """The kubelet writes a new folder and renames the symlink `..data` to it; routes.yaml itself never changes."""
    port, admin = free_port(), free_port()
    mount = tmp_path / "mount"
    mount.mkdir()

    def project(version: str, text: str) -> None:
        folder = mount / version
        folder.mkdir()
        (folder / "routes.yaml").write_text(text.replace("{port}", str(port)).replace("{admin}", str(admin)))
        (mount / "..data_tmp").symlink_to(version)
        (mount / "..data_tmp").replace(mount / "..data")

    project("..2026_01", routes(iam, backend))
    (mount / "routes.yaml").symlink_to("..data/routes.yaml")
    gateway = GatewayProcess(mount / "routes.yaml", port, admin)
    await gateway.start()
    try:
        project("..2026_02", routes(iam, backend, more=NEW))
        await until(lambda: _serves(gateway, "/new/x"), "the new route")
    finally:
        assert await gateway.stop() == 0


async def test_a_bad_file_changes_nothing_and_is_said_everywhere(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    gateway = await start_gateway(routes(iam, backend))
    serving = (await status(gateway))["config"]["hash"]
    for text in (BROKEN, "", "null", "[]", "version: 1\nroutes:\n  - {id: ", "\x00"):
        write(gateway, text)
        reply = await post(gateway, "/-/reload")
        assert reply.status_code == 422, text
        assert f"{gateway.file.name}:" in reply.json()["problems"][0]
        assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
        shown = (await status(gateway))["config"]
        assert shown["hash"] == serving
        assert shown["reload_problems"] == reply.json()["problems"]
    assert 'gateway_config_reloads_total{result="failure"}' in await metrics(gateway)
    write(gateway, routes(iam, backend, more=NEW))
    await _ask(gateway)
    assert (await status(gateway))["config"]["reload_problems"] == []
    await gateway.stop()
    assert b"the configuration was not reloaded, the previous one stays in use" in gateway.errors + gateway.output


async def test_a_file_that_is_gone_changes_nothing(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    gateway.file.unlink()
    assert (await post(gateway, "/-/reload")).status_code == 422
    assert (await _get(gateway, "/open/x")).status_code == 200


async def test_policies_and_routes_change_together_or_not_at_all(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    """A good routes.yaml with a bad policy beside it is a bad configuration."""
    gateway = await start_gateway(routes(iam, backend))
    policies = gateway.file.parent / "policies"
    policies.mkdir()
    (policies / "slow.yaml").write_text("deadline: never\n")
    write(gateway, routes(iam, backend, more=NEW))
    assert (await post(gateway, "/-/reload")).status_code == 422
    assert (await _get(gateway, "/new/x")).status_code == 404
    (policies / "slow.yaml").write_text("deadline: 3s\n")
    await until(lambda: _serves(gateway, "/new/x"), "the new route")


async def test_a_policy_that_appears_is_noticed(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """Also in a folder that was not there: a file by the name of a built-in policy replaces it."""
    gateway = await start_gateway(routes(iam, backend))
    before = (await status(gateway))["config"]["hash"]
    (gateway.file.parent / "policies").mkdir()
    (gateway.file.parent / "policies" / "fail-closed.yaml").write_text("deadline: 3s\n")

    async def other() -> bool:
        return (await status(gateway))["config"]["hash"] != before

    await until(other, "the new policy")


async def test_changed_access_policies_decide_at_once(
    start_gateway: Any, iam: Any, backend: Backend, tmp_path: Path
) -> None:
    """The embedded decision point, with a cache that would remember."""
    text = routes(iam, backend).replace(f'url: "{iam.url}", ', "api: embedded, cache: {ttl: 1m}, ")
    text = text.replace("opaque: {}", "header: {name: X-User}").replace(
        "drain_", "trusted_proxies: [127.0.0.1], drain_"
    )
    folder = tmp_path / "policies" / "access"
    folder.mkdir(parents=True)
    (folder / "entities.json").write_text("[]")
    (folder / "all.cedar").write_text("permit (principal, action, resource);")
    gateway = await start_gateway(text)
    assert (await _get(gateway, "/guarded/x", **{"x-user": "alice"})).status_code == 200
    (folder / "all.cedar").write_text("forbid (principal, action, resource);")

    async def denied() -> bool:
        return (await _get(gateway, "/guarded/x", **{"x-user": "alice"})).status_code == 403

    await until(denied, "the new policies decide")


async def test_requests_in_flight_end_on_what_they_began_on(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """Their route is gone and their upstream is another one, and still they are answered by it."""
    other = Backend("other")
    await other.start()
    gateway = await start_gateway(routes(iam, backend))
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
        running = [asyncio.create_task(client.get(f"/open/{n}?sleep=1.5")) for n in range(20)]
        await until(lambda: _async(backend.requests == 20), "all requests at the backend")
        write(gateway, routes(iam, other).replace("/open/*", "/other/*"))
        await _ask(gateway)
        assert (await client.get("/open/x")).status_code == 404
        assert (await client.get("/other/x")).json()["from"] == "other"
        replies = await asyncio.gather(*running)
    assert [reply.status_code for reply in replies] == [200] * 20
    assert {reply.json()["from"] for reply in replies} == {"backend"}
    await until(lambda: _async(backend.connections == 0), "the old pool closed after its last request")
    await other.stop()


async def _async(value: Any) -> Any:
    return value


async def test_a_pool_that_two_reloads_dropped_serves_its_last_request(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    """The configuration in the middle, which shared it, lets go of it first."""
    other = Backend("other")
    await other.start()
    gateway = await start_gateway(routes(iam, backend))
    running = asyncio.create_task(_get(gateway, "/open/x?sleep=2"))
    await until(lambda: _async(backend.requests), "the request at the backend")
    write(gateway, routes(iam, backend, more=NEW))
    await _ask(gateway)
    write(gateway, routes(iam, other))
    await _ask(gateway)
    reply = await running
    assert (reply.status_code, reply.json()["from"]) == (200, "backend")
    await until(lambda: _async(backend.connections == 0), "the old pool closed after its last request")
    await other.stop()


async def test_breakers_pools_and_caches_of_unchanged_parts_survive(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    keys = ", cache: {ttl: 1m}"
    gateway = await start_gateway(routes(iam, backend, iam_keys=keys))
    assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
    calls, connections = len(iam.seen), backend.connections
    await post(gateway, "/breakers/open/open")
    write(gateway, routes(iam, backend, iam_keys=keys).replace("drain_timeout: 500ms", "drain_timeout: 400ms"))
    await _ask(gateway)
    assert (await _get(gateway, "/open/x")).json()["code"] == "upstream_circuit_open"
    assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
    assert len(iam.seen) == calls, "the permit was still known"
    assert backend.connections == connections, "the pool was still the same"


async def test_a_changed_check_is_another_question_and_leaves_the_permits_of_others(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    keys = ", cache: {ttl: 1m}"
    gateway = await start_gateway(routes(iam, backend, iam_keys=keys))
    assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
    write(gateway, routes(iam, backend, iam_keys=keys).replace("read system:backend", "use system:backend"))
    await _ask(gateway)
    assert (await status(gateway))["cache"]["entries"] == 1
    calls = len(iam.seen)
    assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
    assert len(iam.seen) == calls + 1


async def test_another_iam_is_asked_anew(start_gateway: Any, iam: Any, backend: Backend) -> None:
    keys = ", cache: {ttl: 1m}"
    gateway = await start_gateway(routes(iam, backend, iam_keys=keys))
    assert (await _get(gateway, "/guarded/x", **AUTHORIZED)).status_code == 200
    write(gateway, routes(iam, backend, iam_keys=keys).replace(iam.url, iam.url.replace("127.0.0.1", "localhost")))
    await _ask(gateway)
    assert (await status(gateway))["cache"]["entries"] == 0


async def test_a_weakened_route_is_logged_by_its_name(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    write(gateway, routes(iam, backend).replace('authorize: ["read system:backend"]', "authorize: public"))
    await _ask(gateway)
    await gateway.stop()
    assert b"reload weakens: guarded: GET is public, was checks" in gateway.errors + gateway.output


async def test_what_only_a_start_can_change_is_said(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    write(gateway, routes(iam, backend).replace("{port}", str(free_port())))
    await _ask(gateway)
    assert (await _get(gateway, "/open/x")).status_code == 200
    await gateway.stop()
    assert b"server.listen has changed; the change takes effect at the next start" in gateway.errors + gateway.output


async def test_a_storm_of_signals_is_one_configuration(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    write(gateway, routes(iam, backend, more=NEW))
    for _ in range(50):
        await _hup(gateway)
    await until(lambda: _serves(gateway, "/new/x"), "the new route")
    assert 'gateway_config_reloads_total{result="success"} 1' in await metrics(gateway)
    assert pid(gateway)
