"""W3C Trace Context: which trace a request belongs to, and what is sent on.

Rules: `traceparent` is believed from trusted peers only, once, and when it is well-formed to the letter; otherwise a
new trace begins, so that no client can join a foreign trace, force sampling, or choose the ids in our logs.
`tracestate` and `baggage` are not read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.ids import random_id
from gateway.model.request import Request

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
