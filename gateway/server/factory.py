"""uvicorn's server, loop and lifespan with our protocol, our way of accepting, our TLS context and limits."""

from __future__ import annotations

import dataclasses
import logging
import math
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway.model.settings import ServerSettings, ServerTls
from gateway.server.accepting import Acceptor
from gateway.server.connection import EdgeProtocol
from gateway.server.listener import Admission, Listener, OnRefusal

if TYPE_CHECKING:
    from gateway.server.cycle import App


# The TLS context of the listener.
#
# TLS 1.2 and up, as Python's OpenSSL has it; HTTP/1.1 only by ALPN (RFC 7301). With `client_ca_file` a handshake
# without a certificate of theirs fails: what the certificate says of the client is not an identity, it only opens the
# door.


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


# Rules: nothing of uvicorn's decides who a client is (`proxy_headers`), logs a query (`access_log`) or counts idle
# connections as load (`limit_concurrency`); the environment changes nothing. Handling of signals, drain and workers
# is not here.


class ListenerConfig(uvicorn.Config):
    """A uvicorn configuration that knows its listener: what EdgeProtocol is made with."""

    listener: Listener
    context: ssl.SSLContext | None

    def load(self) -> None:
        """As uvicorn does; and the TLS of the settings, for whoever accepts."""
        super().load()
        tls = self.listener.settings.tls
        self.context = None if tls is None else server_context(tls)


def uvicorn_config(
    app: App, settings: ServerSettings, *, on_refusal: OnRefusal | None = None, **overrides: Any
) -> ListenerConfig:
    """The configuration of an EdgeServer for `app` on `settings.listen`; `overrides` are uvicorn's own keywords."""
    options: dict[str, Any] = {
        "host": settings.listen.host,
        "port": settings.listen.port,
        "http": EdgeProtocol,
        "ws": "none",  # EdgeProtocol hands handshakes to EdgeWebSocket itself
        "loop": "uvloop",
        "interface": "asgi3",
        "lifespan": "on",
        "log_config": None,
        "log_level": logging.WARNING,  # below that, uvicorn logs WebSocket targets with their query
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": True,
        "forwarded_allow_ips": "",
        "limit_concurrency": None,
        "timeout_keep_alive": math.ceil(settings.idle_timeout_s),
        "timeout_graceful_shutdown": math.ceil(settings.drain_timeout_s),
        "backlog": 2048,
        "workers": 1,
    }
    config = ListenerConfig(app, **(options | overrides))
    config.listener = Listener(settings) if on_refusal is None else Listener(settings, on_refusal)
    return config


def inner_config(app: App, settings: ServerSettings, name: str, connections: int, **overrides: Any) -> ListenerConfig:
    """The configuration of a server for few callers: operators, or those who ask for decisions.

    It has the head limits and timeouts of `settings`, at most `connections` connections, and closes the one that has
    been without a request for longest where another needs the place. `name`: the listener in the log.
    """
    few = dataclasses.replace(
        settings,
        tls=None,
        trusted_proxies=(),
        max_connections=min(connections, settings.max_connections),
        max_connections_per_client=connections,
    )
    options: dict[str, Any] = {"lifespan": "off", "timeout_graceful_shutdown": 1} | overrides
    config = uvicorn_config(app, few, **options)
    config.listener = Listener(few, makes_room=True, name=name)
    return config


# uvicorn's server on one socket, with our own way of accepting.


class EdgeServer(uvicorn.Server):
    """Serves `config.listener` on `listening`, which need not listen yet."""

    config: ListenerConfig
    acceptor: Acceptor

    def __init__(self, config: ListenerConfig, listening: socket.socket) -> None:
        super().__init__(config)
        self.listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # uvicorn's signature
        """As uvicorn does, but for who accepts."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)
        self.acceptor = Acceptor(self.listening, self.config.listener, self._connection, self.config.context)
        self.acceptor.start(self.config.backlog)
        servers: list[Any] = [self.acceptor]  # of uvicorn's servers it needs `close` and `wait_closed`
        self.servers = servers
        self.started = True

    def _connection(self, admission: Admission) -> EdgeProtocol:
        make: Any = self.config.http_protocol_class
        protocol: EdgeProtocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, admission=admission
        )
        return protocol
