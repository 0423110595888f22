"""Which new traces are recorded: the standard samplers by `OTEL_TRACES_SAMPLER`, decided before anything is made.

Why not the SDK's samplers: they decide in the same way, but a request that is not recorded costs 5 µs in the SDK and
under 1 µs when it is never asked.

Rules: `parentbased_*` follow a (trusted) caller's flag; a ratio is of the lower 64 bits of the trace id, as in every
other implementation, so that services agree. An unknown name or ratio is said once and means the default.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

from gateway.telemetry.trace_context import Parent

_log = logging.getLogger("gateway.telemetry")

Sampler = Callable[[int, Parent | None], bool]
"""Trace id and parent → whether the trace is recorded."""

_LOW_64_BITS: Final = (1 << 64) - 1
_PARENT_BASED: Final = "parentbased_"
_DEFAULT: Final = "parentbased_always_on"


def sampler_of(environ: Mapping[str, str]) -> Sampler:
    """The sampler that the environment names."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or _DEFAULT
    root = _root(name.removeprefix(_PARENT_BASED), environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    if root is None:
        _log.warning("[telemetry] OTEL_TRACES_SAMPLER=%s is not known here, using %s", name, _DEFAULT)
        return _parent_based(_always)
    return _parent_based(root) if name.startswith(_PARENT_BASED) else root


def _root(name: str, argument: str) -> Sampler | None:
    match name:
        case "always_on":
            return _always
        case "always_off":
            return _never
        case "traceidratio":
            return _ratio(argument)
    return None


def _ratio(argument: str) -> Sampler:
    share = _share(argument.strip() or "1")
    if not 0 <= share <= 1:
        _log.warning("[telemetry] OTEL_TRACES_SAMPLER_ARG=%s is not a ratio, using 1.0", argument)
        share = 1.0
    bound = round(share * (1 << 64))
    return lambda trace_id, _parent: trace_id & _LOW_64_BITS < bound


def _share(argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        return math.nan


def _parent_based(root: Sampler) -> Sampler:
    return lambda trace_id, parent: root(trace_id, None) if parent is None else parent.sampled


def _always(_trace_id: int, _parent: Parent | None) -> bool:
    return True


def _never(_trace_id: int, _parent: Parent | None) -> bool:
    return False
