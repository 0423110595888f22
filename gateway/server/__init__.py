"""The public listener: HTTP/1.1 on uvicorn's server, with the limits and refusals that an edge needs.

The admin listener and `gateway iam` are served by the same parts, with a small share of connections.
"""

from gateway.server.factory import EdgeServer, inner_config, uvicorn_config
from gateway.server.listener import Listener

__all__ = ["EdgeServer", "Listener", "inner_config", "uvicorn_config"]
