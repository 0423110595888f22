"""What IAM would be sent for some questions, caught on its way out, and what IAM decides when it really is sent."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import httpx

    from gateway.iam.client import DecisionPoint
    from gateway.model.permit import Decision, Question
    from gateway.model.settings import Configuration, IamSettings
    from gateway.upstream.auth import Credentials


async def caught(settings: IamSettings, questions: Sequence[Question]) -> list[httpx.Request]:
    """The requests that the client of IAM would make, without asking it where it wants to be asked (discovery)."""
    import httpx  # heavy

    sent: dict[bytes, httpx.Request] = {}

    async def catch(request: httpx.Request) -> httpx.Response:
        sent.setdefault(await request.aread(), request)  # retries are the same request again
        raise httpx.PoolTimeout("caught")  # our own limit: nobody is asked anything else because of it

    only = dataclasses.replace(settings, discovery=False, urls=settings.urls[:1], hedge_s=None)
    await _decide(only, questions, httpx.MockTransport(catch))
    return list(sent.values())


async def decided(configuration: Configuration, questions: Sequence[Question]) -> list[Decision]:
    """What IAM decides now."""
    from gateway.resilience.deadline import Deadline
    from gateway.telemetry.observer import NO_SPAN

    async with decision_point(configuration) as point:
        deadline = Deadline.after(configuration.iam.timeout.total_s + 1)
        return await point.decide(questions, deadline=deadline, request_id="explain", span=NO_SPAN)


@asynccontextmanager
async def decision_point(configuration: Configuration) -> AsyncIterator[DecisionPoint]:
    """Whoever decides under this configuration, ready to be asked."""
    from gateway.app.clients import iam_upstream
    from gateway.model.settings import IamApi
    from gateway.upstream import Upstream, UpstreamTransport

    if configuration.iam.api is IamApi.EMBEDDED and configuration.access_policies is not None:
        yield embedded(configuration.access_policies)
        return
    settings = configuration.iam
    upstreams = [Upstream(iam_upstream(settings, url)) for url in settings.urls]
    async with _credentials(settings) as credentials:
        iam = _iam(settings, [UpstreamTransport(upstream) for upstream in upstreams], credentials)
        try:
            yield iam
        finally:
            await iam.aclose()
            for upstream in upstreams:
                await upstream.aclose()


@asynccontextmanager
async def _credentials(settings: IamSettings) -> AsyncIterator[Credentials | None]:
    from gateway.app.clients import control_client
    from gateway.model.settings import OAuth2ClientCredentials
    from gateway.upstream.auth import build_credentials

    auth = settings.auth
    if auth is None:
        yield None
        return
    http = control_client(auth.token_url) if isinstance(auth, OAuth2ClientCredentials) else None
    credentials = build_credentials(auth, http=http)
    try:
        yield credentials
    finally:
        await credentials.aclose()
        if http is not None:
            await http.aclose()


def embedded(folder: Path) -> DecisionPoint:
    """The policies of a folder. Raises PolicyError."""
    from gateway.pdp.point import EmbeddedDecisionPoint

    return EmbeddedDecisionPoint.load(folder)


def _iam(
    settings: IamSettings, transports: Sequence[httpx.AsyncBaseTransport], credentials: Credentials | None = None
) -> DecisionPoint:
    from gateway.iam.build import build_iam
    from gateway.resilience.breaker import Breaker
    from gateway.telemetry.observer import Observer

    observer = Observer()
    breaker = Breaker("iam", "iam", settings.breaker, observer=observer)
    return build_iam(settings, http=transports, breaker=breaker, observer=observer, credentials=credentials)


async def _decide(
    settings: IamSettings, questions: Sequence[Question], transport: httpx.AsyncBaseTransport
) -> list[Decision]:
    from gateway.resilience.deadline import Deadline
    from gateway.telemetry.observer import NO_SPAN

    iam = _iam(settings, [transport])
    try:
        deadline = Deadline.after(settings.timeout.total_s + 1)
        return await iam.decide(questions, deadline=deadline, request_id="explain", span=NO_SPAN)
    finally:
        await iam.aclose()
