"""What IAM would be sent for some questions, caught on its way out, and what IAM decides when it really is sent."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import httpx

    from gateway.iam.decision_point import DecisionPoint
    from gateway.model.question import Decision, Question
    from gateway.model.settings import Configuration, IamSettings


async def caught(settings: IamSettings, questions: Sequence[Question]) -> list[httpx.Request]:
    """The requests that the client of IAM would make, without asking it where it wants to be asked (discovery)."""
    import httpx  # noqa: PLC0415 - heavy

    sent: dict[bytes, httpx.Request] = {}

    async def catch(request: httpx.Request) -> httpx.Response:
        sent.setdefault(await request.aread(), request)  # retries are the same request again
        raise httpx.PoolTimeout("caught")  # our own limit: nobody is asked anything else because of it

    await _decide(dataclasses.replace(settings, discovery=False), questions, httpx.MockTransport(catch))
    return list(sent.values())


async def decided(configuration: Configuration, questions: Sequence[Question]) -> list[Decision]:
    """What IAM decides now."""
    from gateway.resilience.deadline import Deadline  # noqa: PLC0415
    from gateway.telemetry.observer import NO_SPAN  # noqa: PLC0415

    async with decision_point(configuration) as point:
        deadline = Deadline.after(configuration.iam.timeout.total_s + 1)
        return await point.decide(questions, deadline=deadline, request_id="explain", span=NO_SPAN)


@asynccontextmanager
async def decision_point(configuration: Configuration) -> AsyncIterator[DecisionPoint]:
    """Whoever decides under this configuration, ready to be asked."""
    from gateway.app.clients import iam_upstream  # noqa: PLC0415
    from gateway.model.settings import IamApi  # noqa: PLC0415
    from gateway.upstream import Upstream, UpstreamTransport  # noqa: PLC0415

    if configuration.iam.api is IamApi.EMBEDDED and configuration.access_policies is not None:
        yield embedded(configuration.access_policies)
        return
    upstream = Upstream(iam_upstream(configuration.iam))
    iam = _iam(configuration.iam, UpstreamTransport(upstream))
    try:
        yield iam
    finally:
        await iam.aclose()
        await upstream.aclose()


def embedded(folder: Path) -> DecisionPoint:
    """The policies of a folder. Raises PolicyError."""
    from gateway.pdp.point import EmbeddedDecisionPoint  # noqa: PLC0415

    return EmbeddedDecisionPoint.load(folder)


def _iam(settings: IamSettings, transport: Any) -> DecisionPoint:
    from gateway.iam.build import build_iam  # noqa: PLC0415
    from gateway.resilience.breaker import Breaker  # noqa: PLC0415
    from gateway.telemetry.observer import Observer  # noqa: PLC0415

    observer = Observer()
    breaker = Breaker("iam", "iam", settings.breaker, observer=observer)
    return build_iam(settings, http=transport, breaker=breaker, observer=observer)


async def _decide(settings: IamSettings, questions: Sequence[Question], transport: Any) -> list[Decision]:
    from gateway.resilience.deadline import Deadline  # noqa: PLC0415
    from gateway.telemetry.observer import NO_SPAN  # noqa: PLC0415

    iam = _iam(settings, transport)
    try:
        deadline = Deadline.after(settings.timeout.total_s + 1)
        return await iam.decide(questions, deadline=deadline, request_id="explain", span=NO_SPAN)
    finally:
        await iam.aclose()
