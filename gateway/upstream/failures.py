"""What can go wrong with an upstream, in the words of the taxonomy and of RFC 9209 section 2.3.

The one border where errors of sockets, DNS and TLS become GatewayErrors. Rules: `sent` is False exactly when no byte of
the request went out; running out of our own descriptors is our overload, not the upstream's failure; `detail` (shown to
the caller) names no host, `reason` (for logs) says what the operating system said.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

from gateway.errors import GatewayError

_OUR_LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_UNROUTABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})


class ConnectFailed(GatewayError):
    """No connection could be made, so nothing was sent: another origin may be tried."""


class ConnectionLost(GatewayError):
    """A connection ended before the first byte of the response: if it was a kept one, it is replaced once."""


class QueuedTooLong(GatewayError):
    """The deadline ended while the request stood in our queue for a connection: the upstream never heard of it."""


def connect_failed(error: OSError) -> GatewayError:
    """Why connecting or the TLS handshake failed."""
    if error.errno in _OUR_LIMITS and not isinstance(error, (socket.gaierror, ssl.SSLError)):
        return overloaded(f"cannot open a socket: {error}")
    return ConnectFailed(
        "upstream_unreachable",
        "The system behind this route cannot be reached.",
        sent=False,
        proxy_error=_connect_error(error),
        reason=f"connect: {error}",
    )


def connect_timed_out(after_s: float) -> GatewayError:
    """Not connected in time, DNS and TLS included."""
    return ConnectFailed(
        "upstream_timeout",
        "The system behind this route could not be reached in time.",
        sent=False,
        proxy_error="connection_timeout",
        reason=f"connect timeout after {after_s:g}s",
    )


def overloaded(reason: str) -> GatewayError:
    """Our own limit, not the upstream's failure."""
    return GatewayError(
        "upstream_overloaded", "Too many requests wait for the system behind this route.", sent=False, reason=reason
    )


def closed(*, sent: bool) -> GatewayError:
    """The upstream was taken out of service (shutdown, reload)."""
    return GatewayError("draining", "The gateway is shutting down.", sent=sent, reason="upstream closed")


def deadline_exceeded(*, sent: bool) -> GatewayError:
    """The request's deadline ended before the response head."""
    return GatewayError("deadline_exceeded", "The answer did not come in time.", sent=sent, reason="deadline")


def queued_too_long() -> GatewayError:
    """The request's deadline ended while it waited for a place among `max_connections`."""
    return QueuedTooLong("deadline_exceeded", sent=False, reason="deadline, while waiting for a free connection")


def read_timed_out(silence_s: float) -> GatewayError:
    """The upstream was silent for too long, before or within its response."""
    return GatewayError(
        "upstream_timeout", "The system behind this route did not answer in time.", reason=f"silent for {silence_s:g}s"
    )


def write_timed_out(silence_s: float) -> GatewayError:
    """The upstream took none of the request for too long."""
    return GatewayError(
        "upstream_timeout",
        "The system behind this route did not take the request in time.",
        proxy_error="connection_write_timeout",
        reason=f"took nothing for {silence_s:g}s",
    )


def protocol_error(reason: str, proxy_error: str = "http_protocol_error") -> GatewayError:
    """Something that is not HTTP/1.1, or that two parsers could read differently."""
    return GatewayError(
        "upstream_protocol_error",
        "The system behind this route gave an invalid answer.",
        proxy_error=proxy_error,
        reason=reason,
    )


def lost(error: Exception | None, *, sent: bool) -> GatewayError:
    """The connection ended before the first byte of the response. `error`: of the socket, None for an orderly end."""
    if isinstance(error, ssl.SSLError):
        # With TLS 1.3 a refused client certificate is only noticed on the first read (RFC 8446 section 4.4.2.4).
        return ConnectionLost(
            "upstream_unreachable",
            "The system behind this route cannot be reached.",
            sent=sent,
            proxy_error=_tls_error(error),
            reason=f"TLS: {error}",
        )
    return ConnectionLost(
        "upstream_protocol_error",
        "The system behind this route closed the connection without an answer.",
        sent=sent,
        proxy_error="connection_terminated",
        reason=f"connection lost: {error or 'closed'}",
    )


def broken_off(error: Exception | None) -> GatewayError:
    """The connection ended within the response (RFC 9112 section 8)."""
    return protocol_error(f"response broken off: {error or 'closed'}", "http_response_incomplete")


def _connect_error(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "dns_error"
    if isinstance(error, ssl.SSLError):
        return _tls_error(error)
    if error.errno in _UNROUTABLE:
        return "destination_ip_unroutable"
    return "connection_refused" if isinstance(error, ConnectionRefusedError) else "connection_terminated"


def _tls_error(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls_certificate_error"
    return "tls_alert_received" if "ALERT" in (error.reason or "") else "tls_protocol_error"
