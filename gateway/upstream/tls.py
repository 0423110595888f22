"""TLS towards upstreams: its settings, how far a dial has come, and what is wrong with a certificate.

Rules: a failed verification stays a failure. Only to say when a certificate expired it is fetched once more without
verification: nothing is sent on that connection, and nothing of it is used but the dates.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from typing import Any, Final, cast

from gateway.model.settings import ClientTls

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL."""


class ClientContext(ssl.SSLContext):
    """Knows which handshakes have begun: an event loop says nothing between the start of TCP and the end of TLS.

    A dial is known by its server name, a string object of its own (uvloop takes no subclass of str).
    """

    shaking: set[int]

    def wrap_bio(self, *arguments: Any, **more: Any) -> ssl.SSLObject:
        """See ssl.SSLContext; called when TCP is connected."""
        self.shaking.add(id(more.get("server_hostname")))
        return super().wrap_bio(*arguments, **more)

    def has_begun(self, name: str) -> bool:
        """Whether the handshake of the dial with this very string has begun; forgets it."""
        begun = id(name) in self.shaking
        self.shaking.discard(id(name))
        return begun


def client_context(tls: ClientTls) -> ClientContext:
    """The TLS settings of an upstream, read once. OSError, ssl.SSLError or ValueError if a file cannot be used."""
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.shaking = set()
    if tls.ca_file is not None:
        context.load_verify_locations(tls.ca_file)
    else:
        context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


async def date_of_fault(error: Exception, host: str, port: int, name: str, within_s: float) -> str:
    """The day on which a certificate expired, or becomes valid, as ` 2026-03-01`; empty if that is not what is wrong.

    `error` is the failed verification. `host` is a literal address. Takes at most `within_s` seconds.
    """
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code not in (_EXPIRED, _NOT_YET_VALID):
        return ""
    try:
        async with asyncio.timeout(within_s):
            begins, ends = await _validity(host, port, name)
    except (OSError, ValueError):  # TimeoutError and ssl.SSLError are OSErrors
        return ""
    at = ends if code == _EXPIRED else begins
    past = at < dt.datetime.now(dt.UTC)
    return f" {at:%Y-%m-%d}" if past == (code == _EXPIRED) else ""  # else it is another one of the chain


async def _validity(host: str, port: int, name: str) -> tuple[dt.datetime, dt.datetime]:
    from cryptography import x509  # only after a failure

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, host, port, ssl=context, server_hostname=name)
    try:
        shown = cast("ssl.SSLObject", transport.get_extra_info("ssl_object")).getpeercert(binary_form=True)
    finally:
        transport.abort()
    certificate = x509.load_der_x509_certificate(shown or b"")
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def ended_in_order(transport: asyncio.BaseTransport) -> bool:
    """Whether an end that was read is one that the peer meant.

    Over TLS only `close_notify` tells the end from a cut (RFC 9112 section 9.8); asyncio reports both alike.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
