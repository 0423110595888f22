"""Event streams: counted apart, allowed to be silent, ended when the permit is over."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.forward.streams import Streams
from gateway.model.permit import Permit
from gateway.model.request import name_of
from gateway.model.route import STREAM_CONTENT_TYPES, Resilience, Timeouts
from tests.forward.conftest import ALICE, BOB, Client, Conversation, a_request, a_route, upstream_of

pytestmark = pytest.mark.hazard

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: 1\n\n\r\n"


def a_permit(subject: Any = ALICE, **over: Any) -> Permit:
    return Permit(request=a_request(), route=a_route(**over), subject=subject, outcome="allow", source="iam")


def expiring(in_s: float) -> Any:
    return dataclasses.replace(ALICE, expires_at_s=time.time() + in_s)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_work_that_ends_by_itself_ends_the_stream() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    streams = Streams()
    assert await streams.serve(a_permit(), work()) is None
    assert streams.open == 0


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise GatewayError("overloaded")

    with pytest.raises(GatewayError, match="overloaded"):
        await Streams().serve(a_permit(), work())


async def test_a_stream_ends_with_its_token() -> None:
    ended = await asyncio.wait_for(Streams().serve(a_permit(expiring(0.05)), forever()), 5)
    assert ended is not None
    assert ended.code == "unauthenticated"


async def test_a_token_that_has_expired_already_ends_it_at_once() -> None:
    ended = await asyncio.wait_for(Streams().serve(a_permit(expiring(-5)), forever()), 1)
    assert ended is not None


@pytest.mark.parametrize("code", ["iam_denied", "iam_timeout"])
async def test_a_recheck_that_does_not_say_yes_ends_it(code: str) -> None:
    asked = 0

    async def recheck(permit: Permit) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise GatewayError(code)

    streams = Streams(recheck=recheck)
    ended = await asyncio.wait_for(streams.serve(a_permit(recheck_s=0.01), forever()), 5)
    assert ended is not None
    assert (ended.code, asked) == (code, 3)


async def test_draining_ends_all_and_lets_none_begin() -> None:
    streams = Streams()
    tasks = [asyncio.create_task(streams.serve(a_permit(), forever())) for _ in range(3)]
    await asyncio.sleep(0)
    streams.drain()
    codes = [error and error.code for error in await asyncio.wait_for(asyncio.gather(*tasks), 5)]
    assert codes == ["draining"] * 3
    late = await asyncio.wait_for(streams.serve(a_permit(), forever()), 1)
    assert late is not None


async def test_one_subjects_streams_end_and_no_others() -> None:
    streams = Streams()
    hers = asyncio.create_task(streams.serve(a_permit(), forever()))
    his = asyncio.create_task(streams.serve(a_permit(BOB), forever()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    streams.end_subject(name_of(ALICE.id))
    ended = await asyncio.wait_for(hers, 5)
    assert ended is not None
    assert ended.code == "unauthenticated"
    assert not his.done()
    streams.drain()
    await asyncio.wait_for(his, 5)


async def test_a_caller_who_leaves_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.set()

    task = asyncio.create_task(Streams().serve(a_permit(), work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_event_stream_may_be_silent_longer_than_the_read_timeout(bench: Any) -> None:
    async def slow(talk: Conversation) -> None:
        await talk.send(HEAD + EVENT)
        await asyncio.sleep(0.4)
        await talk.send(EVENT + b"0\r\n\r\n")

    async with upstream_of(slow) as upstream:
        subject = bench(upstream.port, resilience=Resilience(timeout=Timeouts(read_s=0.1)), deadline_s=0.2)
        client = await subject.get()
        assert (client.body, client.complete) == (b"data: 1\n\n" * 2, True)


@pytest.mark.parametrize(
    "media_type",
    ["application/x-ndjson", "application/grpc-web+proto", "Application/X-NDJSON; charset=utf-8", "video/x-endless"],
)
async def test_a_stream_of_any_named_kind_may_be_silent_and_harms_no_breaker(bench: Any, media_type: str) -> None:
    head = HEAD.replace(b"text/event-stream", media_type.encode())

    async def slow(talk: Conversation) -> None:
        await talk.send(head + EVENT)
        await asyncio.sleep(0.4)
        await talk.send(EVENT + b"0\r\n\r\n")

    async with upstream_of(slow) as upstream:
        types = (*STREAM_CONTENT_TYPES, "video/*")
        subject = bench(upstream.port, resilience=Resilience(timeout=Timeouts(read_s=0.1)), stream_content_types=types)
        client = await subject.get()
        assert (client.body, client.complete) == (b"data: 1\n\n" * 2, True)


async def test_an_answer_of_another_kind_is_no_stream(bench: Any) -> None:
    async def silent(talk: Conversation) -> None:
        await talk.send(HEAD + EVENT)
        await talk.reader.read()

    async with upstream_of(silent) as upstream:
        subject = bench(upstream.port, resilience=Resilience(timeout=Timeouts(read_s=0.1)), stream_content_types=())
        client = await subject.get()
        assert client.edge.aborted
        assert client.record.code == "upstream_timeout"


@pytest.mark.parametrize(("media_type", "complete"), [("text/event-stream", True), ("application/x-ndjson", False)])
async def test_only_an_event_stream_may_look_complete_when_the_gateway_goes_away(
    bench: Any, media_type: str, *, complete: bool
) -> None:
    head = HEAD.replace(b"text/event-stream", media_type.encode())

    async def stream(talk: Conversation) -> None:
        await talk.send(head + EVENT)
        await talk.reader.read()

    async with upstream_of(stream) as upstream:
        subject = bench(upstream.port)
        asyncio.get_running_loop().call_later(0.1, subject.streams.drain)
        client = await asyncio.wait_for(subject.get(), 5)
        assert client.complete is complete


async def test_a_stream_silent_for_too_long_is_broken_off(bench: Any) -> None:
    async def silent(talk: Conversation) -> None:
        await talk.send(HEAD + EVENT)
        await talk.reader.read()

    async with upstream_of(silent) as upstream:
        client = await bench(upstream.port, stream_idle_timeout_s=0.1).get()
        assert client.edge.aborted
        assert client.record.code == "upstream_timeout"


async def test_an_event_stream_takes_a_streams_place_before_it_starts(bench: Any) -> None:
    async def stream(talk: Conversation) -> None:
        await talk.send(HEAD + EVENT)
        await talk.reader.read()

    def full(_: str) -> None:
        raise GatewayError("overloaded")

    async with upstream_of(stream) as upstream:
        client = Client(a_request())
        client.exchange.become_stream = full
        with pytest.raises(GatewayError, match="overloaded"):
            await bench(upstream.port).call(client)
        assert not client.messages
        await asyncio.wait_for(upstream.closed.wait(), 2)


async def test_an_event_stream_ends_visibly_with_its_token_and_closes_the_upstream(bench: Any) -> None:
    async def stream(talk: Conversation) -> None:
        await talk.send(HEAD)
        while True:
            await talk.send(EVENT)
            await asyncio.sleep(0.02)

    async with upstream_of(stream) as upstream:
        client = await asyncio.wait_for(bench(upstream.port).get(subject=expiring(0.1)), 5)
        assert client.body.startswith(b"data: 1")
        assert client.edge.aborted
        assert client.record.code == "unauthenticated"
        await asyncio.wait_for(upstream.closed.wait(), 2)
