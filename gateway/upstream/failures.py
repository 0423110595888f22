"""What can go wrong with an upstream, in the words of the taxonomy and of RFC 9209 section 2.3.

The one border where errors of sockets, DNS and TLS become GatewayErrors. `sent` is False exactly when no byte of the
request went out. `detail` (for the caller) names no host; `reason` (for operators) says what was done, where, and what
was wrong, as in `connect 10.1.2.3:8181: refused`.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from gateway.errors import GatewayError

# Running out of our own descriptors is our overload, not the upstream's failure.
_OUR_LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_UNROUTABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
_SOCKET_WORDS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
}
_NAME_WORDS: Final = {
    socket.EAI_NONAME: "no such name",
    socket.EAI_AGAIN: "the name server does not answer",
    getattr(socket, "EAI_NODATA", socket.EAI_NONAME): "no such name",
}
_CERTIFICATE_WORDS: Final = {  # by OpenSSL's X509_V_ERR_…
    9: "certificate not yet valid",
    10: "certificate expired",
    18: "certificate self-signed",
    19: "certificate of an unknown authority",
    20: "certificate of an unknown authority",
    21: "certificate of an unknown authority",
    23: "certificate revoked",
    62: "certificate of another name",
    64: "certificate of another address",
}
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER")
_TOLD: Final = 3


class ConnectFailed(GatewayError):
    """No connection could be made, so nothing was sent: another origin may be tried."""


class ConnectionLost(GatewayError):
    """A connection ended before the first byte of the response: if it was a kept one, it is replaced once."""


class QueuedTooLong(GatewayError):
    """The deadline ended while the request stood in our queue for a connection: the upstream never heard of it."""


class SentAway(GatewayError):
    """The origin was set aside while the request stood in our queue for a connection to it."""


class HeldBack(GatewayError):
    """Not asked, because the upstream said when to come back: waiting so long is all that it takes."""


def held_back(retry_after_s: float) -> GatewayError:
    """The upstream's own `Retry-After`, of a 429 or 503, is not over."""
    return HeldBack("upstream_circuit_open", retry_after_s=retry_after_s, sent=False, reason="asked to come back later")


def name_failed(host: str, error: OSError) -> GatewayError:
    """The name could not be resolved."""
    if isinstance(error, TimeoutError):
        return name_timed_out(host, None)
    what = _NAME_WORDS.get(error.errno or 0) or error.strerror or str(error)
    return _unreachable("dns_error", f"dns {host}: {what}")


def name_timed_out(host: str, after_s: float | None) -> GatewayError:
    """The look-up took too long."""
    return _too_slow(f"dns {host}: timeout" + ("" if after_s is None else f" after {after_s:g}s"))


def connect_failed(error: OSError, where: str, after_s: float) -> GatewayError:
    """TCP could not be connected. `where`: the address and port."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return _too_slow(f"connect {where}: timeout after {after_s:g}s")
    if error.errno in _OUR_LIMITS:
        return overloaded(f"cannot open a socket: {error}")
    return _unreachable(_connect_error(error), f"connect {where}: {_words(error)}")


def handshake_failed(error: OSError, where: str, after_s: float, date: str) -> GatewayError:
    """TCP was connected, TLS was not. `where`: the origin's name and port; `date`: of the certificate, or empty."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return _too_slow(f"tls {where}: timeout after {after_s:g}s, the port does not answer the handshake; is it TLS?")
    proxy_error = _tls_error(error) if isinstance(error, ssl.SSLError) else "tls_protocol_error"
    return _unreachable(proxy_error, f"tls {where}: {_words(error)}{date}")


def all_failed(errors: Sequence[GatewayError]) -> GatewayError:
    """No address of a name could be connected: the last one's error, with what was wrong with the others."""
    last = errors[-1]
    reasons = list(dict.fromkeys(error.reason for error in reversed(errors)))
    more = f"; and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else ""
    last.reason = "; ".join(reasons[:_TOLD]) + more
    return last


def _unreachable(proxy_error: str, reason: str) -> GatewayError:
    detail = "The system behind this route cannot be reached."
    return ConnectFailed("upstream_unreachable", detail, sent=False, proxy_error=proxy_error, reason=reason)


def _too_slow(reason: str) -> GatewayError:
    detail = "The system behind this route could not be reached in time."
    return ConnectFailed("upstream_timeout", detail, sent=False, proxy_error="connection_timeout", reason=reason)


def sent_away() -> GatewayError:
    """Never seen by a caller: the request goes on to another origin, or waits again."""
    return SentAway("upstream_overloaded", sent=False, reason="the origin was set aside")


def overloaded(reason: str) -> GatewayError:
    """Our own limit, not the upstream's failure."""
    return GatewayError(
        "upstream_overloaded", "Too many requests wait for the system behind this route.", sent=False, reason=reason
    )


def unread() -> GatewayError:
    """The caller leaves too many answers unread while others wait for the connections."""
    return GatewayError("overloaded", reason="the answer was not read while others waited for a connection")


def closed(*, sent: bool) -> GatewayError:
    """The upstream was taken out of service (shutdown, reload)."""
    return GatewayError("draining", "The gateway is shutting down.", sent=sent, reason="upstream closed")


def deadline_exceeded(*, sent: bool) -> GatewayError:
    """The request's deadline ended before the response head."""
    return GatewayError("deadline_exceeded", "The answer did not come in time.", sent=sent, reason="deadline")


def queued_too_long() -> GatewayError:
    """The request's deadline ended while it waited for a place among `max_connections`."""
    return QueuedTooLong("deadline_exceeded", sent=False, reason="deadline, while waiting for a free connection")


def read_timed_out(silence_s: float, where: str) -> GatewayError:
    """The upstream was silent for too long, before or within its response. `where`, here and below: its address."""
    return GatewayError(
        "upstream_timeout",
        "The system behind this route did not answer in time.",
        reason=f"read {where}: silent for {silence_s:g}s",
    )


def write_timed_out(silence_s: float, where: str) -> GatewayError:
    """The upstream took none of the request for too long."""
    return GatewayError(
        "upstream_timeout",
        "The system behind this route did not take the request in time.",
        proxy_error="connection_write_timeout",
        reason=f"write {where}: took nothing for {silence_s:g}s",
    )


def protocol_error(reason: str, proxy_error: str = "http_protocol_error") -> GatewayError:
    """Something that is not HTTP/1.1, or that two parsers could read differently."""
    return GatewayError(
        "upstream_protocol_error",
        "The system behind this route gave an invalid answer.",
        proxy_error=proxy_error,
        reason=reason,
    )


def lost(error: Exception | None, where: str, *, sent: bool) -> GatewayError:
    """The connection ended before the first byte of the response. `error`: of the socket, None for an orderly end."""
    if isinstance(error, ssl.SSLError):
        # With TLS 1.3 a refused client certificate is only noticed on the first read (RFC 8446 section 4.4.2.4).
        return ConnectionLost(
            "upstream_unreachable",
            "The system behind this route cannot be reached.",
            sent=sent,
            proxy_error=_tls_error(error),
            reason=f"tls {where}: {_words(error)}",
        )
    return ConnectionLost(
        "upstream_protocol_error",
        "The system behind this route closed the connection without an answer.",
        sent=sent,
        proxy_error="connection_terminated",
        reason=f"read {where}: {_words(error)} before an answer",
    )


def broken_off(error: Exception | None, where: str) -> GatewayError:
    """The connection ended within the response (RFC 9112 section 8)."""
    return protocol_error(f"read {where}: response broken off ({_words(error)})", "http_response_incomplete")


def _words(error: Exception | None) -> str:
    """What is wrong, in few words; None is an orderly end."""
    if error is None:
        return "closed"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE_WORDS.get(error.verify_code) or f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        said = error.reason or "broken off"
        return "the port does not speak TLS" if said.startswith(_NO_TLS) else said.replace("_", " ").lower()
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    return _SOCKET_WORDS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def _connect_error(error: OSError) -> str:
    if error.errno in _UNROUTABLE:
        return "destination_ip_unroutable"
    return "connection_refused" if isinstance(error, ConnectionRefusedError) else "connection_terminated"


def _tls_error(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls_certificate_error"
    return "tls_alert_received" if "ALERT" in (error.reason or "") else "tls_protocol_error"
