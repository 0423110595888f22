"""The stream of the status: one producer for everybody, few watchers, and an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.admin import feed as feeds
from gateway.admin.feed import MOST_WATCHERS, Feed, FeedResponse
from tests.complete_path.patience import until

SOON_S = 10.0


class Source:
    def __init__(self) -> None:
        self.made = 0
        self.broken = False

    async def __call__(self) -> dict[str, Any]:
        self.made += 1
        if self.broken:
            raise RuntimeError("cannot be made")
        return {"number": self.made}


class Watcher:
    """One connection, as the server shows it to the application."""

    def __init__(self, feed: Feed, method: str = "GET") -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.stuck = asyncio.Event()
        self._news = asyncio.Condition()
        self._scope = {"type": "http", "method": method, "path": "/status/stream", "headers": []}
        self.task = asyncio.create_task(FeedResponse(feed)(self._scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.stuck.is_set():
            await asyncio.Event().wait()
        async with self._news:
            self.sent.append(message)
            self._news.notify_all()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def numbers(self) -> list[int]:
        lines = [line for line in self.body.split(b"\n") if line.startswith(b'data: {"number')]
        return [json.loads(line[6:])["number"] for line in lines]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(SOON_S), self._news:
            await self._news.wait_for(lambda: len(self.numbers) >= count)

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), SOON_S)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
async def feed(source):
    made = Feed(source, interval_s=0.02)
    yield made
    made.close()


async def test_watchers_share_one_producer(feed, source):
    watchers = [Watcher(feed) for _ in range(5)]
    await asyncio.gather(*(watcher.until(5) for watcher in watchers))
    assert source.made <= max(watcher.numbers[-1] for watcher in watchers) + 1
    feed.close()
    await asyncio.gather(*(watcher.ended() for watcher in watchers))


async def test_who_comes_later_sees_the_latest_at_once(feed):
    first = Watcher(feed)
    await first.until(3)
    late = Watcher(feed)
    await late.until(1)
    assert late.numbers[0] >= 3


async def test_nothing_is_made_while_nobody_watches(feed, source):
    watcher = Watcher(feed)
    await watcher.until(2)
    watcher.gone.set()
    await watcher.ended()
    made = source.made
    await asyncio.sleep(0.1)
    assert source.made == made
    again = Watcher(feed)
    await again.until(1)


async def test_no_more_watch_than_there_are_places(feed):
    watchers = [Watcher(feed) for _ in range(MOST_WATCHERS)]
    await asyncio.gather(*(watcher.until(1) for watcher in watchers))
    refused = Watcher(feed)
    await refused.ended()
    assert refused.sent[0]["status"] == 503
    assert (b"content-type", b"application/problem+json") in refused.sent[0]["headers"]
    watchers[0].gone.set()
    await watchers[0].ended()
    await Watcher(feed).until(1)


async def test_every_stream_is_ended_with_an_event_that_says_so(feed):
    watchers = [Watcher(feed), Watcher(feed)]
    await asyncio.gather(*(watcher.until(1) for watcher in watchers))
    feed.close()
    await asyncio.gather(*(watcher.ended() for watcher in watchers))
    assert all(watcher.body.endswith(b"event: end\ndata: {}\n\n") for watcher in watchers)
    assert all(watcher.sent[-1]["more_body"] is False for watcher in watchers)
    late = Watcher(feed)
    await late.ended()
    assert late.sent[0]["status"] == 503


async def test_who_takes_nothing_is_let_go_and_disturbs_nobody(feed, monkeypatch):
    monkeypatch.setattr(feeds, "PATIENCE_S", 0.2)
    stuck, other = Watcher(feed), Watcher(feed)
    await stuck.until(1)
    stuck.stuck.set()
    await stuck.ended()
    await other.until(len(other.numbers) + 2)


async def test_a_status_that_cannot_be_made_ends_nothing(feed, source, caplog):
    watcher = Watcher(feed)
    await watcher.until(1)
    source.broken = True
    before = source.made
    await until(lambda: source.made >= before + 2)
    source.broken = False
    await watcher.until(len(watcher.numbers) + 1)
    assert "the status could not be made" in caplog.text


async def test_head_gets_the_head_only(feed, source):
    watcher = Watcher(feed, "HEAD")
    await watcher.ended()
    assert watcher.body == b""
    assert (b"content-type", b"text/event-stream; charset=utf-8") in watcher.sent[0]["headers"]
    assert not source.made
