"""The uvicorn configuration of the public listener: uvicorn's server, loop and lifespan, our protocol and limits.

Rules: nothing of uvicorn's decides who a client is (`proxy_headers`), logs a query (`access_log`) or counts idle
connections as load (`limit_concurrency`); the environment changes nothing. Handling of signals, drain and workers is
not here.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import ssl
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway.model.settings import ServerSettings
from gateway.server.connection import EdgeProtocol
from gateway.server.listener import Listener, OnRefusal
from gateway.server.tls import server_context

if TYPE_CHECKING:
    from gateway.server.cycle import App


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
