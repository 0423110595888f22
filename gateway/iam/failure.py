"""What can go wrong with one call to IAM, as one table: its code, whether it is tried again, and how.

Rules: a status is IAM's failure (5xx, 408, 429), its refusal of us (401, 403), its refusal of the question (400, 409,
413, 422: neither a denial nor an outage, never counted), or not what was asked for (everything else that is not 200).
A 4xx is never retried. `apart` says whether the questions of a failed batch are asked again apart: only where one of
them may be the cause, never where IAM is plainly not there or refuses load.
"""

from __future__ import annotations

import enum
from typing import Final

from gateway.errors import GatewayError

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
