"""TLS on the listener, renewed while it serves, with client certificates; and mutual TLS towards upstreams and IAM."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from tests.e2e.conftest import GatewayProcess
from tests.production.authority import Authority, Pair
from tests.production.backends import AUTHORIZED, Backend, post, routes, until, write

pytestmark = pytest.mark.hazard


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _client(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


async def _serial(gateway: GatewayProcess, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


async def _get(gateway: GatewayProcess, context: ssl.SSLContext, path: str = "/open/x") -> int:
    async with httpx.AsyncClient(verify=context, trust_env=False, headers=AUTHORIZED) as client:
        return (await client.get(f"https://127.0.0.1:{gateway.port}{path}")).status_code


def _tls(pair: Pair, authority: Authority | None = None) -> str:
    client = f", client_ca_file: {authority.file}" if authority else ""
    return f", tls: {{cert_file: {pair.cert}, key_file: {pair.key}{client}}}"


async def test_a_renewed_certificate_serves_without_a_restart(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority
) -> None:
    """Connections that are open stay; new ones see the new certificate; a half-renewed pair changes nothing."""
    pair, context = authority.issue("server"), _client(authority)
    gateway = await start_gateway(routes(iam, backend, server=_tls(pair)))
    assert await _serial(gateway, context) == pair.serial
    async with httpx.AsyncClient(verify=context, trust_env=False) as open_before:
        url = f"https://127.0.0.1:{gateway.port}/open/x"
        assert (await open_before.get(url)).status_code == 200
        other = authority.issue("other")
        shutil.copy(other.cert, pair.cert)
        assert (await post(gateway, "/-/reload")).status_code == 422
        assert await _get(gateway, context) == 200
        shutil.copy(other.key, pair.key)

        async def renewed() -> bool:
            return await _serial(gateway, context) == other.serial

        await until(renewed, "the new certificate")
        assert (await open_before.get(url)).status_code == 200
    assert await _get(gateway, context, "/guarded/x") == 200


async def test_a_certificate_is_renewed_while_the_configuration_is_broken(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority
) -> None:
    """The last good configuration goes on serving, and for long: its certificate must not expire."""
    pair, context = authority.issue("server"), _client(authority)
    gateway = await start_gateway(routes(iam, backend, server=_tls(pair)))
    write(gateway, "version: 1\n")
    assert (await post(gateway, "/-/reload")).status_code == 422
    new = authority.issue("server")

    async def renewed() -> bool:
        return await _serial(gateway, context) == new.serial

    await until(renewed, "the new certificate")


async def test_a_client_certificate_is_required_where_configured(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority, tmp_path: Path
) -> None:
    server, alice = authority.issue("server"), authority.issue("alice")
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others", "strangers").issue("mallory")
    gateway = await start_gateway(routes(iam, backend, server=_tls(server, authority)))
    assert await _get(gateway, _client(authority, alice)) == 200
    for context in (_client(authority), _client(authority, stranger)):
        with pytest.raises(httpx.TransportError):
            await _get(gateway, context)
    assert backend.requests == 1


async def test_an_authority_that_is_withdrawn_is_believed_no_longer(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority, tmp_path: Path
) -> None:
    server, alice = authority.issue("server"), authority.issue("alice")
    (tmp_path / "next").mkdir()
    succeeding = Authority(tmp_path / "next", "next")
    bob = succeeding.issue("bob")
    gateway = await start_gateway(routes(iam, backend, server=_tls(server, authority)))
    trusted = _client(authority, alice)
    assert await _get(gateway, trusted) == 200
    write(gateway, routes(iam, backend, server=_tls(server, succeeding)))
    assert (await post(gateway, "/-/reload")).status_code == 200
    with pytest.raises(httpx.TransportError):
        await _get(gateway, trusted)
    assert await _get(gateway, _client(authority, bob)) == 200


class Tls:
    """A server in front of `port` that ends TLS, and asks for a certificate of the authority."""

    def __init__(self, port: int, authority: Authority, pair: Pair) -> None:
        self._port = port
        self.clients: list[int] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.cert, pair.key)
        self._context.load_verify_locations(authority.file)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.clients.append(x509.load_der_x509_certificate(shown).serial_number)
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pumps = [asyncio.create_task(_pump(reader, inner_writer)), asyncio.create_task(_pump(inner_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            inner_writer.close()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    except OSError:
        return


@pytest.fixture
async def in_front_of(authority: Authority) -> AsyncIterator[Callable[[Any], Any]]:
    started: list[Tls] = []

    async def start(server: Any) -> Tls:
        tls = Tls(server.port, authority, authority.issue("inner"))
        await tls.start()
        started.append(tls)
        return tls

    yield start
    for tls in started:
        await tls.stop()


async def test_mutual_tls_towards_upstream_and_iam(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority, in_front_of: Any
) -> None:
    """Both ask for a certificate, see the gateway's own, and see the new one when it was renewed."""
    secure_iam, secure_backend = await in_front_of(iam), await in_front_of(backend)
    pair = authority.issue("gateway")
    tls = f", tls: {{ca_file: {authority.file}, cert_file: {pair.cert}, key_file: {pair.key}}}"
    text = routes(secure_iam, secure_backend, iam_keys=tls)
    text = text.replace(f'{{url: "{secure_backend.url}"}}', f'{{url: "{secure_backend.url}"{tls}}}')
    gateway = await start_gateway(text)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, headers=AUTHORIZED) as client:
        assert (await client.get("/guarded/x")).status_code == 200
        assert (secure_iam.clients, secure_backend.clients) == ([pair.serial], [pair.serial])
        renewed = authority.issue("gateway")
        assert (await post(gateway, "/-/reload")).status_code == 200
        assert (await client.get("/guarded/x")).status_code == 200
    assert secure_iam.clients[-1] == renewed.serial
    assert secure_backend.clients[-1] == renewed.serial


async def test_an_upstream_that_asks_for_a_certificate_and_gets_none_is_unreachable(
    start_gateway: Any, iam: Any, backend: Backend, authority: Authority, in_front_of: Any
) -> None:
    secure = await in_front_of(backend)
    gateway = await start_gateway(routes(iam, secure))
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        reply = await client.get("/open/x")
    assert (reply.status_code, reply.json()["code"]) == (502, "upstream_unreachable")
    assert "tls" in reply.headers["proxy-status"]
    assert backend.requests == 0
