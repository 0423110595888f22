"""A question to IAM, its decision, and the proof that a request may go on, or what is answered where there is none."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.request import Request, Subject
from gateway.model.route import FallbackResponse, Route

# One question to IAM and one decision, as AuthZEN names them (Authorization API 1.0, sections 5 and 6).


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


# Both are made only in `authorize`. `forward` takes a Permit and nothing else. A Fallback is no permit, so a type
# checker finds whoever would forward on it.


@dataclass(init=False, slots=True)
class Permit:
    """This request (its canonical target included) may go where this route says, for this subject.

    Nobody may change it, which the type checker sees to: at run time a frozen one costs six times as much.

    `outcome`: allow | stale | local | fail_open (the contract's `gateway.authz.outcome`).
    `source`: iam | cache | coalesced | stale | local, or public | authenticated.
    `degraded`: the mode shown in `X-Gateway-Degraded: iam; mode=…`, None if IAM decided. `age_s`: of a stale permit.
    `code`: the failure of IAM that was degraded from.
    `parts`: decisions for an aggregate's parts by name, in the order of the route's parts.
    """

    request: Final[Request]
    route: Final[Route]
    subject: Final[Subject | None]
    outcome: Final[str]
    source: Final[str]
    degraded: Final[str | None]
    age_s: Final[float]
    code: Final[str]
    parts: Final[tuple[tuple[str, Decision], ...]]

    def __init__(
        self,
        request: Request,
        route: Route,
        subject: Subject | None,
        outcome: str,
        source: str,
        degraded: str | None = None,
        age_s: float = 0.0,
        code: str = "",
        parts: tuple[tuple[str, Decision], ...] = (),
    ) -> None:
        self.request = request
        self.route = route
        self.subject = subject
        self.outcome = outcome
        self.source = source
        self.degraded = degraded
        self.age_s = age_s
        self.code = code
        self.parts = parts

    @property
    def share_key(self) -> str:
        """Who is behind it, where failures and shares are told apart: the subject, without one the client's address."""
        subject = self.subject
        return _of_address(self.request.client) if subject is None else subject.key


@dataclass(frozen=True, slots=True)
class Fallback:
    """The route's own response, given while IAM cannot answer: nothing is forwarded.

    `code`: the failure of IAM that the route degrades from. The rest is what operators read of a verdict.
    """

    response: FallbackResponse
    code: str
    outcome: str = "fallback"
    source: str = "iam"
    degraded: str = "fallback"


@lru_cache(maxsize=4096)
def _of_address(client: str) -> str:
    """An address as one client's: of IPv6 the /64 that one subscriber has (RFC 6177)."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return f"address:{client}"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"address:{address.ipv4_mapped}"
        return f"address:{ipaddress.IPv6Network((int(address) >> 64 << 64, 64))}"
    return f"address:{client}"
