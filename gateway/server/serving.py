"""uvicorn's server on one socket, with our own way of accepting."""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

from gateway.server.accepting import Acceptor
from gateway.server.connection import EdgeProtocol
from gateway.server.factory import ListenerConfig
from gateway.server.listener import Admission


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
