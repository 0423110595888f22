"""`on_upstream_failure` through a real upstream that works first and fails later."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.route import (
    FallbackResponse,
    ProxyAction,
    UpstreamFailureMode,
    UpstreamFailureRule,
)
from tests.forward.conftest import BOB, Client, Conversation, a_request, upstream_of

pytestmark = pytest.mark.hazard

STALE = UpstreamFailureRule(mode=UpstreamFailureMode.STALE, max_stale_s=300.0)
FALLBACK = UpstreamFailureRule(
    mode=UpstreamFailureMode.FALLBACK,
    response=FallbackResponse(200, b'{"items":[]}', ((b"content-type", b"application/json"),)),
)


class Moody:
    """An upstream whose next answers are set by the test; None cuts the connection."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def __call__(self, talk: Conversation) -> None:
        await talk.body()
        answer = self.answers.pop(0)
        if answer is None:
            talk.cut()
        else:
            await talk.answer(*answer)


GOOD = (200, b"good", b"ETag: x")


@pytest.mark.parametrize("failure", [None, (502, b""), (503, b"no"), (504, b"no")])
async def test_the_last_good_answer_is_served_with_its_age(bench: Any, failure: Any) -> None:
    async with upstream_of(Moody(GOOD, failure)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        client = await subject.get()
        assert (client.status, client.body, client.complete) == (200, b"good", True)
        assert client.values(b"x-gateway-degraded") == [b"upstream; mode=stale; age=0"]
        assert client.values(b"age") == [b"0"]
        assert client.values(b"etag") == [b"x"]
        assert client.values(b"x-request-id") == [b"req-1"]
        assert client.values(b"via") == [b"1.1 edge"]
        assert subject.spy.modes == [("inventory", "stale")]
        assert client.record.degraded == "stale"
        assert client.record.code


async def test_a_streamed_answer_is_kept_once_it_is_whole(bench: Any) -> None:
    big = b"x" * 900_000
    async with upstream_of(Moody((200, big), None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        assert (await subject.get()).body == big


async def test_an_answer_over_the_limit_is_not_kept(bench: Any) -> None:
    async with upstream_of(Moody((200, b"x" * 1_100_000), None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        with pytest.raises(GatewayError):
            await subject.get()


async def test_a_truncated_answer_is_not_kept(bench: Any) -> None:
    async def cut(talk: Conversation) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        talk.writer.close()

    async with upstream_of(cut) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        assert subject.copies.snapshot()["questions"] == 0


async def test_head_is_served_from_the_copy_of_get(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        client = await subject.call(Client(a_request("HEAD")))
        assert (client.status, client.body) == (200, b"")
        assert client.values(b"content-length") == [b"4"]


async def test_another_subject_never_sees_the_copy(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        with pytest.raises(GatewayError, match="upstream_protocol_error"):
            await subject.get(subject=BOB)


async def test_a_copy_is_served_only_under_a_fresh_permit(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        with pytest.raises(GatewayError):
            await subject.get(outcome="stale", source="stale", degraded="stale", age_s=3.0)


async def test_a_copy_is_served_while_the_circuit_is_open(bench: Any) -> None:
    async with upstream_of(Moody(GOOD)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        subject.breaker.force_open()
        client = await subject.get()
        assert client.body == b"good"
        assert client.record.code == "upstream_circuit_open"


async def test_a_copy_is_served_when_the_deadline_ended(bench: Any) -> None:
    async def first_then_hang(talk: Conversation) -> None:
        if len(talk.upstream.seen) == 1:
            await talk.answer(*GOOD)
        else:
            await talk.reader.read()

    async with upstream_of(first_then_hang) as upstream:
        subject = bench(upstream.port, on_upstream=STALE, deadline_s=0.3)
        await subject.get()
        client = await subject.get()
        assert (client.body, client.record.code) == (b"good", "deadline_exceeded")


async def test_the_upstreams_no_ends_the_copy(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, (403, b"no"), None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        assert (await subject.get()).status == 403
        with pytest.raises(GatewayError):
            await subject.get()


async def test_a_newer_answer_that_must_not_be_kept_ends_the_copy(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, (200, b"new", b"Cache-Control: no-store"), None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        await subject.get()
        with pytest.raises(GatewayError):
            await subject.get()


async def test_other_errors_of_the_upstream_pass_on(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, (500, b"bug"))) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        assert (await subject.get()).status == 500


async def test_an_unsafe_request_is_never_answered_from_a_copy(bench: Any) -> None:
    async with upstream_of(Moody(GOOD, None)) as upstream:
        subject = bench(upstream.port, on_upstream=STALE)
        await subject.get()
        with pytest.raises(GatewayError):
            await subject.call(Client(a_request("DELETE")))


@pytest.mark.parametrize("failure", [None, (503, b"no")])
async def test_the_routes_own_response_stands_in(bench: Any, failure: Any) -> None:
    async with upstream_of(Moody(failure)) as upstream:
        subject = bench(upstream.port, on_upstream=FALLBACK)
        client = await subject.get()
        assert (client.status, client.body) == (200, b'{"items":[]}')
        assert client.values(b"x-gateway-degraded") == [b"upstream; mode=fallback"]
        assert client.values(b"cache-control") == [b"no-store"]
        assert subject.spy.modes == [("inventory", "fallback")]


async def test_what_the_caller_did_wrong_is_no_outage(bench: Any) -> None:
    async with upstream_of(Moody()) as upstream:
        subject = bench(upstream.port, on_upstream=FALLBACK, max_body=1, action=ProxyAction(upstream="store"))
        with pytest.raises(GatewayError, match="body_too_large"):
            await subject.call(Client(a_request("POST", headers=[(b"content-length", b"2")]), [b"xx"]))
