"""httpx over the same wire: its API and its exceptions, our pool."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.upstream import UpstreamTransport

pytestmark = pytest.mark.hazard


@pytest.fixture
async def call(reach):
    """`call(server, **client)`: an httpx client over an upstream of that server."""
    clients: list[httpx.AsyncClient] = []

    def make(server, *, timeout: object = 5.0, scheme: str = "http", **settings: object) -> httpx.AsyncClient:
        upstream = reach(server, scheme=scheme, **settings).upstream
        client = httpx.AsyncClient(
            transport=UpstreamTransport(upstream),
            base_url=f"{scheme}://127.0.0.1:{server.port}",
            trust_env=False,
            timeout=timeout,
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


def json_server(*, answer: object, headers: bytes = b"", gzipped: bool = False):
    async def behave(visitor) -> None:
        while True:
            await visitor.request()
            body = json.dumps(answer).encode()
            body = gzip.compress(body) if gzipped else body
            await visitor.send(b"HTTP/1.1 200 Fine\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body))

    return behave


async def test_posting_json(serve, call):
    server = await serve(json_server(answer={"evaluations": [{"decision": True}]}))
    client = call(server)
    for _ in range(3):
        response = await client.post("/access/v1/evaluations?x=1", json={"a": "ü"}, headers={"X-Request-ID": "7"})
        assert response.json() == {"evaluations": [{"decision": True}]}
        assert (response.status_code, response.reason_phrase, response.http_version) == (200, "Fine", "HTTP/1.1")
    assert server.visits == 1
    head = server.heads[0]
    assert head.startswith(b"POST /access/v1/evaluations?x=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port)
    assert head.count(b"content-length: ") == 1
    assert b"x-request-id: 7\r\n" in head
    assert b"connection:" not in head
    assert json.loads(server.bodies[0]) == {"a": "ü"}


async def test_a_get_has_no_body_and_decoding_is_httpxs(serve, call):
    server = await serve(json_server(answer=[1], headers=b"Content-Encoding: gzip\r\n", gzipped=True))
    response = await call(server).get("/jwks")
    assert response.json() == [1]
    assert b"content-length" not in server.heads[0]


async def test_repeated_fields_are_kept_apart(serve, call):
    server = await serve(json_server(answer=1, headers=b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n"))
    response = await call(server).get("/")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]


async def test_streaming_both_ways(serve, call):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await visitor.send(b"4\r\npart\r\n")
            await asyncio.sleep(0.01)
        await visitor.send(b"0\r\n\r\n")
        await visitor.gone()

    async def body():
        yield b"one"
        yield b"two"

    server = await serve(behave)
    async with call(server).stream("PUT", "/", content=body()) as response:
        assert b"".join([part async for part in response.aiter_raw()]) == b"part" * 3
    assert server.bodies == [b"onetwo"]
    assert b"transfer-encoding: chunked" in server.heads[0]


async def test_a_response_that_is_closed_early_closes_its_connection(serve, call, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
        await visitor.gone()

    server = await serve(behave)
    async with call(server).stream("GET", "/") as response:
        assert response.status_code == 200
    await until(lambda: not server.present)


async def test_head_and_a_target_of_ones_own(serve, call):
    server = await serve()
    client = call(server)
    assert (await client.head("/a")).status_code == 200
    await client.get("/x", extensions={"target": b"/a%2Fb"})
    assert server.heads[1].startswith(b"GET /a%2Fb HTTP/1.1\r\n")


SILENCE = b""
CASES = [
    (SILENCE, "hang", httpx.ReadTimeout),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", "hang", httpx.ReadTimeout),
    (SILENCE, "fin", httpx.RemoteProtocolError),
    (b"garbage", "fin", httpx.RemoteProtocolError),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", "fin", httpx.RemoteProtocolError),
]


@pytest.mark.parametrize(("data", "end", "expected"), CASES)
async def test_what_goes_wrong_is_httpxs_exception_with_ours_as_its_cause(serve, call, data, end, expected):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(data)
        if end == "hang":
            await visitor.gone()

    with pytest.raises(expected) as caught:
        await call(await serve(behave), timeout=0.3).get("/")
    assert isinstance(caught.value.__cause__, GatewayError)
    assert caught.value.request.url.path == "/"


async def test_nobody_listens_is_a_connect_error(serve, call):
    server = await serve()
    client = call(server)
    server.refuse()
    with pytest.raises(httpx.ConnectError) as caught:
        await client.get("/")
    assert isinstance(caught.value.__cause__, GatewayError)
    assert not caught.value.__cause__.sent


async def test_a_handshake_that_hangs_is_a_connect_timeout(serve, call):
    async def behave(visitor) -> None:
        await visitor.gone()

    with pytest.raises(httpx.ConnectTimeout):
        await call(await serve(behave), scheme="https", timeout=0.2).get("/")


async def test_too_many_waiting_is_a_pool_timeout(serve, call, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.gone()

    server = await serve(behave)
    client = call(server, max_connections=1, max_pending=0)
    first = asyncio.create_task(client.get("/"))
    await until(lambda: bool(server.heads))
    with pytest.raises(httpx.PoolTimeout):
        await client.get("/")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_what_cannot_be_sent_is_a_local_protocol_error(serve, call):
    client = call(await serve())
    with pytest.raises(httpx.LocalProtocolError):
        await client.get("/", headers={"X-Subject": b"a\r\nX-Admin: 1"})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "https://127.0.0.1:{}/", "http://evil.test/", "ftp://127.0.0.1:{}/"]
)
async def test_no_other_origin_can_be_reached(serve, call, url):
    server = await serve()
    with pytest.raises(httpx.UnsupportedProtocol):
        await call(server).get(url.format(server.port))
    assert server.visits == 0


async def test_no_limit_is_no_limit(serve, call):
    assert (await call(await serve(), timeout=None).get("/")).text == "good"


async def test_leaving_frees_the_place(serve, call, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.gone()

    server = await serve(behave)
    client = call(server)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.get("/")
    await until(lambda: not server.present)
