"""The same listener over TLS: no half-close there, and no RST that is not one."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from listener_harness import MiniGateway, bare, served

from gateway.model.settings import ServerSettings, ServerTls

pytestmark = pytest.mark.hazard
GET = b"GET /open/a HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway.test")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, *plain))
    return file


def settings(certificate: Path, **keys: Any) -> ServerSettings:
    return ServerSettings(tls=ServerTls(cert_file=certificate, key_file=certificate), **keys)


async def connect(port: int, certificate: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=str(certificate))
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def test_requests_over_tls_know_their_scheme_and_share_a_connection(certificate: Path) -> None:
    app = MiniGateway(settings(certificate))
    async with served(app, app.settings) as edge:
        reader, writer = await connect(edge.port, certificate)
        writer.write(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).count(b"HTTP/1.1 200") == 2
        writer.close()
    assert [request.scheme for request in app.seen] == ["https", "https"]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_early_answer_is_read_and_the_connection_closes(certificate: Path, version: bytes) -> None:
    async with served(bare(403), settings(certificate)) as edge:
        reader, writer = await connect(edge.port, certificate)
        writer.write(GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n", 1))
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 403")
        writer.close()


async def test_an_aborted_response_ends_without_close_notify(certificate: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.05)
        scope["extensions"]["gateway.edge"].abort()

    async with served(app, settings(certificate)) as edge:
        reader, writer = await connect(edge.port, certificate)
        writer.write(GET.replace(b"1.1", b"1.0"))
        assert await reader.readuntil(b"part")
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            await reader.read()
        writer.close()


async def test_a_client_that_leaves_cancels_its_request(certificate: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert scope["extensions"]["gateway.edge"].client_left
            ended.set()

    async with served(app, settings(certificate)) as edge:
        _, writer = await connect(edge.port, certificate)
        writer.write(GET)
        await began.wait()
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_handshake_has_the_header_timeout_from_accept(certificate: Path) -> None:
    async with served(bare(), settings(certificate, header_timeout_s=0.5)) as edge:
        for begin in (b"", b"\x16\x03\x01\x02\x00\x01"):
            assert await edge.say(begin, wait=10) == b""
        assert edge.listener.connections == 0


async def test_connections_count_before_they_shake_hands(certificate: Path) -> None:
    limits = settings(certificate, header_timeout_s=30, max_connections_per_client=3)
    async with served(bare(), limits) as edge:
        silent = [await edge.connect() for _ in range(3)]
        assert await edge.say(wait=10) == b""
        assert edge.listener.connections == 3
        for _, writer in silent:
            writer.close()
        async with asyncio.timeout(10):
            while edge.listener.connections:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.01)
        reader, writer = await connect(edge.port, certificate)
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_the_head_has_what_the_handshake_left_of_the_time(certificate: Path) -> None:
    async with served(bare(), settings(certificate, header_timeout_s=1)) as edge:
        began_s = asyncio.get_running_loop().time()
        reader, writer = await connect(edge.port, certificate)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began_s < 5
        writer.close()
