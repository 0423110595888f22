"""The head of a forwarded request: the target that was decided and the header the upstream gets.

Rules: the target is the caller's bytes; `strip_prefix` takes off as many leading segments as the prefix has (routing
has shown that they are the prefix, however they were written), an empty rest becomes `/`, and the upstream is told what
is missing by `X-Forwarded-Prefix`. Nothing is normalised, joined or encoded here.
"""

from __future__ import annotations

from gateway.headers import HeaderRules, upstream_request_headers
from gateway.model.permit import Permit
from gateway.model.request import Headers, Target
from gateway.model.route import ProxyAction


class OutgoingHead:
    """Makes heads for one route. `authority` is the upstream's own `Host`."""

    __slots__ = ("_host", "_prefix", "_rules", "_segments")

    def __init__(self, action: ProxyAction, authority: bytes, rules: HeaderRules) -> None:
        self._rules = rules
        self._host = None if action.preserve_host else authority
        self._prefix = action.strip_prefix.rstrip(b"/") or None if action.strip_prefix else None
        self._segments = self._prefix.count(b"/") if self._prefix else 0

    def target(self, target: Target) -> bytes:
        """What stands in the request line."""
        return without_segments(target, self._segments) if self._segments else target.raw

    def headers(self, permit: Permit, degraded: bytes | None, traceparent: bytes | None = None) -> Headers:
        """The header, without framing. Raises `bad_request` for a `Connection` that names what it must not."""
        return upstream_request_headers(
            permit.request,
            rules=self._rules,
            host=self._host,
            subject=permit.subject,
            traceparent=traceparent,
            prefix=self._prefix,
            degraded=degraded,
        )


def without_segments(target: Target, count: int) -> bytes:
    """The target's bytes without its first `count` path segments."""
    path = target.path
    end = 0
    for _ in range(count):
        end = path.find(b"/", end + 1)
        if end < 0:
            return b"/" + target.raw[len(path) :]
    return target.raw[end:]
