"""From `iam:` in routes.yaml to the client that asks. `embedded` is not built here: it needs no network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import httpx

from gateway.iam.client import Iam
from gateway.iam.discovery import BatchOrSingle, DiscoveredAuthzen
from gateway.iam.http import Wire
from gateway.iam.inquiry import Server
from gateway.iam.protocols import (
    CHECK,
    CHECKS,
    EVALUATION,
    EVALUATIONS,
    Api,
    Evaluation,
    Evaluations,
    Opa,
    PlainBatch,
    PlainSingle,
)
from gateway.iam.servers import Servers
from gateway.model.settings import IamApi, IamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import Observer
from gateway.upstream.auth import Credentials
from gateway.upstream.origins import Standing


def build_iam(
    settings: IamSettings,
    *,
    http: Sequence[httpx.AsyncBaseTransport],
    breaker: Breaker,
    observer: Observer,
    standings: Sequence[Standing] = (),
    credentials: Credentials | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Iam:
    """IAM over `http`, one for each url, which stay their owner's; so do `credentials`, made of `settings.auth`.

    `breaker` follows the policy of `settings` already. `standings`: how each url is known to be.
    """
    servers = Servers(
        [
            Server(url, _api(settings, Wire(one, settings, url, credentials, wall=wall), clock), standing)
            for url, one, standing in zip(
                settings.urls, http, standings or [Standing() for _ in settings.urls], strict=True
            )
        ],
        total_s=settings.timeout.total_s,
        hedge_s=settings.hedge_s,
        breaker=breaker,
        observer=observer,
        clock=clock,
    )
    return Iam(servers, settings, breaker=breaker, observer=observer, budget=RetryBudget(clock=clock), clock=clock)


def _api(settings: IamSettings, wire: Wire, clock: Callable[[], float]) -> Api:
    size, batch_path, single_path = settings.batch_max_size, settings.batch_path, settings.single_path
    if settings.api is IamApi.JSON:
        if batch_path is None:
            return PlainSingle(wire, single_path or CHECK)
        return PlainBatch(wire, batch_path or CHECKS, size)
    if settings.api is IamApi.OPA:
        return Opa(wire, settings.opa_path, size)
    if settings.discovery:
        return DiscoveredAuthzen(wire, size, clock=clock)
    single = Evaluation(wire, single_path or EVALUATION)
    if batch_path is None:
        return single
    return BatchOrSingle(Evaluations(wire, size, batch_path or EVALUATIONS), single, clock=clock)
