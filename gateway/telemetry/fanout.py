"""Several observers as one.

Rules: a hook that raises is swallowed, so that nothing that watches can change what happens, and is told once; a hook
that nobody overrides costs one empty call; the span of a starting hook is the first observer's that makes one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.telemetry.observer import NO_SPAN, Observer, Span

_log: Final = logging.getLogger("gateway.telemetry")

_STARTING: Final = ("request_started", "authorize_started", "iam_call_started", "attempt_started")
_TELLING: Final = tuple(name for name in vars(Observer) if not name.startswith("_") and name not in _STARTING)

Hook = Callable[..., Any]


class Fanout(Observer):
    """Calls the same hook of all observers, in order. The hooks are bound once, at construction."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._told: set[tuple[str, str]] = set()
        for name in _STARTING:
            self._bind(name, observers, self._starting)
        for name in _TELLING:
            self._bind(name, observers, self._telling)

    def _bind(self, name: str, observers: Sequence[Observer], combine: Callable[[str, list[Hook]], Hook]) -> None:
        hooks = [
            getattr(observer, name)
            for observer in observers
            if getattr(type(observer), name) is not getattr(Observer, name)
        ]
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
