"""The public listener: HTTP/1.1 on uvicorn's server, with the limits and refusals that an edge needs.

The admin listener and `gateway iam` are served by the same parts, with a small share of connections.

accepting.py   from the kernel to a connection: counted, TLS, refused
head.py        what a request head must be, as a pure function
cycle.py       one request and its response
connection.py  one connection: timers, pipelining, refusals, closing
websocket.py   a connection after its WebSocket handshake
listener.py    what connections share: settings, admission
serving.py     uvicorn's server on one socket
factory.py     the uvicorn.Config of all this
"""

from gateway.server.factory import EdgeServer, inner_config, uvicorn_config
from gateway.server.listener import Listener

__all__ = ["EdgeServer", "Listener", "inner_config", "uvicorn_config"]
