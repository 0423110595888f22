"""From `iam:` in routes.yaml to the client that asks. `embedded` is not built here: it needs no network."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from gateway.iam.api import Api
from gateway.iam.authzen import Evaluations
from gateway.iam.client import Iam
from gateway.iam.discovery import DiscoveredAuthzen
from gateway.iam.opa import Opa
from gateway.iam.plain import PlainBatch, PlainSingle
from gateway.iam.wire import Wire
from gateway.model.settings import IamApi, IamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.budget import RetryBudget
from gateway.telemetry.observer import Observer


def build_iam(
    settings: IamSettings,
    *,
    http: httpx.AsyncBaseTransport,
    breaker: Breaker,
    observer: Observer,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Iam:
    """IAM over `http`, which stays its owner's. `breaker` follows the policy of `settings` already."""
    api = _api(settings, Wire(http, settings, wall=wall))
    return Iam(api, settings, breaker=breaker, observer=observer, budget=RetryBudget(clock=clock))


def _api(settings: IamSettings, wire: Wire) -> Api:
    size = settings.batch_max_size
    if settings.api is IamApi.JSON:
        if settings.batch_path is None:
            return PlainSingle(wire, settings.single_path)
        return PlainBatch(wire, settings.batch_path, size)
    if settings.api is IamApi.OPA:
        return Opa(wire, settings.opa_path, size)
    return DiscoveredAuthzen(wire, size) if settings.discovery else Evaluations(wire, size)
