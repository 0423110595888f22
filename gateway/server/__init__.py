"""The public listener: HTTP/1.1 on uvicorn's server, with the limits and refusals that an edge needs.

head.py        what a request head must be, as a pure function
cycle.py       one request and its response
connection.py  one connection: timers, pipelining, refusals, closing
websocket.py   a connection after its WebSocket handshake
listener.py    what connections share: settings, admission
factory.py     the uvicorn.Config of all this
"""

from gateway.server.factory import uvicorn_config
from gateway.server.listener import Listener

__all__ = ["Listener", "uvicorn_config"]
