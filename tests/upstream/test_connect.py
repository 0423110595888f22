"""Why no connection could be made, said exactly; and that a bad address, resolver or certificate harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import gc
import ipaddress
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import GatewayError
from gateway.model.settings import ClientTls
from gateway.upstream import connect, names
from gateway.upstream.connect import Origin

pytestmark = pytest.mark.hazard


async def refusal(client, **timeouts) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await client.ask(**timeouts)
    assert client.state == {"in_flight": 0, "idle": 0, "connecting": 0, "pending": 0}
    return caught.value


def told(error: GatewayError) -> tuple[str, str, bool]:
    return error.code, error.proxy_error, error.sent


@pytest.mark.parametrize(
    ("url", "authority", "host", "port"),
    [
        ("http://inventory", b"inventory", "inventory", 80),
        ("http://inventory:80", b"inventory", "inventory", 80),
        ("http://inventory:9001", b"inventory:9001", "inventory", 9001),
        ("https://inventory:443/", b"inventory", "inventory", 443),
        ("https://inventory:80", b"inventory:80", "inventory", 80),
        ("http://[::1]:9001", b"[::1]:9001", "::1", 9001),
    ],
)
def test_an_origin_knows_its_authority(url, authority, host, port):
    origin = Origin.parse(url)
    assert (origin.authority, origin.address.host, origin.address.port) == (authority, host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "inventory",
        "ftp://x",
        "file:///etc",
        "http://",
        "http://x/path",
        "http://x?q",
        "http://a:b@x",
        "http://x:99999",
    ],
)
def test_what_is_no_origin_is_refused(url):
    with pytest.raises(ValueError):  # noqa: PT011 - any reason will do
        Origin.parse(url)


async def test_nobody_listens(serve, reach):
    server = await serve()
    client = reach(server)
    server.refuse()
    assert told(await refusal(client)) == ("upstream_unreachable", "connection_refused", False)


async def test_the_name_is_unknown(serve, reach, monkeypatch):
    async def unknown(address):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(names, "_addresses", unknown)
    error = await refusal(reach(await serve(), host="inventory.internal"))
    assert told(error) == ("upstream_unreachable", "dns_error", False)
    assert "inventory.internal" not in error.detail


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_names_and_addresses_are_connected_to(serve, reach, host):
    assert await reach(await serve(), host=host).text() == b"good"


async def test_a_slow_resolver_is_asked_once_and_waited_for_no_longer_than_the_connect_timeout(
    serve, reach, monkeypatch
):
    asked = 0

    async def slow(address):
        nonlocal asked
        asked += 1
        await asyncio.sleep(1)
        return []

    monkeypatch.setattr(names, "_addresses", slow)
    client = reach(await serve(), host="inventory.internal")
    errors = await asyncio.gather(*(client.ask(connect_s=0.1) for _ in range(5)), return_exceptions=True)
    assert {told(error) for error in errors} == {("upstream_timeout", "connection_timeout", False)}
    assert asked == 1


async def test_a_resolver_that_fails_after_everybody_left_disturbs_nobody(serve, reach, monkeypatch):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fails_late(address):
        await asyncio.sleep(0.2)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(names, "_addresses", fails_late)
    client = reach(await serve(), host="inventory.internal")
    assert (await refusal(client, connect_s=0.05)).code == "upstream_timeout"
    await asyncio.sleep(0.3)
    gc.collect()
    assert complaints == []


async def test_what_was_resolved_is_used_for_a_while(serve, reach, monkeypatch):
    asked = 0
    real = names._addresses

    async def counted(address):
        nonlocal asked
        asked += 1
        return await real(address)

    monkeypatch.setattr(names, "_addresses", counted)
    client = reach(await serve())
    await asyncio.gather(*(client.text() for _ in range(10)))
    assert asked == 1


def swallowing(stack: ExitStack) -> int:
    """A port whose accept queue is full, so that a SYN is never answered."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return listener.getsockname()[1]


def info(host: str, port: int) -> names.AddressInfo:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, 0, "", (host, port))


async def test_nobody_answers(serve, reach, monkeypatch):
    with ExitStack() as stack:
        port = swallowing(stack)

        async def only(address):
            return [info("127.0.0.1", port)]

        monkeypatch.setattr(names, "_addresses", only)
        error = await refusal(reach(await serve()), connect_s=0.2)
        assert told(error) == ("upstream_timeout", "connection_timeout", False)
        assert "0.2s" in error.reason


async def test_every_address_is_tried_and_none_uses_up_the_time_of_the_others(serve, reach, monkeypatch):
    server = await serve()
    with ExitStack() as stack:
        refused, swallowed = info("::1", 1), info("127.0.0.1", swallowing(stack))

        async def several(address):
            return [refused, swallowed, info("127.0.0.1", server.port)]

        monkeypatch.setattr(names, "_addresses", several)
        assert await reach(server).text(connect_s=1.0) == b"good"


async def test_the_last_address_says_why(serve, reach, monkeypatch):
    async def none(address):
        return [info("127.0.0.1", 1), info("127.0.0.1", 2)]

    monkeypatch.setattr(names, "_addresses", none)
    assert (await refusal(reach(await serve()))).proxy_error == "connection_refused"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMFILE, ("upstream_overloaded", "connection_limit_reached", False)),
        (errno.EADDRNOTAVAIL, ("upstream_overloaded", "connection_limit_reached", False)),
        (errno.EHOSTUNREACH, ("upstream_unreachable", "destination_ip_unroutable", False)),
    ],
)
async def test_our_own_limits_are_not_the_upstreams_failure(serve, reach, monkeypatch, number, expected):
    async def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(connect.Dialer, "_open", fail)
    assert told(await refusal(reach(await serve()))) == expected


async def test_a_bug_while_connecting_reaches_the_one_who_waits(serve, reach, monkeypatch):
    async def broken(address):
        raise UnicodeError("label too long")

    monkeypatch.setattr(names, "_addresses", broken)
    with pytest.raises(UnicodeError):
        await reach(await serve()).ask()


async def test_a_server_that_hangs_up_at_once(serve, reach):
    async def behave(visitor) -> None:
        visitor.reset()

    with pytest.raises(GatewayError) as caught:
        await reach(await serve(behave)).ask()
    assert told(caught.value)[:2] == ("upstream_protocol_error", "connection_terminated")


# --- TLS --------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._sign("test authority", self.key, ca=True).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, days: int = 1) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(self._sign(name, key, ca=False, days=days).public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool, days: int = 1) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name.replace(" ", "-"))
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=10))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def secure(authority: Authority, name: str = "127.0.0.1", *, clients: bool = False, days: int = 1) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name, days))
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)
    return context


async def test_over_tls_all_is_the_same(serve, reach, authority):
    server = await serve(ssl=secure(authority))
    client = reach(server, scheme="https", tls=ClientTls(ca_file=authority.file))
    for _ in range(3):
        assert await client.text(b"POST", b"x" * 300_000) == b"good"
    assert server.bodies == [b"x" * 300_000] * 3
    assert server.visits == 1


async def test_an_unknown_issuer_is_a_certificate_error(serve, reach, authority):
    server = await serve(ssl=secure(authority))
    error = await refusal(reach(server, scheme="https"))
    assert told(error) == ("upstream_unreachable", "tls_certificate_error", False)
    assert server.heads == []


async def test_a_foreign_name_is_a_certificate_error_unless_it_was_expected(serve, reach, authority):
    server = await serve(ssl=secure(authority, "inventory.internal"))
    tls = ClientTls(ca_file=authority.file)
    assert (await refusal(reach(server, scheme="https", tls=tls))).proxy_error == "tls_certificate_error"
    tls = ClientTls(ca_file=authority.file, server_name="inventory.internal")
    assert await reach(server, scheme="https", tls=tls).text() == b"good"


async def test_without_verification_any_certificate_will_do(serve, reach, authority):
    server = await serve(ssl=secure(authority, "elsewhere"))
    assert await reach(server, scheme="https", tls=ClientTls(verify=False)).text() == b"good"


async def test_a_server_without_tls_is_a_tls_protocol_error(serve, reach):
    async def behave(visitor) -> None:
        await visitor.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await visitor.gone()

    error = await refusal(reach(await serve(behave), scheme="https"))
    assert told(error) == ("upstream_unreachable", "tls_protocol_error", False)


async def test_a_handshake_that_hangs_is_a_connect_timeout(serve, reach):
    async def behave(visitor) -> None:
        await visitor.gone()

    error = await refusal(reach(await serve(behave), scheme="https"), connect_s=0.2)
    assert told(error) == ("upstream_timeout", "connection_timeout", False)


async def test_a_client_certificate_is_shown_where_it_is_asked_for(serve, reach, authority):
    server = await serve(ssl=secure(authority, clients=True))
    cert_file, key_file = authority.issue("gateway")
    tls = ClientTls(ca_file=authority.file, cert_file=cert_file, key_file=key_file)
    assert await reach(server, scheme="https", tls=tls).text() == b"good"


async def test_a_missing_client_certificate_is_a_tls_alert(serve, reach, authority, monkeypatch):
    """With TLS 1.3 it comes after our side of the handshake was over."""

    def answer_one(listener: socket.socket) -> None:
        raw, _ = listener.accept()
        with secure(authority, clients=True).wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as tls:
            with contextlib.suppress(ssl.SSLError):
                tls.do_handshake()
            with socket.socket(fileno=tls.detach()) as plain:  # without reading, closing would reset the connection
                plain.settimeout(5)
                while plain.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def only(address):
            return [info("127.0.0.1", listener.getsockname()[1])]

        monkeypatch.setattr(names, "_addresses", only)
        serving = asyncio.create_task(asyncio.to_thread(answer_one, listener))
        client = reach(await serve(), scheme="https", tls=ClientTls(ca_file=authority.file))
        with pytest.raises(GatewayError) as caught:
            await client.ask()
        assert told(caught.value)[:2] == ("upstream_unreachable", "tls_alert_received")
        await serving


async def test_a_body_that_ends_with_the_connection_needs_the_end_of_tls_too(serve, reach, authority):
    """Otherwise whoever can cut the connection can shorten the answer (RFC 9112 section 9.8)."""

    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
        if visitor.server.visits == 1:
            return
        raw = visitor.writer.transport.get_extra_info("socket")
        await asyncio.sleep(0.05)
        with socket.socket(fileno=socket.dup(raw.fileno())) as cable:
            cable.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.2)

    server = await serve(behave, ssl=secure(authority))
    client = reach(server, scheme="https", tls=ClientTls(ca_file=authority.file))
    assert await client.text() == b"whole"
    with pytest.raises(GatewayError, match="broken off"):
        await client.text()


async def test_tls_files_that_cannot_be_used_are_found_at_construction(serve, reach, tmp_path):
    server = await serve()
    with pytest.raises(OSError, match="No such file"):
        reach(server, scheme="https", tls=ClientTls(ca_file=tmp_path / "none.pem"))


# --- probing ----------------------------------------------------------------------------------------------------------


async def test_a_probe_connects_and_sends_nothing(serve, reach, until):
    server = await serve()
    client = reach(server)
    await client.upstream.probe(1.0)
    await until(lambda: server.visits == 1 and not server.present)
    assert server.heads == []
    server.refuse()
    with pytest.raises(GatewayError) as caught:
        await client.upstream.probe(1.0)
    assert told(caught.value) == ("upstream_unreachable", "connection_refused", False)


async def test_a_probe_has_a_time_limit(serve, reach, monkeypatch):
    with ExitStack() as stack:
        port = swallowing(stack)

        async def only(address):
            return [info("127.0.0.1", port)]

        monkeypatch.setattr(names, "_addresses", only)
        with pytest.raises(GatewayError) as caught:
            await reach(await serve()).upstream.probe(0.2)
        assert caught.value.code == "upstream_timeout"


async def test_one_origin_that_can_be_reached_is_enough_for_a_probe(serve, reach):
    good, bad = await serve(), await serve()
    client = reach(bad, good)
    bad.refuse()
    await client.upstream.probe(1.0)
