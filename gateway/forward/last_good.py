"""The last good answer of one place (a route, or a part of one), where its rule keeps any: see `copies`.

Rules: kept and served only for a subject, and only under a permit that IAM gave now: two degraded halves do not make a
whole. Host and target are in the key, so one question's answer is never another's.
"""

from __future__ import annotations

from gateway.forward.copies import Copies, Copy, CopyKey, kept_under, sent_with, storable
from gateway.model.permit import Permit
from gateway.model.route import UpstreamFailureMode, UpstreamFailureRule
from gateway.model.subject import name_of
from gateway.upstream.answer import Answer
from gateway.upstream.outgoing import Outgoing


class LastGood:
    """Copies of one place's answers to GET. `place` names where the question goes, `upstream` included.

    `own`: the upstream is sent the gateway's own credentials.
    """

    __slots__ = ("_copies", "_max_stale_s", "_own", "_place")

    def __init__(self, copies: Copies, place: str, rule: UpstreamFailureRule | None, *, own: bool = False) -> None:
        self._own = own
        self._copies = copies
        self._place = place
        keeps = rule is not None and rule.mode is UpstreamFailureMode.STALE
        self._max_stale_s = rule.max_stale_s if rule is not None and keeps else None

    def key(self, permit: Permit, outgoing: Outgoing, host: str = "") -> CopyKey | None:
        """Where this answer is kept, None for nowhere."""
        if self._max_stale_s is None or permit.subject is None or permit.degraded is not None:
            return None
        if outgoing.method != b"GET":
            return None
        sent = sent_with(outgoing.headers, own=self._own)
        target, subject = kept_under(outgoing.target, permit.request), permit.subject
        return CopyKey(self._place, subject.key, host, target, sent, name_of(subject.id))

    def learn(self, key: CopyKey | None, outgoing: Outgoing, answer: Answer, body: bytes | None = None) -> None:
        """Hear an answer: a body that was good is kept, what it makes untrue is forgotten."""
        if key is None:
            return
        if body is None:
            self._copies.learn(key, outgoing.method, answer.status)
        elif storable(outgoing.headers, answer.status, answer.headers):
            self._copies.keep(key, outgoing.headers, answer.headers, body)
        else:
            self._copies.evict(key)

    def find(self, key: CopyKey | None, outgoing: Outgoing) -> tuple[Copy, float] | None:
        """The last good answer to this question and its age in seconds."""
        if key is None or self._max_stale_s is None:
            return None
        copy = self._copies.find(key, outgoing.headers, self._max_stale_s)
        return None if copy is None else (copy, self._copies.age_s(copy))
