"""One question to IAM and one decision, as AuthZEN names them (Authorization API 1.0, sections 5 and 6)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.subject import Subject


@dataclass(frozen=True, slots=True)
class Check:
    """A filled-in check: what is to be done to what.

    `fragment` is its canonical JSON without the braces (`"action":{…},"resource":{…}` and, if any, `,"context":{…}`):
    the wire form and, with the subject's key, the identity of the question.
    """

    action: Mapping[str, Any]
    resource: Mapping[str, Any]
    context: Mapping[str, Any] | None
    fragment: str


@dataclass(init=False, slots=True)
class Question:
    """May this subject do this? `key` holds no token and is the identity for cache and coalescing."""

    subject: Final[Subject]
    check: Final[Check]

    def __init__(self, subject: Subject, check: Check) -> None:
        self.subject = subject
        self.check = check

    @property
    def key(self) -> tuple[str, str]:
        """What makes two questions the same: the subject's key and the check."""
        return (self.subject.key, self.check.fragment)

    @property
    def document(self) -> str:
        """The question as an AuthZEN evaluation in JSON text."""
        return f'{{"subject":{self.subject.document},{self.check.fragment}}}'


class Outcome(enum.StrEnum):
    """What became of one question. UNKNOWN is not a denial: IAM could not answer."""

    ALLOW = "allow"
    DENY = "deny"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one Question.

    `source`: iam | cache | coalesced | stale | local. `fault` says why it is UNKNOWN. `age_s` is the age of a cached or
    stale permit. `unauthenticated`: IAM said `context.error.status: 401` of this item. `isolated`: the question failed
    alone while others succeeded, so it never degrades. `step_up`: a denial that asks for stronger authentication, as
    the parameters of a challenge. `reason_user`: IAM's words for the caller, by language; "" where it names none.
    """

    outcome: Outcome
    source: str = "iam"
    fault: GatewayError | None = None
    age_s: float = 0.0
    unauthenticated: bool = False
    isolated: bool = False
    step_up: str = ""
    reason_user: tuple[tuple[str, str], ...] = ()


ALLOW: Final = Decision(Outcome.ALLOW)
DENY: Final = Decision(Outcome.DENY)


def void_credentials() -> GatewayError:
    """What it means for the caller that IAM does not know the token (RFC 6750 section 3.1)."""
    return GatewayError(
        "unauthenticated",
        "The token is not valid.",
        headers=((b"www-authenticate", b'Bearer error="invalid_token"'),),
        reason="IAM does not know this token",
    )


def step_up_required(challenge: str) -> GatewayError:
    """What it means for the caller that IAM asks for stronger authentication (RFC 9470 section 3)."""
    value = f'Bearer error="insufficient_user_authentication", {challenge}'
    return GatewayError(
        "step_up_required",
        headers=((b"www-authenticate", value.encode("ascii")),),
        reason="IAM asks for stronger authentication",
    )


def unknown(fault: GatewayError, *, isolated: bool = False) -> Decision:
    """IAM could not answer, because of `fault`."""
    return Decision(Outcome.UNKNOWN, fault=fault, isolated=isolated)
