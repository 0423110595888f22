"""TLS on the public listener: the context that new connections shake hands with, made anew when its files are renewed.

Rules: a renewed pair serves from the next connection on, connections that are open keep theirs; a pair that cannot be
used (one of two files is written, the other not yet) changes nothing but a log line, and the next look finds it whole.
The context is made anew, not changed, so that authorities that are gone from `client_ca_file` are believed no longer.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from pathlib import Path
from typing import Final, Protocol

from gateway.model.settings import ClientTls, ServerTls
from gateway.server.tls import server_context

_LOG: Final = logging.getLogger("gateway")


class Listening(Protocol):
    """What listens, and can do so under another context without losing a connection."""

    async def listen_with(self, context: ssl.SSLContext | None) -> None:
        """Shake hands with this from now on; None: plain HTTP."""


def material(*files: Path | None) -> tuple[str, ...]:
    """What the files hold now, as hashes: equal while nothing was renewed. A file that is gone differs from any."""
    return tuple(_digest(file) for file in files if file is not None)


def client_material(tls: ClientTls | None) -> tuple[str, ...]:
    """The material of TLS towards an upstream or IAM."""
    return () if tls is None else material(tls.ca_file, tls.cert_file, tls.key_file)


class Certificates:
    """Keeps a listener's context as its files are. `tls`: what it was started with."""

    def __init__(self, listening: Listening, tls: ServerTls | None) -> None:
        self._listening = listening
        self._live = _identity(tls)

    async def renew(self, tls: ServerTls | None) -> None:
        """Let the listener use `tls` as its files are now, if that is another context than the one in use."""
        wanted = _identity(tls)
        if wanted == self._live:
            return
        try:
            context = None if tls is None else server_context(tls)
            await self._listening.listen_with(context)
        except (OSError, ssl.SSLError) as error:
            _LOG.error("the certificate was not renewed, the one before goes on serving: %s", error)
            return
        self._live = wanted
        _LOG.warning("new connections are served %s", "without TLS" if context is None else "with the new certificate")


def _identity(tls: ServerTls | None) -> tuple[ServerTls | None, tuple[str, ...]]:
    return tls, () if tls is None else material(tls.cert_file, tls.key_file, tls.client_ca_file)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
