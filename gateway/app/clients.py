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
_PROBES = 4
"""Connections to IAM for the gateway's own questions: calls that hang must not keep it from asking how IAM is."""


def no_cookies() -> CookieJar:
    """A jar that refuses everything."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def origin_of(url: str) -> str:
    """`https://host:port/path` → `https://host:port`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def iam_upstream(settings: IamSettings, url: str, name: str = "iam") -> UpstreamSettings:
    """One url of IAM as an upstream: as many connections as calls may be in flight, and some for probes."""
    return UpstreamSettings(
        name=name,
        urls=(origin_of(url),),
        max_connections=settings.max_concurrency + _PROBES,
        max_pending=settings.max_concurrency + _PROBES,
        tls=settings.tls,
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


def control_client(url: str, tls: ClientTls | None = None) -> httpx.AsyncClient:
    """A client for one origin: where keys or tokens are fetched, or asked about."""
    upstream = Upstream(
        UpstreamSettings(name="control", urls=(origin_of(url),), max_connections=32, tls=tls or ClientTls())
    )
    return client_over(upstream, Timeouts(connect_s=PATIENCE_S, read_s=PATIENCE_S))


class ControlClients:
    """Clients for the origins that one issuer's keys come from; discovery learns of them late."""

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls
        self._clients: dict[str, httpx.AsyncClient] = {}

    def __call__(self, url: str) -> httpx.AsyncClient:
        """The client for the origin of `url`."""
        origin = origin_of(url)
        client = self._clients.get(origin)
        if client is None:
            client = self._clients[origin] = control_client(url, self._tls)
        return client

    async def aclose(self) -> None:
        """Close all of them."""
        for client in self._clients.values():
            await client.aclose()
