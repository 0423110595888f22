"""The TLS context of the listener.

TLS 1.2 and up, as Python's OpenSSL has it; HTTP/1.1 only by ALPN (RFC 7301). With `client_ca_file` a handshake without
a certificate of theirs fails: what the certificate says of the client is not an identity, it only opens the door.
"""

from __future__ import annotations

import ssl

from gateway.model.settings import ServerTls


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """The context for these files as they are now. OSError or ssl.SSLError if one cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca_file)
    return context
