"""httpx clients for control calls (IAM, keys, tokens, health), over our own wire where we know the origin.

Rules: nothing from the environment (proxies, netrc), no redirects, no cookies kept: a control call of one request must
not carry what another one received.
"""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx

from gateway.model.route import Timeouts
from gateway.model.settings import ClientTls, IamSettings, UpstreamSettings
from gateway.upstream import Upstream, UpstreamTransport

PATIENCE_S = 5.0


def no_cookies() -> CookieJar:
    """A jar that refuses everything."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def origin_of(url: str) -> str:
    """`https://host:port/path` → `https://host:port`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def iam_upstream(settings: IamSettings) -> Upstream:
    """IAM as an upstream: one origin, as many connections as calls may be in flight."""
    return Upstream(
        UpstreamSettings(
            name="iam",
            urls=(origin_of(settings.url or ""),),
            max_connections=settings.max_concurrency,
            max_pending=settings.max_concurrency,
            tls=settings.tls,
        )
    )


def client_over(upstream: Upstream, timeouts: Timeouts) -> httpx.AsyncClient:
    """An httpx client whose calls go over an upstream's pool."""
    return httpx.AsyncClient(
        transport=UpstreamTransport(upstream),
        timeout=httpx.Timeout(timeouts.read_s, connect=timeouts.connect_s),
        trust_env=False,
        follow_redirects=False,
        cookies=no_cookies(),
    )


def control_client(url: str) -> httpx.AsyncClient:
    """A client for one origin of the configuration: where keys or tokens are fetched."""
    upstream = Upstream(UpstreamSettings(name="control", urls=(origin_of(url),), max_connections=4, tls=ClientTls()))
    return client_over(upstream, Timeouts(connect_s=PATIENCE_S, read_s=PATIENCE_S))
