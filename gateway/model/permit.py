"""The proof that this request may go there, and what is answered where there is none.

Both are made only in `authorize`. `forward` takes a Permit and nothing else. A Fallback is no permit, so a type checker
finds whoever would forward on it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.model.question import Decision
from gateway.model.request import Request
from gateway.model.route import FallbackResponse, Route
from gateway.model.subject import Subject


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
