"""The decision cache against the simplest model of it: whatever happens in whatever order, it never says more."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.authorize import DecisionCache
from gateway.checks import make_check
from gateway.errors import GatewayError
from gateway.model.permit import ALLOW, DENY, Decision, Outcome, Question, unknown
from gateway.model.request import Subject
from gateway.model.settings import CacheSettings
from tests.support.properties import examples

TTL_S, NEGATIVE_TTL_S, MAX_ENTRIES = 10.0, 3.0, 40
NAMES, THINGS = st.sampled_from(["alice", "bob"]), st.sampled_from("abcd")
CLIENTS = st.sampled_from(["10.0.0.1", "2001:db8::1", "2001:db8::2", ""])
ANSWERS = st.sampled_from(
    [ALLOW, DENY, unknown(GatewayError("iam_error")), Decision(Outcome.DENY, unauthenticated=True)]
)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall = 0.0, 1_000_000.0
        self.cache = DecisionCache(
            CacheSettings(ttl_s=TTL_S, negative_ttl_s=NEGATIVE_TTL_S, max_entries=MAX_ENTRIES),
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )
        self.stamps = []
        self.newest = {}
        """By question: when the newest answer that counts was asked for, whether it permits, when its token ends."""

    def question(self, who, thing, ends=None):
        document = f'{{"id":"{who}"}}'
        subject = Subject("identity", who, document, document, expires_at_s=ends)
        return Question(subject, make_check({"name": "read"}, {"type": "t", "id": thing}, None))

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.9, 5.0, 10.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.wall += seconds

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def the_wall_clock_is_set(self, seconds):
        self.wall += seconds

    @rule()
    def iam_is_asked(self):
        self.stamps.append(self.cache.stamp())

    @rule(who=NAMES, thing=THINGS, answer=ANSWERS, life=st.none() | st.sampled_from([0.5, 4.0]), data=st.data())
    def iam_answers(self, who, thing, answer, life, data):
        if not self.stamps:
            return
        stamp = asked_s, epoch = data.draw(st.sampled_from(self.stamps))
        ends = None if life is None else self.wall + life
        self.cache.remember([self.question(who, thing, ends)], [answer], stamp, data.draw(CLIENTS))
        if epoch != self.cache._epoch:
            return
        known = self.newest.get((who, thing))
        if answer.unauthenticated:
            self.newest.pop((who, thing), None)
        elif answer.outcome is Outcome.DENY:
            if known is None or known[1] or known[0] <= asked_s:
                self.newest[who, thing] = (asked_s, False, ends)
        elif answer.outcome is Outcome.ALLOW and (known is None or known[0] <= asked_s):
            self.newest[who, thing] = (asked_s, True, ends)

    @rule(first=st.integers(0, 50), answer=st.sampled_from([ALLOW, DENY]), client=CLIENTS)
    def iam_answers_many_others(self, first, answer, client):
        """So that everything is full: what is known of alice and bob may go, and may not change."""
        others = [self.question(f"other-{number}", "a") for number in range(first, first + 30)]
        self.cache.remember(others, [answer] * len(others), self.cache.stamp(), client)

    @rule()
    def it_is_purged(self):
        self.cache.purge()
        self.newest.clear()

    @invariant()
    def it_never_says_more_than_the_newest_answer(self):
        for who in ("alice", "bob"):
            for thing in "abcd":
                asked_s, permit, ends = self.newest.get((who, thing), (0.0, None, None))
                alive = ends is None or self.wall < ends
                question = self.question(who, thing)
                served = self.cache.get(question)
                if served is not None:
                    assert alive
                    assert (served.outcome is Outcome.ALLOW) is permit
                    assert served.age_s == self.now - asked_s < (TTL_S if permit else NEGATIVE_TTL_S)
                age_s = self.cache.permit_age_s(question)
                assert age_s is None or (alive and permit and age_s == self.now - asked_s)

    @invariant()
    def it_stays_within_its_bounds(self):
        for shelf in (self.cache._permits, self.cache._denials):
            for holders in (shelf._subjects, shelf._clients):
                assert len(shelf) == sum(len(holder.entries) for holder in holders.values()) <= shelf.max_entries
            counts = [len(holder.entries) for holder in shelf._subjects.values()]
            assert max(counts, default=0) <= shelf.max_entries // 20
            sizes = sorted(len(holder.entries) for holder in shelf._clients.values())
            assert shelf._largest == (sizes[-1] if sizes else 0)
            assert sorted(size for size, peers in shelf._sizes.items() for _ in peers) == sizes


TestCacheModel = CacheMachine.TestCase
TestCacheModel.settings = examples(60, stateful_step_count=40)
