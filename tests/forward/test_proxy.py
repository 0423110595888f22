"""The proxied request on the wire, both ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.route import Cors, ProxyAction, Resilience, RetryPolicy
from tests.forward.conftest import Client, Conversation, a_request, upstream_of

pytestmark = pytest.mark.hazard


async def ok(talk: Conversation) -> None:
    await talk.body()
    await talk.answer()


async def test_target_goes_out_byte_for_byte(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = await bench(upstream.port).get(b"/inventory/a%20b~(x)?q=%2F&r&s=;")
        assert upstream.seen[0].line == b"GET /inventory/a%20b~(x)?q=%2F&r&s=; HTTP/1.1"
        assert (client.status, client.body, client.complete) == (200, b"ok", True)
        assert client.values(b"x-request-id") == [b"req-1"]
        assert client.values(b"via") == [b"1.1 edge"]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b"/inventory/7?a=b", b"/7?a=b"),
        (b"/inventory", b"/"),
        (b"/inventory/", b"/"),
        (b"/inventory?x", b"/?x"),
        (b"/%69nventory/a%20b", b"/a%20b"),
    ],
)
async def test_strip_prefix_takes_off_whole_segments_however_written(bench: Any, asked: bytes, sent: bytes) -> None:
    async with upstream_of(ok) as upstream:
        await bench(upstream.port, action=ProxyAction(upstream="store", strip_prefix=b"/inventory")).get(asked)
        assert upstream.seen[0].line == b"GET " + sent + b" HTTP/1.1"
        assert upstream.seen[0].values(b"x-forwarded-prefix") == [b"/inventory"]


@pytest.mark.parametrize(("preserve", "host"), [(False, None), (True, b"gw.example")])
async def test_host_is_the_upstreams_own_unless_preserved(bench: Any, preserve: bool, host: bytes | None) -> None:
    async with upstream_of(ok) as upstream:
        await bench(upstream.port, action=ProxyAction(upstream="store", preserve_host=preserve)).get()
        assert upstream.seen[0].values(b"host") == [host or b"127.0.0.1:%d" % upstream.port]


async def test_a_degraded_permit_is_marked_to_caller_and_upstream(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = await bench(upstream.port).get(outcome="stale", degraded="stale", age_s=12.7)
        assert client.values(b"x-gateway-degraded") == [b"iam; mode=stale; age=12"]
        assert upstream.seen[0].values(b"x-gateway-degraded") == [b"iam; mode=stale; age=12"]


async def test_repeated_response_fields_stay_apart_and_hop_by_hop_ones_go(bench: Any) -> None:
    async def answer(talk: Conversation) -> None:
        cookies = (b"Set-Cookie: a=1", b"Set-Cookie: b=2")
        await talk.answer(200, b"ok", *cookies, b"Connection: close, X-Hop", b"X-Hop: 1", b"Trailer: X-T")

    async with upstream_of(answer) as upstream:
        client = await bench(upstream.port).get()
        assert client.values(b"set-cookie") == [b"a=1", b"b=2"]
        assert not {b"connection", b"x-hop", b"trailer"} & {name for name, _ in client.headers}


@pytest.mark.parametrize("body", [[b"x" * 10], [b"x" * 70_000, b"y" * 70_000], [b""]])
async def test_a_request_body_with_a_length_arrives_whole(bench: Any, body: list[bytes]) -> None:
    got: list[bytes] = []

    async def read(talk: Conversation) -> None:
        got.append(await talk.body())
        await talk.answer()

    size = sum(map(len, body))
    async with upstream_of(read) as upstream:
        request = a_request("POST", headers=[(b"content-length", b"%d" % size)])
        await bench(upstream.port).call(Client(request, body))
        assert got == [b"".join(body)]
        assert upstream.seen[0].values(b"content-length") == [b"%d" % size]


async def test_a_chunked_request_body_arrives_whole(bench: Any) -> None:
    got: list[bytes] = []

    async def read(talk: Conversation) -> None:
        got.append(await talk.body())
        await talk.answer()

    async with upstream_of(read) as upstream:
        request = a_request("POST", headers=[(b"transfer-encoding", b"chunked")])
        await bench(upstream.port).call(Client(request, [b"one", b"two", b"three"]))
        assert got == [b"onetwothree"]


async def test_a_body_announced_too_large_is_refused_before_the_upstream_hears_of_it(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = Client(a_request("POST", headers=[(b"content-length", b"11")]), [b"x" * 11])
        with pytest.raises(GatewayError, match="body_too_large"):
            await bench(upstream.port, max_body=10).call(client)
        assert not upstream.seen
        assert client.pulled == 0


async def test_a_body_that_turns_out_too_large_breaks_the_upstreams_request_off(bench: Any) -> None:
    broken: list[bool] = []

    async def read(talk: Conversation) -> None:
        try:
            await talk.body()
        except asyncio.IncompleteReadError:
            broken.append(True)
            raise

    async with upstream_of(read) as upstream:
        subject = bench(upstream.port, max_body=100)
        client = Client(a_request("POST", headers=[(b"transfer-encoding", b"chunked")]), [b"x" * 60, b"x" * 60])
        with pytest.raises(GatewayError, match="body_too_large"):
            await subject.call(client)
        await asyncio.wait_for(upstream.closed.wait(), 5)
        assert broken == [True]
        assert subject.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_slow_caller_does_not_use_up_the_deadline(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        request = a_request("POST", headers=[(b"transfer-encoding", b"chunked")])
        client = Client(request, [b"a", 0.4, b"b", 0.4, b"c"])  # type: ignore[list-item]
        await bench(upstream.port, deadline_s=0.3).call(client)
        assert client.status == 200


async def test_the_deadlines_end_is_named_and_counted(bench: Any) -> None:
    async def hang(talk: Conversation) -> None:
        await asyncio.sleep(30)

    async with upstream_of(hang) as upstream:
        subject = bench(upstream.port, deadline_s=0.2)
        with pytest.raises(GatewayError, match="deadline_exceeded"):
            await subject.get()
        assert subject.breaker.snapshot()["consecutive_failures"] == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n",
    ],
)
async def test_what_breaks_off_upstream_never_looks_complete(bench: Any, broken: bytes) -> None:
    async def cut(talk: Conversation) -> None:
        await talk.send(broken)
        await asyncio.sleep(0.05)
        talk.writer.close()

    async with upstream_of(cut) as upstream:
        subject = bench(upstream.port)
        client = await subject.get()
        assert client.status == 200
        assert client.edge.aborted
        assert not client.complete
        assert client.record.code == "upstream_protocol_error"
        assert subject.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_caller_who_leaves_closes_the_upstreams_connection_and_counts_for_nothing(bench: Any) -> None:
    async def drip(talk: Conversation) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await talk.send(b"a")
            await asyncio.sleep(0.02)

    async with upstream_of(drip) as upstream:
        subject = bench(upstream.port)
        client = Client(a_request())
        task = asyncio.create_task(subject.call(client))
        await asyncio.wait_for(client.written.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(upstream.closed.wait(), 2)
        assert subject.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_caller_who_leaves_before_the_head_counts_for_nothing(bench: Any) -> None:
    async def hang(talk: Conversation) -> None:
        await asyncio.sleep(30)

    async with upstream_of(hang) as upstream:
        subject = bench(upstream.port)
        task = asyncio.create_task(subject.get())
        await asyncio.wait_for(upstream.reached.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert subject.breaker.snapshot()["consecutive_failures"] == 0
        assert subject.spy.attempts == [(0, "")]


async def test_a_slow_reader_stops_the_upstream(bench: Any) -> None:
    sent = 0

    async def flood(talk: Conversation) -> None:
        nonlocal sent
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await talk.send(b"a" * 100_000)
            sent += 100_000

    async with upstream_of(flood) as upstream:
        client = Client(a_request())
        client.gate = asyncio.Event()
        task = asyncio.create_task(bench(upstream.port).call(client))
        await asyncio.sleep(0.5)
        held = sent
        await asyncio.sleep(0.2)
        assert sent == held < 20_000_000
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_answers_carry_no_length(bench: Any, status: int) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.send(b"HTTP/1.1 %d X\r\nContent-Length: 10\r\nETag: x\r\n\r\n" % status)

    async with upstream_of(answer) as upstream:
        client = await bench(upstream.port).get()
        assert (client.status, client.body, client.complete) == (status, b"", True)
        assert client.values(b"content-length") == []
        assert client.values(b"etag") == [b"x"]


async def test_head_keeps_the_length_that_get_would_have(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = await bench(upstream.port).call(Client(a_request("HEAD")))
        assert client.values(b"content-length") == [b"2"]
        assert client.body == b""


async def test_an_early_answer_reaches_the_caller_while_the_body_is_still_being_sent(bench: Any) -> None:
    async def refuse(talk: Conversation) -> None:
        await talk.answer(413, b"", b"Connection: close")
        talk.writer.close()

    async with upstream_of(refuse) as upstream:
        request = a_request("POST", headers=[(b"content-length", b"10000000")])
        client = await bench(upstream.port).call(Client(request, [b"x" * 100_000] * 100))
        assert client.status == 413


async def test_server_timing_is_said_where_the_route_wants_it(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = Client(a_request())
        client.record.authz_s = 0.0018
        await bench(upstream.port, server_timing=True).call(client)
        assert client.values(b"server-timing")[0].startswith(b"iam;dur=1.8, upstream;dur=")


async def test_a_cors_route_drops_what_the_upstream_says_about_cors(bench: Any) -> None:
    async def answer(talk: Conversation) -> None:
        await talk.answer(200, b"ok", b"Access-Control-Allow-Origin: *")

    async with upstream_of(answer) as upstream:
        client = await bench(upstream.port, cors=Cors(origins=frozenset({"https://app.example"}))).get()
        assert client.values(b"access-control-allow-origin") == []


async def test_an_upstream_that_refuses_is_unreachable(bench: Any, refused_port: int) -> None:
    with pytest.raises(GatewayError, match="upstream_unreachable") as caught:
        await bench(refused_port).get()
    assert caught.value.proxy_error == "connection_refused"


@pytest.mark.parametrize("headers", [[(b"content-length", b"6")], [(b"transfer-encoding", b"chunked")]])
async def test_a_small_idempotent_body_is_held_for_a_second_attempt(bench: Any, headers: Any) -> None:
    got: list[bytes] = []

    async def fail_once(talk: Conversation) -> None:
        got.append(await talk.body())
        await talk.answer(503 if len(got) == 1 else 200)

    async with upstream_of(fail_once) as upstream:
        retry = Resilience(retry=RetryPolicy(attempts=2, backoff_s=0.0))
        client = Client(a_request("PUT", headers=headers), [b"one", b"two"])
        await bench(upstream.port, resilience=retry).call(client)
        assert (client.status, got) == (200, [b"onetwo", b"onetwo"])
        assert client.record.retries == 1


@pytest.mark.parametrize("size", [(b"content-length", b"200000"), (b"transfer-encoding", b"chunked")])
async def test_a_large_body_is_streamed_and_not_tried_twice(bench: Any, size: Any) -> None:
    got: list[int] = []

    async def fail(talk: Conversation) -> None:
        got.append(len(await talk.body()))
        await talk.answer(503)

    async with upstream_of(fail) as upstream:
        retry = Resilience(retry=RetryPolicy(attempts=2, backoff_s=0.0))
        client = Client(a_request("PUT", headers=[size]), [b"x" * 50_000] * 4)
        await bench(upstream.port, resilience=retry).call(client)
        assert (client.status, got) == (503, [200_000])


async def test_no_body_is_read_for_an_upstream_that_will_not_be_asked(bench: Any, refused_port: int) -> None:
    retry = Resilience(retry=RetryPolicy(attempts=2))
    subject = bench(refused_port, resilience=retry)
    subject.breaker.force_open()
    client = Client(a_request("PUT", headers=[(b"content-length", b"3")]), [b"one"])
    with pytest.raises(GatewayError, match="upstream_circuit_open"):
        await subject.call(client)
    assert client.pulled == 0


async def test_a_head_that_the_listener_refuses_is_an_error_and_not_a_broken_answer(bench: Any) -> None:
    async with upstream_of(ok) as upstream:
        client = Client(a_request())

        async def refuse(message: Any) -> None:
            raise GatewayError("upstream_protocol_error")

        client.exchange._send = refuse
        with pytest.raises(GatewayError, match="upstream_protocol_error"):
            await bench(upstream.port).call(client)
        assert not client.exchange.started
        assert not client.edge.aborted
