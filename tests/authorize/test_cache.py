"""The decision cache: exactly the same question, never older than allowed, never without bounds."""

from __future__ import annotations

import hashlib
import sys
import tracemalloc

import pytest

from gateway.authorize import DecisionCache
from gateway.authorize.cache import digest_of
from gateway.authorize.shelf import ENTRY_BYTES
from gateway.checks import make_check
from gateway.errors import GatewayError
from gateway.model.permit import ALLOW, DENY, Decision, Outcome, Question, unknown
from gateway.model.request import name_of
from gateway.model.settings import CacheSettings

UNKNOWN = unknown(GatewayError("iam_timeout"))


def question(who, name="inventory", action="read", context=None):
    return Question(who, make_check({"name": action}, {"type": "system", "id": name}, context))


class Store:
    """A cache with its two clocks."""

    def __init__(self, kit, **settings):
        self.clock, self.wall = kit.Clock(), kit.Clock(1_700_000_000.0)
        self.cache = DecisionCache(CacheSettings(**settings), clock=self.clock, wall=self.wall)

    def put(self, a_question, decision=ALLOW, client=""):
        self.cache.remember([a_question], [decision], self.cache.stamp(), client)

    def age(self, a_question):
        return self.cache.permit_age_s(a_question)


@pytest.fixture
def store(kit):
    return Store(kit, ttl_s=60, negative_ttl_s=5)


def test_a_permit_is_served_until_its_ttl_and_says_its_age(store, kit):
    asked = question(kit.subject())
    store.put(asked)
    store.clock.now += 59.5
    assert store.cache.get(asked) == Decision(Outcome.ALLOW, "cache", age_s=59.5)
    store.clock.now += 0.5
    assert store.cache.get(asked) is None


def test_a_denial_is_served_until_the_negative_ttl(store, kit):
    """D07: a right that was granted is seen within the shorter time."""
    asked = question(kit.subject())
    store.put(asked, DENY)
    assert store.cache.get(asked).outcome is Outcome.DENY
    store.clock.now += 5
    assert store.cache.get(asked) is None


def test_a_denial_keeps_its_words_for_the_caller(store, kit):
    asked = question(kit.subject())
    told = (("en", "Ask your manager."), ("de", "Fragen Sie Ihre Leitung."))
    store.put(asked, Decision(Outcome.DENY, reason_user=told))
    assert store.cache.get(asked).reason_user == told
    store.put(asked, DENY)
    assert store.cache.get(asked).reason_user == (), "what IAM said last"


def test_a_denial_with_more_words_than_are_kept_is_asked_for_again(store, kit):
    asked = question(kit.subject())
    store.put(asked, ALLOW)
    store.put(asked, Decision(Outcome.DENY, reason_user=tuple((f"l{n}", "x" * 900) for n in range(4))))
    assert store.cache.get(asked) is None
    assert store.age(asked) is None, "it ended the permit all the same"


def test_without_a_ttl_nothing_is_served_but_permits_are_known(kit):
    store, asked = Store(kit), question(kit.subject())
    store.put(asked)
    store.clock.now += 12
    assert not store.cache.serves
    assert store.cache.get(asked) is None
    assert store.age(asked) == 12


def test_an_answer_of_the_same_instant_is_not_served_without_a_ttl(kit):
    store, asked = Store(kit, negative_ttl_s=1), question(kit.subject())
    store.put(asked)
    assert store.cache.get(asked) is None


@pytest.mark.parametrize(
    "other",
    [
        {"who": "bob"},
        {"action": "write"},
        {"name": "monitoring"},
        {"context": {}},
        {"context": {"path": "/x"}},
    ],
)
def test_whatever_differs_in_the_question_is_another_answer(store, kit, other):
    """D01, D02, D03: subject, action, resource and context are all in the key."""
    store.put(question(kit.subject()))
    changed = {"who": "alice", **other}
    assert store.cache.get(question(kit.subject(changed.pop("who")), **changed)) is None


def test_concatenations_do_not_collide(store, kit):
    """D04."""
    store.put(question(kit.subject(), 'b","x":"c', "a"))
    assert store.cache.get(question(kit.subject(), "c", 'a"},"resource":{"id":"b')) is None


def test_errors_are_never_kept_and_take_nothing_away(store, kit):
    """D08."""
    asked = question(kit.subject())
    store.put(asked, UNKNOWN)
    assert len(store.cache) == 0
    store.put(asked)
    store.put(asked, UNKNOWN)
    assert store.age(asked) == 0


def test_a_denial_ends_a_known_permit(kit):
    """DG07: never after an explicit later denial, also where denials are not served."""
    store, asked = Store(kit), question(kit.subject())
    store.put(asked)
    store.put(asked, DENY)
    assert store.age(asked) is None
    store.put(asked)
    assert store.age(asked) == 0


def test_a_slow_old_permit_does_not_undo_a_newer_denial(kit):
    store, asked = Store(kit), question(kit.subject())
    early = store.cache.stamp()
    store.clock.now += 1
    store.put(asked, DENY)
    store.cache.remember([asked], [ALLOW], early)
    assert store.age(asked) is None


def test_ages_count_from_when_iam_was_asked(kit):
    store, asked = Store(kit), question(kit.subject())
    stamp = store.cache.stamp()
    store.clock.now += 2
    store.cache.remember([asked], [ALLOW], stamp)
    assert store.age(asked) == 2


def test_a_slow_old_permit_does_not_make_a_newer_one_older(kit):
    store, asked = Store(kit), question(kit.subject())
    early = store.cache.stamp()
    store.clock.now += 10
    store.put(asked)
    store.cache.remember([asked], [ALLOW], early)
    assert store.age(asked) == 0


def test_a_permit_dies_with_its_token(store, kit):
    """D06: served and known alike."""
    asked = question(kit.subject(expires_at_s=store.wall.now + 2))
    store.put(asked)
    store.wall.now += 1.9
    assert store.cache.get(asked) is not None
    store.wall.now += 0.1
    assert store.cache.get(asked) is None
    assert store.age(asked) is None


def test_an_answer_whose_token_ended_is_still_newer_than_a_slow_old_permit(store, kit):
    denied, asked = question(kit.subject(expires_at_s=store.wall.now + 2)), question(kit.subject())
    early = store.cache.stamp()
    store.clock.now += 1
    store.put(denied, DENY)
    store.wall.now += 2
    assert store.age(asked) is None
    store.cache.remember([asked], [ALLOW], early)
    assert store.age(asked) is None


def test_the_wall_clock_moves_no_age(store, kit):
    """D15."""
    asked = question(kit.subject())
    store.put(asked)
    store.wall.now += 3600
    assert store.cache.get(asked).age_s == 0
    store.wall.now -= 7200
    store.clock.now += 60
    assert store.cache.get(asked) is None


def test_void_credentials_end_what_was_known(store, kit):
    asked = question(kit.subject())
    store.put(asked)
    store.put(asked, Decision(Outcome.DENY, unauthenticated=True))
    assert store.age(asked) is None
    assert len(store.cache) == 0


def test_a_purge_also_forgets_what_is_being_asked(store, kit):
    """D13: a reload that changes checks or IAM empties the cache for good."""
    asked = question(kit.subject())
    store.put(asked)
    stamp = store.cache.stamp()
    store.cache.purge()
    store.cache.remember([asked], [ALLOW], stamp)
    assert len(store.cache) == 0
    assert store.cache.get(asked) is None


def test_an_entry_costs_the_same_however_long_its_question_is(kit):
    """Bounded in bytes: nothing that a caller chooses is kept whole, neither its question nor its name."""

    def cost(swollen):
        store = Store(kit)
        asked = [question(kit.subject(f"{swollen}{number}"), f"{swollen}{number}") for number in range(500)]
        tracemalloc.start()
        for each in asked:
            store.put(each)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(store.cache) == 500
        return size / 500

    assert cost("x") <= ENTRY_BYTES
    assert cost("x" * 10_000) <= ENTRY_BYTES


def test_what_was_denied_evicts_no_permit(kit):
    store = Store(kit, max_entries=100)
    permitted = [question(kit.subject(f"user-{number}")) for number in range(100)]
    for asked in permitted:
        store.put(asked)
    for number in range(5000):
        store.clock.now += 0.001
        store.put(question(kit.subject(f"invented-{number}")), DENY)
        store.put(question(kit.subject(f"unknown-{number}")), UNKNOWN)
    assert all(store.age(asked) is not None for asked in permitted)


def test_who_invents_names_at_one_address_evicts_nobody_elses_permits(kit):
    """Also where IAM permits whatever token somebody made up."""
    store = Store(kit, max_entries=100)
    known = [(question(kit.subject(f"user-{number}")), f"10.0.0.{number}") for number in range(50)]
    for asked, client in known:
        store.put(asked, client=client)
    for number in range(5000):
        store.put(question(kit.subject(f"invented-{number}")), client=f"2001:db8::{number:x}")
    assert all(store.age(asked) is not None for asked, _ in known)
    assert len(store.cache) == 100


def test_a_denial_that_had_to_make_room_is_still_newer_than_a_slow_old_permit(kit):
    store, asked = Store(kit, max_entries=100), question(kit.subject())
    early = store.cache.stamp()
    store.clock.now += 1
    store.put(asked, DENY)
    store.clock.now += 1
    for number in range(1000):
        store.put(question(kit.subject(f"invented-{number}")), DENY)
    store.cache.remember([asked], [ALLOW], early)
    assert store.age(asked) is None
    store.put(asked)
    assert store.age(asked) == 0


def test_a_subject_is_purged_alone_and_what_is_being_asked_is_not_kept(kit):
    store = Store(kit)
    alices = [question(kit.subject("alice"), name) for name in "abc"]
    bobs = question(kit.subject("bob"))
    for asked in (*alices, bobs):
        store.put(asked)
    stamp = store.cache.stamp()
    assert store.cache.purge_subject(name_of("alice")) == 3
    store.cache.remember([alices[0]], [ALLOW], stamp)
    assert [store.age(asked) for asked in alices] == [None] * 3
    assert store.age(bobs) == 0
    assert store.cache.purge_subject(name_of("nobody")) == 0


def test_settings_change_under_what_is_known(kit):
    store = Store(kit, max_entries=100)
    people = [question(kit.subject(f"user-{number}")) for number in range(100)]
    for asked in people:
        store.put(asked)
    store.cache.update(CacheSettings(ttl_s=60, max_entries=200))
    assert all(store.cache.get(asked) is not None for asked in people)
    store.cache.update(CacheSettings(max_entries=50))
    for number in range(20):
        store.put(question(kit.subject(f"later-{number}")))
    assert len(store.cache) == 50


@pytest.mark.parametrize("size", [100, 10_000])
def test_an_answer_costs_the_same_whatever_is_stored(kit, size):
    """Counted in calls and lines, not in time."""
    store = Store(kit, max_entries=size)
    for number in range(size):
        store.put(question(kit.subject(f"user-{number}")), client=f"10.0.{number // 250}.{number % 250}")
        store.cache._permits.get(digest_of(question(kit.subject(f"user-{number}")))).used = True
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += 1
        return count

    asked = question(kit.subject("one-more"))
    sys.settrace(count)
    store.put(asked)
    sys.settrace(None)
    assert lines < 200


def test_one_subject_holds_a_twentieth_and_evicts_only_itself(kit):
    """D09."""
    store = Store(kit, max_entries=100, ttl_s=60)
    bobs = question(kit.subject("bob"))
    store.put(bobs)
    alices = [question(kit.subject(), str(number)) for number in range(1000)]
    for asked in alices:
        store.put(asked)
    assert len(store.cache) == 6
    assert store.cache.get(bobs) is not None
    assert [store.cache.get(asked) is not None for asked in alices[-6:]] == [False, *[True] * 5]


def test_memory_is_bounded_and_the_idlest_subject_goes_first(kit):
    store = Store(kit, max_entries=40, ttl_s=60)
    people = [question(kit.subject(f"user-{number}")) for number in range(41)]
    for asked in people[:40]:
        store.put(asked)
    assert store.cache.get(people[0]) is not None
    store.put(people[40])
    assert len(store.cache) == 40
    assert store.cache.get(people[0]) is not None
    assert store.cache.get(people[1]) is None


def test_keys_hold_no_token_nor_any_name(store, kit):
    """D17 and invariant 8: what is kept are digests."""
    asked = question(kit.subject())
    store.put(asked)
    shelf = store.cache._permits
    assert list(shelf._subjects) == [hashlib.sha256(b"alice").hexdigest()]
    assert list(shelf._entries) == [digest_of(asked)]


def test_a_denial_that_asks_for_stronger_authentication_is_asked_again_so_that_its_challenge_is_not_lost(store, kit):
    """It still ends the permit, and an answer that was asked for before it does not bring that back."""
    asked = question(kit.subject())
    store.put(asked)
    before = store.cache.stamp()
    store.clock.now += 1
    store.put(asked, Decision(Outcome.DENY, step_up='acr_values="gold"'))
    assert store.cache.get(asked) is None
    assert store.age(asked) is None
    store.cache.remember([asked], [ALLOW], before)
    assert store.age(asked) is None
    store.put(asked, DENY)
    assert store.cache.get(asked).outcome is Outcome.DENY
