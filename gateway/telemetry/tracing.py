"""W3C Trace Context: which trace a request belongs to, whether it is recorded, and what is sent on."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.ids import random_id
from gateway.model.request import AccessRecord, Request
from gateway.telemetry.observer import NO_SPAN, Observer, Span

# W3C Trace Context: which trace a request belongs to, and what is sent on.
#
# Rules: `traceparent` is believed from trusted peers only, once, and when it is well-formed to the letter; otherwise
# a new trace begins, so that no client can join a foreign trace, force sampling, or choose the ids in our logs.
# `tracestate` and `baggage` are not read here.

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_NO_TRACE_DIGITS: Final = _NO_TRACE.decode()
_NO_SPAN_DIGITS: Final = _NO_SPAN.decode()
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span. `raw` is its `traceparent` as received."""

    trace_id: str
    span_id: str
    sampled: bool
    raw: bytes


def parent_of(request: Request) -> Parent | None:
    """The span that a trusted peer says it calls from."""
    if not request.trusted:
        return None
    values = request.values(b"traceparent")
    return parse(values[0]) if len(values) == 1 else None


def parse(value: bytes) -> Parent | None:
    """A `traceparent` (W3C Trace Context section 3.2), None if it is not one. Later versions may have more fields."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED), value)


def new_trace() -> str:
    """A random trace id as 32 digits, not all 0."""
    digits = random_id()
    return digits if digits != _NO_TRACE_DIGITS else new_trace()


def new_span() -> str:
    """A random span id as 16 digits, not all 0."""
    digits = random_id()[:16]
    return digits if digits != _NO_SPAN_DIGITS else new_span()


def unsampled(trace_id: str, span_id: str) -> bytes:
    """The `traceparent` of a span that nobody records."""
    return f"00-{trace_id}-{span_id}-00".encode()


# Which new traces are recorded: the standard samplers by `OTEL_TRACES_SAMPLER`, decided before anything is made.
#
# Why not the SDK's samplers: they decide in the same way, but a request that is not recorded costs 5 µs in the SDK
# and under 1 µs when it is never asked.
#
# Rules: `parentbased_*` follow a (trusted) caller's flag; a ratio is of the lower 64 bits of the trace id, as in
# every other implementation, so that services agree. An unknown name or ratio is said once and means the default.

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


# Trace ids without a tracer: every request has one in the log, whether spans are recorded or not.
#
# Rules: a trusted caller's `traceparent` passes on unchanged; without one the request gets a new, unsampled one. An
# unsampled span stands for all spans below it, so that a request that is not recorded makes one object in all.


class PropagatingObserver(Observer):
    """Gives every request its ids. Records nothing."""

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """See Observer."""
        introduce(request, record)
        parent = parent_of(request)
        if parent is not None:
            return passing(parent, record)
        return unrecorded(new_trace(), None, record)

    def authorize_started(self, parent: Span) -> Span:
        """See Observer."""
        return parent

    def iam_call_started(
        self, size: int, links: Sequence[Span], operation: str = "POST /access/v1/evaluations"
    ) -> Span:
        """See Observer. A shared call goes on in the trace of the first who needed it."""
        return links[0] if links else NO_SPAN

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """See Observer."""
        return parent


def introduce(request: Request, record: AccessRecord) -> None:
    """Write down who asks for what. The query is left out: it may hold secrets."""
    record.request_id = request.request_id
    record.method = request.method
    record.path = request.target.raw.partition(b"?")[0].partition(b"#")[0].decode("latin-1")
    record.client = request.client
    record.scheme = request.scheme


def passing(parent: Parent, record: AccessRecord) -> Span:
    """The caller's own span, passed through."""
    record.trace_id, record.span_id = parent.trace_id, parent.span_id
    return Span(parent.raw)


def unrecorded(trace_id: str, parent: Parent | None, record: AccessRecord) -> Span:
    """A span of ours that nobody records, in the caller's trace or in a new one."""
    record.trace_id = trace_id if parent is None else parent.trace_id
    record.span_id = new_span()
    return Span(unsampled(record.trace_id, record.span_id))


def path_of(target: bytes) -> str:
    """The path of a refused target of whatever form: what else it has (user, query, fragment) may be secret."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        _, absolute, rest = path.partition(b"://")
        path = b"/" + rest.partition(b"/")[2] if absolute else b""
    return path.decode("latin-1")
