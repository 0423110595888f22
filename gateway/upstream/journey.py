"""One request on its way to an upstream, over all its attempts: at which origin it is, and what that origin is told.

Rules: an upstream says where the request went; whoever judges the outcome says what became of it, and what is the
origin's own then counts for that origin. Without an upstream of origins nothing happens here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.upstream.origins import Member

_LOG: Final = logging.getLogger("gateway")
_NOTHING_NEW: Final = -1


class Journey:
    """One request. `subject`: on whose behalf. `failed`: the origin at which the last attempt failed."""

    __slots__ = ("_answers", "_setbacks", "failed", "member", "subject")

    def __init__(self, subject: str = "") -> None:
        self.subject = subject
        self.member: Member | None = None
        self.failed: Member | None = None

    def goes_to(self, member: Member) -> None:
        """An attempt begins there."""
        self.member = member
        self._answers = member.evidence.answers
        self._setbacks = member.setbacks

    def has_no_choice(self) -> None:
        """It goes there although the origin is set aside, as all are: a failure there is no news."""
        self._setbacks = _NOTHING_NEW

    def went_well(self, now_s: float) -> None:
        """The origin answered."""
        member = self.member
        if member is not None and member.answered(now_s):
            _LOG.info("[upstream] %s answers again", member.origin)

    def went_wrong(self, code: str, now_s: float) -> None:
        """The attempt failed there, in a way that may be the origin's own."""
        member = self.failed = self.member
        if member is not None and member.failed(self._answers, self._setbacks, now_s):
            _LOG.warning("[upstream] %s is set aside for %g s (%s)", member.origin, member.aside_s, code)
