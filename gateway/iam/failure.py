"""What can go wrong with one call to IAM, as one table, and how much of it went wrong lately."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from gateway.errors import GatewayError

# Rules: a status is IAM's failure (5xx, 408, 429), its refusal of us (401, 403), its refusal of the question (400,
# 409, 413, 422: neither a denial nor an outage, never counted), or not what was asked for (everything else that is
# not 200). A 4xx is never retried. `apart` says whether the questions of a failed batch are asked again apart: only
# where one of them may be the cause, never where IAM is plainly not there or refuses load.

_REJECTED: Final = frozenset({400, 409, 413, 422})
UNAUTHORIZED: Final = 401
_REFUSED: Final = frozenset({UNAUTHORIZED, 403})
_BUSY: Final = frozenset({408, 429})
OK: Final = 200
_GONE: Final = frozenset({404, 405, 410})
_TOO_LARGE: Final = 413
_TOO_MANY: Final = frozenset({400, 413, 422})
_NOT_COUNTED: Final = frozenset({"iam_rejected", "iam_overloaded", "internal_error"})
_DETAILS: Final = {
    "iam_rejected": "The authorization service refused the question, so nothing was forwarded.",
    "internal_error": "The gateway could not ask, so nothing was forwarded.",
    "iam_overloaded": "Too many authorization checks are waiting, so nothing was forwarded.",
}
_DETAIL: Final = "Access could not be checked, so nothing was forwarded."


class Apart(enum.Enum):
    """How the questions of a failed batch are asked again."""

    NO = enum.auto()
    SINGLY = enum.auto()
    HALVES = enum.auto()


class CallFailure(Exception):
    """One call failed. `reason` is for logs; `retry_after_s` is IAM's own `Retry-After`.

    `gone`: there is nothing where it was asked (404, 405, 410). `too_many`: it may have been too many questions.
    `status`: of the answer, 0 where there was none.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        retryable: bool = False,
        apart: Apart = Apart.NO,
        retry_after_s: float | None = None,
        gone: bool = False,
        too_many: bool = False,
        status: int = 0,
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.retryable = retryable
        self.apart = apart
        self.retry_after_s = retry_after_s
        self.gone = gone
        self.too_many = too_many
        self.status = status

    @property
    def counts(self) -> bool:
        """Whether the breaker counts it."""
        return self.code not in _NOT_COUNTED


def fault(code: str, reason: str, retry_after_s: float | None = None) -> GatewayError:
    """The error that says to the caller why a decision is not known."""
    return GatewayError(code, _DETAILS.get(code, _DETAIL), retry_after_s=retry_after_s, reason=reason)


def of_status(status: int, retry_after_s: float | None, retried: frozenset[int]) -> CallFailure:
    """The failure that a status other than 200 is. `retried` are the statuses that a retry may help."""
    reason = f"IAM answered {status}"
    if status in _REFUSED:
        return CallFailure("iam_auth_error", reason, status=status)
    if status in _REJECTED:
        apart = Apart.HALVES if status == _TOO_LARGE else Apart.SINGLY
        return CallFailure("iam_rejected", reason, apart=apart, too_many=status in _TOO_MANY, status=status)
    if status in _BUSY:
        return CallFailure("iam_error", reason, retry_after_s=retry_after_s, status=status)
    if status >= 500:  # RFC 9110 section 15.6
        apart = Apart.SINGLY if retry_after_s is None else Apart.NO
        retryable = status in retried
        return CallFailure(
            "iam_error", reason, retryable=retryable, apart=apart, retry_after_s=retry_after_s, status=status
        )
    return CallFailure("iam_invalid_response", reason, gone=status in _GONE, status=status)


def invalid(reason: str) -> CallFailure:
    """A 200 whose body is not what was asked for: one odd question may be the cause."""
    return CallFailure("iam_invalid_response", reason, apart=Apart.SINGLY, status=OK)


# How many calls to IAM there were, and what went wrong last: for the status page, never for a decision.
#
# Deliberately absent: durations and batch sizes, which every call tells the observer.


class CallRecord:
    """All exchanges since the start. `wall` is Unix time."""

    __slots__ = ("_answered_at_s", "_calls", "_last_error", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._calls = 0
        self._answered_at_s: float | None = None
        self._last_error: dict[str, Any] | None = None
        self._wall = wall

    def add(self, code: str, reason: str) -> None:
        """One exchange ended; `code` is empty for success."""
        self._calls += 1
        if reason:
            self._last_error = {"code": code, "reason": reason, "at_s": self._wall()}
        if not code:
            self.answered()

    def answered(self) -> None:
        """IAM answered, a call or a look at it."""
        self._answered_at_s = self._wall()

    def snapshot(self) -> dict[str, Any]:
        """`at_s` in Unix time; None where nothing went wrong, or nothing was answered."""
        return {"calls": self._calls, "answered_at_s": self._answered_at_s, "last_error": self._last_error}


# JSON that no two parsers read differently: UTF-8 without BOM, one document, no duplicate keys, no NaN (RFC 8259).


def parsed(body: bytes) -> Any:
    """The document. Raises CallFailure for anything else, also for nesting that is too deep."""
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(f"the reply is not strict JSON ({type(error).__name__})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
