"""Several observers as one.

Rules: a hook that raises is swallowed, so that nothing that watches can change what happens, and is told once; a hook
that nobody overrides costs one empty call; the span of a starting hook is the first observer's that makes one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.model.request import AccessRecord, Request
from gateway.telemetry.observer import NO_SERVER, NO_SPAN, Observer, Server, Span

_log: Final = logging.getLogger("gateway.telemetry")

_STARTING: Final = frozenset({"request_started", "authorize_started", "iam_call_started", "attempt_started"})
_TELLING: Final = frozenset(name for name in vars(Observer) if not name.startswith("_")) - _STARTING
_EVERY_REQUEST: Final = frozenset(
    {"request_started", "request_ended", "authorize_started", "decided", "attempt_started", "attempt_ended"}
)

Hook = Callable[..., Any]


class Fanout(Observer):
    """Calls the same hook of all observers, in order. The hooks are bound once, at construction."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._told: set[tuple[str, str]] = set()
        self._starts = _hooks("request_started", observers)
        self._ends = _hooks("request_ended", observers)
        self._authorizing = _hooks("authorize_started", observers)
        self._decided = _hooks("decided", observers)
        self._attempts = _hooks("attempt_started", observers)
        self._attempted = _hooks("attempt_ended", observers)
        for name in _STARTING - _EVERY_REQUEST:
            self._bind(name, observers, self._starting)
        for name in _TELLING - _EVERY_REQUEST:
            self._bind(name, observers, self._telling)

    # Of every request: written out, because arguments that pass through as a tuple cost more than the hooks

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """See Observer."""
        made = NO_SPAN
        for hook in self._starts:
            try:
                span = hook(request, record)
                made = span if made is NO_SPAN else made
            except Exception as error:  # noqa: BLE001 - whoever watches must not decide
                self._swallow("request_started", error)
        return made

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """See Observer."""
        for hook in self._ends:
            try:
                hook(record, span)
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow("request_ended", error)

    def authorize_started(self, parent: Span) -> Span:
        """See Observer."""
        made = NO_SPAN
        for hook in self._authorizing:
            try:
                span = hook(parent)
                made = span if made is NO_SPAN else made
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow("authorize_started", error)
        return made

    def decided(self, route: str, outcome: str, code: str, source: str, duration_s: float) -> None:
        """See Observer."""
        for hook in self._decided:
            try:
                hook(route, outcome, code, source, duration_s)
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow("decided", error)

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """See Observer."""
        made = NO_SPAN
        for hook in self._attempts:
            try:
                span = hook(parent, upstream, method, attempt)
                made = span if made is NO_SPAN else made
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow("attempt_started", error)
        return made

    def attempt_ended(
        self,
        span: Span,
        upstream: str,
        method: str,
        status: int,
        code: str,
        duration_s: float,
        server: Server = NO_SERVER,
    ) -> None:
        """See Observer."""
        for hook in self._attempted:
            try:
                hook(span, upstream, method, status, code, duration_s, server)
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow("attempt_ended", error)

    # All the others

    def _bind(self, name: str, observers: Sequence[Observer], combine: Callable[[str, list[Hook]], Hook]) -> None:
        hooks = _hooks(name, observers)
        if hooks:
            setattr(self, name, combine(name, hooks))

    def _telling(self, name: str, hooks: list[Hook]) -> Hook:
        if len(hooks) == 1:
            return self._alone(name, hooks[0], None)

        def tell(*args: Any) -> None:
            for hook in hooks:
                try:
                    hook(*args)
                except Exception as error:  # noqa: BLE001 - whoever watches must not decide
                    self._swallow(name, error)

        return tell

    def _starting(self, name: str, hooks: list[Hook]) -> Hook:
        if len(hooks) == 1:
            return self._alone(name, hooks[0], NO_SPAN)

        def start(*args: Any) -> Span:
            made = NO_SPAN
            for hook in hooks:
                try:
                    span = hook(*args)
                except Exception as error:  # noqa: BLE001 - as above
                    self._swallow(name, error)
                    continue
                if made is NO_SPAN:
                    made = span
            return made

        return start

    def _alone(self, name: str, hook: Hook, otherwise: Span | None) -> Hook:
        """The one hook; `otherwise` is what a failure of it gives."""

        def call(*args: Any) -> Any:
            try:
                return hook(*args)
            except Exception as error:  # noqa: BLE001 - as above
                self._swallow(name, error)
                return otherwise

        return call

    def _swallow(self, name: str, error: Exception) -> None:
        key = (name, type(error).__name__)
        if key not in self._told:
            self._told.add(key)
            _log.error("[telemetry] The hook %s failed; said once", name, exc_info=error)


def _hooks(name: str, observers: Sequence[Observer]) -> list[Hook]:
    """This hook of those who have one of their own."""
    return [
        getattr(observer, name)
        for observer in observers
        if getattr(type(observer), name) is not getattr(Observer, name)
    ]
