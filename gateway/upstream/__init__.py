"""The way to other systems: one thin HTTP/1.1 client for the data path and, through httpx, for control calls.

Deliberately absent: redirects, cookies, proxies, content codings, HTTP/2. Nothing here reads the environment.
"""

from gateway.upstream.origins import Member
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.reply import Reply
from gateway.upstream.transport import UpstreamTransport
from gateway.upstream.upstream import Upstream, dialer_of

__all__ = ["Member", "Outgoing", "Reply", "Upstream", "UpstreamTransport", "dialer_of"]
