"""Server-sent events the whole way: httpx, the running gateway, an endless upstream, and an IAM that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S, standstill, until, until_served
from tests.complete_path.streaming import Streaming, streaming
from tests.e2e.conftest import GatewayProcess, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", max_streams: 24, max_concurrency: 6}}
iam:
  url: "{iam}"
  timeout: {{connect: 500ms, read: 500ms, total: 800ms}}
  circuit_breaker: {{failure_threshold: 2, open_for: 1s, open_for_max: 1s}}
  cache: {{max_stale: 1s}}
identity: {identity}
upstreams: {{events: {{url: "{upstream}"}}}}
routes:
  - {{id: events, path: /events/*, upstream: events, authorize: ["read system:events"], timeout: {{read: 400ms}}}}
  - {{id: open, path: /open/*, upstream: events, authorize: public, max_concurrency: 6}}
  - {{id: quiet, path: /quiet/*, upstream: events, authorize: public, stream_idle_timeout: 700ms}}
  - {{id: watched, path: /watched/*, upstream: events, authorize: ["read system:watched"], recheck: 300ms}}
"""


class Scene:
    """One gateway for all tests of this file."""

    def __init__(self, client: httpx.AsyncClient, iam: Server, upstream: Streaming, issuer: Issuer) -> None:
        self.client = client
        self.iam = iam
        self.upstream = upstream
        self.issuer = issuer
        self.denied = {"mallory"}

    @asynccontextmanager
    async def events(self, path: str, subject: str = "alice", **claims: Any) -> AsyncIterator[AsyncIterator[str]]:
        """The data of each event of a stream that is served."""
        async with self.client.stream("GET", path, headers=self.issuer.bearer(subject, **claims)) as reply:
            assert reply.status_code == 200
            assert reply.headers["content-type"] == "text/event-stream"
            yield _data(reply)

    async def attempt(self, path: str) -> int:
        """The status with which a stream begins."""
        async with self.client.stream("GET", path, headers=self.issuer.bearer("alice")) as reply:
            return reply.status_code


async def _data(reply: httpx.Response) -> AsyncIterator[str]:
    async for line in reply.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


async def _rest(events: AsyncIterator[str]) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in events]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    issuer = Issuer()
    folder = tmp_path_factory.mktemp("events")
    port, admin = free_port(), free_port()
    async with streaming() as upstream, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        scene = Scene(client, Server(lambda _: (500, {}, b"")), upstream, issuer)
        scene.iam.answer = permits(lambda evaluation: evaluation["subject"]["id"] not in scene.denied)
        await scene.iam.start()
        text = ROUTES.format(
            port=port, admin=admin, iam=scene.iam.url, identity=issuer.settings(folder), upstream=upstream.url
        )
        file = folder / "routes.yaml"
        file.write_text(text)
        gateway = GatewayProcess(file, port, admin)
        client.base_url = httpx.URL(gateway.url)
        await gateway.start()
        yield scene
        assert await gateway.stop() == 0
        await scene.iam.stop()


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """Fresh counters; everybody but mallory is permitted."""
    stage.denied &= {"mallory"}
    stage.iam.seen.clear()
    stage.upstream.targets.clear()
    stage.upstream.left.clear()
    stage.upstream.sent = 0
    return stage


async def test_events_arrive_one_by_one_as_they_are_sent(scene: Scene) -> None:
    async with scene.events("/events/ticks?one") as events:
        assert [await anext(events) for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert scene.upstream.sent < 5 * 20
    await until(lambda: "/events/ticks?one" in scene.upstream.left)
    assert len(scene.iam.seen) == 1


async def test_a_stream_that_ends_upstream_ends_and_one_that_breaks_off_breaks_off(scene: Scene) -> None:
    async with scene.events("/events/three") as events:
        assert await _rest(events) == ["0", "1", "2"]
    with pytest.raises(httpx.TransportError):
        async with scene.events("/events/break") as events:
            await _rest(events)


async def test_a_silent_stream_outlives_the_read_timeout_but_not_the_idle_limit(scene: Scene) -> None:
    async with scene.events("/events/silent?long") as events:
        assert await anext(events) == "0"
        await asyncio.sleep(1.0)
        assert scene.upstream.left == []
    with pytest.raises(httpx.TransportError):
        async with scene.events("/quiet/silent") as events:
            await _rest(events)
    await until(lambda: "/quiet/silent" in scene.upstream.left)


async def test_refusals_are_answered_and_nobody_upstream_hears_of_them(scene: Scene) -> None:
    denied = await scene.client.get("/events/ticks", headers=scene.issuer.bearer("mallory"))
    assert (denied.status_code, denied.json()["code"]) == (403, "iam_denied")
    nobody = await scene.client.get("/events/ticks")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthenticated")
    assert scene.upstream.targets == []


async def test_a_stream_ends_visibly_with_its_token(scene: Scene) -> None:
    with pytest.raises(httpx.TransportError):
        async with scene.events("/events/ticks?exp", lifetime_s=2.0) as events:
            await _rest(events)
    await until(lambda: "/events/ticks?exp" in scene.upstream.left)


async def test_a_recheck_that_is_denied_ends_the_stream(scene: Scene) -> None:
    async with scene.events("/watched/ticks?denied", "carol") as events:
        assert await anext(events) == "0"
        scene.denied.add("carol")
        with pytest.raises(httpx.TransportError):
            await _rest(events)
    await until(lambda: "/watched/ticks?denied" in scene.upstream.left)


async def test_an_open_stream_outlives_iam_and_new_ones_begin_when_it_is_back(scene: Scene) -> None:
    """While IAM is away: open streams go on, new ones are 503 with Retry-After, rechecked ones end after max_stale."""
    async with scene.events("/events/ticks?old") as old:
        async with scene.events("/watched/ticks?watched") as watched:
            await anext(watched)
            await scene.iam.stop()
            for _ in range(3):
                reply = await scene.client.get("/events/ticks", headers=scene.issuer.bearer("alice"))
                assert reply.status_code == 503
                assert int(reply.headers["retry-after"]) == reply.json()["retry_after"] >= 1
            with pytest.raises(httpx.TransportError):
                await _rest(watched)
        heard = int(await anext(old))
        await scene.iam.start()
        await until_served(lambda: scene.attempt("/events/ticks"), meanwhile=503)
        assert int(await anext(old)) == heard + 1


async def test_streams_have_places_of_their_own(scene: Scene) -> None:
    """More than a quarter of max_streams are refused to one caller; they take no place of ordinary requests."""
    async with asyncio.TaskGroup() as group:
        leave = asyncio.Event()
        ready = [asyncio.Event() for _ in range(6)]

        async def listen(number: int) -> None:
            async with scene.events(f"/open/ticks?{number}") as events:
                await anext(events)
                ready[number].set()
                await leave.wait()

        for number in range(6):
            group.create_task(listen(number))
        await asyncio.gather(*(event.wait() for event in ready))
        refused = await scene.client.get("/open/ticks?more")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert "retry-after" in refused.headers
        assert (await scene.client.get("/open/down/10")).status_code == 200
        leave.set()
    await until_served(lambda: scene.attempt("/open/ticks"), meanwhile=503)


async def test_a_slow_listener_stops_the_upstream_and_leaving_ends_it(scene: Scene) -> None:
    async with scene.events("/open/flood") as events:
        await anext(events)
        sent = await standstill(lambda: scene.upstream.sent)
        for _ in range(200):
            await anext(events)
        await until(lambda: scene.upstream.sent > sent)
    await until(lambda: "/open/flood" in scene.upstream.left)
