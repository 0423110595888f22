"""Last good answers: what is kept, for whom, for how long, and what ends it."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forward.copies import MAX_COPY, SUBJECT_SHARE, Copies, CopyKey, sent_with, served_headers, storable
from gateway.model.request import Headers

KEY = CopyKey("inventory store", "identity:alice", "gw.example", b"/inventory/7")
PLAIN: Headers = [(b"content-type", b"text/plain")]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("asked", "said", "kept"),
    [
        ([], [], True),
        ([], [(b"cache-control", b"private, max-age=0")], True),
        ([(b"authorization", b"Bearer x")], [], True),
        ([], [(b"cache-control", b"max-age=60, No-Store")], False),
        ([(b"cache-control", b"no-store")], [], False),
        ([], [(b"set-cookie", b"a=b")], False),
        ([], [(b"vary", b"Accept, *")], False),
        ([], [(b"vary", b"Accept-Encoding")], True),
    ],
)
def test_what_may_be_kept(asked: Headers, said: Headers, kept: bool) -> None:
    assert storable(asked, 200, said) is kept


@pytest.mark.parametrize("status", [201, 203, 206, 302, 404, 500])
def test_only_200_is_kept(status: int) -> None:
    assert not storable([], status, [])


def test_a_copy_is_found_for_the_same_question_only() -> None:
    copies = Copies()
    copies.keep(KEY, [], PLAIN, b"mine")
    found = copies.find(KEY, [], 60)
    assert found is not None
    assert found.body == b"mine"
    for other in (
        KEY._replace(place="inventory other"),
        KEY._replace(subject="identity:bob"),
        KEY._replace(host="other.example"),
        KEY._replace(target=b"/inventory/7?x"),
        KEY._replace(sent=b"another token"),
    ):
        assert copies.find(other, [], 60) is None


def test_a_copy_is_served_within_max_stale_with_its_age() -> None:
    clock = Clock()
    copies = Copies(clock=clock)
    copies.keep(KEY, [], [*PLAIN, (b"age", b"100"), (b"content-length", b"4")], b"mine")
    clock.now += 30.9
    copy = copies.find(KEY, [], 31)
    assert copy is not None
    assert served_headers(copy, copies.age_s(copy)) == [*PLAIN, (b"age", b"130")]
    assert copies.find(KEY, [], 30) is None


def test_vary_tells_answers_apart() -> None:
    copies = Copies()
    german, english = [(b"accept-language", b"de")], [(b"accept-language", b"en")]
    said = [(b"vary", b"Accept-Language")]
    copies.keep(KEY, german, said, b"de")
    copies.keep(KEY, english, said, b"en")
    assert [copy and copy.body for copy in (copies.find(KEY, german, 60), copies.find(KEY, english, 60))] == [
        b"de",
        b"en",
    ]
    assert copies.find(KEY, [], 60) is None


def test_what_an_answer_varies_with_is_not_kept_in_clear() -> None:
    """It may be a token: `Vary: Authorization`."""
    copies = Copies()
    token: Headers = [(b"authorization", b"Bearer secret")]
    copies.keep(KEY, token, [(b"vary", b"Authorization")], b"hers")
    found = copies.find(KEY, token, 60)
    assert found is not None
    assert b"secret" not in repr(found).encode()
    for other in ([], [(b"authorization", b"")], [*token, *token], [(b"authorization", b"Bearer other")]):
        assert copies.find(KEY, other, 60) is None


def test_a_newer_answer_takes_the_older_ones_place() -> None:
    copies = Copies()
    copies.keep(KEY, [], PLAIN, b"old")
    before = copies.snapshot()["bytes"]
    copies.keep(KEY, [], PLAIN, b"new")
    found = copies.find(KEY, [], 60)
    assert found is not None
    assert found.body == b"new"
    assert copies.snapshot()["bytes"] == before


def test_a_newer_answer_that_is_too_large_ends_the_older_one() -> None:
    copies = Copies()
    copies.keep(KEY, [], PLAIN, b"old")
    copies.keep(KEY, [], PLAIN, b"x" * (MAX_COPY + 1))
    assert copies.find(KEY, [], 60) is None
    assert copies.snapshot() == {"questions": 0, "bytes": 0, "max_bytes": 64 * 1024 * 1024}


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        (b"GET", 401, False),
        (b"GET", 403, False),
        (b"GET", 404, False),
        (b"HEAD", 410, False),
        (b"GET", 500, True),
        (b"GET", 503, True),
        (b"GET", 304, True),
        (b"PUT", 204, False),
        (b"PUT", 409, True),
        (b"OPTIONS", 200, True),
    ],
)
def test_what_makes_a_copy_untrue_ends_it(method: bytes, status: int, kept: bool) -> None:
    copies = Copies()
    copies.keep(KEY, [], PLAIN, b"mine")
    copies.learn(KEY, method, status)
    assert (copies.find(KEY, [], 60) is not None) is kept


def test_one_subject_holds_at_most_a_twentieth() -> None:
    copies = Copies(max_total=400_000)
    bobs = KEY._replace(subject="identity:bob")
    copies.keep(bobs, [], PLAIN, b"bob")
    for number in range(1000):
        copies.keep(KEY._replace(target=b"/%d" % number), [], PLAIN, b"x" * 1000)
    assert copies.find(bobs, [], 60) is not None
    assert copies.snapshot()["bytes"] <= 400_000 // SUBJECT_SHARE
    assert copies.find(KEY._replace(target=b"/999"), [], 60) is not None


def test_the_total_is_bounded_and_the_least_used_goes_first() -> None:
    copies = Copies(max_total=70_000)
    keys = [KEY._replace(subject=f"identity:{number}") for number in range(50)]
    for key in keys:
        copies.keep(key, [], PLAIN, b"x" * 1000)
        copies.find(keys[0], [], 60)
    assert copies.snapshot()["bytes"] <= 70_000
    assert copies.find(keys[0], [], 60) is not None
    assert copies.find(keys[1], [], 60) is None


def test_purging_one_subject_leaves_the_others() -> None:
    copies = Copies()
    hers, his = KEY._replace(owner="alice"), KEY._replace(subject="identity:bob", owner="bob")
    for key in (hers, hers._replace(target=b"/2"), his):
        copies.keep(key, [], PLAIN, b"x")
    copies.evict_owner("alice")
    assert (copies.find(hers, [], 60), copies.snapshot()["questions"]) == (None, 1)


def test_purging_forgets_everything() -> None:
    copies = Copies()
    copies.keep(KEY, [], PLAIN, b"mine")
    copies.clear()
    assert copies.find(KEY, [], 60) is None
    assert copies.snapshot()["bytes"] == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, 5),
            st.integers(0, 4000),
            st.sampled_from(["keep", "vary", "find", "evict"]),
        ),
        max_size=60,
    )
)
def test_the_account_of_bytes_is_true_whatever_happens(steps: list[tuple[str, int, int, str]]) -> None:
    copies = Copies(max_total=60_000)
    for subject, number, size, what in steps:
        key = CopyKey("r u", subject, "h", b"/%d" % number)
        if what == "evict":
            copies.evict(key)
        elif what == "find":
            copies.find(key, [], 60)
        else:
            said = [(b"vary", b"x")] if what == "vary" else []
            copies.keep(key, [(b"x", b"%d" % size)], said, b"x" * size)
        held = sum(copy.size for answers in copies._answers.values() for copy in answers)
        assert held == copies._total <= 60_000
        assert held == sum(share.size for share in copies._subjects.values())
        assert all(share.size == sum(share.keys.values()) <= 3000 for share in copies._subjects.values())
        assert all(share.keys for share in copies._subjects.values())


TAG: Headers = [(b"etag", b'"1"'), (b"cache-control", b"max-age=1"), (b"content-type", b"text/plain")]


@pytest.mark.parametrize(
    ("asked", "said", "young"),
    [
        ([(b"if-none-match", b'"1"')], [(b"etag", b'"1"')], True),
        ([(b"if-none-match", b'"1"')], [], True),
        ([(b"if-none-match", b'W/"1"')], [], True),
        ([(b"if-none-match", b'"0", "1"')], [], False),
        ([(b"if-none-match", b'"2"')], [(b"etag", b'"2"')], False),
        ([(b"if-modified-since", b"yesterday")], [], False),
        ([], [], False),
    ],
)
def test_a_304_makes_the_copy_that_it_is_about_young_again(asked: Headers, said: Headers, young: bool) -> None:
    """RFC 9111 section 4.3.4, also when the caller's own conditional request got it."""
    clock = Clock()
    copies = Copies(clock=clock)
    copies.keep(KEY, [], [*TAG, (b"age", b"100")], b"mine")
    clock.now += 100
    copies.freshen(KEY, asked, [*said, (b"cache-control", b"max-age=2"), (b"content-length", b"9")])
    found = copies.find(KEY, [], 60)
    assert (found is not None) is young
    if found is not None:
        fields = dict(served_headers(found, copies.age_s(found)))
        assert (found.body, fields[b"cache-control"], fields[b"content-type"]) == (b"mine", b"max-age=2", b"text/plain")
        assert (fields[b"etag"], fields[b"age"]) == (b'"1"', b"0")
        assert b"content-length" not in fields


def test_a_304_for_other_credentials_freshens_nothing_and_one_that_forbids_keeping_ends_the_copy() -> None:
    clock = Clock()
    copies = Copies(clock=clock)
    copies.keep(KEY, [], TAG, b"mine")
    clock.now += 100
    copies.freshen(KEY._replace(sent=b"other"), [], [(b"etag", b'"1"')])
    assert copies.find(KEY, [], 60) is None
    copies.freshen(KEY, [], [(b"etag", b'"1"'), (b"cache-control", b"no-store")])
    assert copies.find(KEY, [], 1000) is None
    assert copies.snapshot()["bytes"] == 0


def test_what_callers_are_told_apart_by_is_in_the_key() -> None:
    """Also what the gateway says of a caller and of where it is seen, and only that beside credentials of its own."""
    plain: Headers = [(b"accept", b"x")]
    others: list[Headers] = [
        [(b"authorization", b"Bearer a")],
        [(b"authorization", b"Bearer b")],
        [(b"cookie", b"a")],
        [(b"cookie", b"a"), (b"cookie", b"b")],
        [(b"cookie", b"ab")],
        [(b"x-auth-tenant", b"acme")],
        [(b"x-auth-tenant", b"globex")],
        *([(b"x-forwarded-" + part, b"other")] for part in (b"proto", b"host", b"port", b"prefix")),
    ]
    theirs = {sent_with([*plain, *other], own=False) for other in ([], *others)}
    assert len(theirs) == len(others) + 1
    ours = [sent_with([*plain, *other], own=True) for other in ([], *others)]
    assert len(set(ours[:6])) == 1
    assert len(set(ours)) == 7


def test_the_no_to_one_token_ends_the_copies_of_all_tokens_of_the_subject() -> None:
    copies = Copies()
    for sent in (b"1", b"2"):
        copies.keep(KEY._replace(sent=sent), [], PLAIN, b"mine")
    copies.learn(KEY._replace(sent=b"2"), b"GET", 404)
    assert copies.snapshot()["questions"] == 0


@pytest.mark.parametrize(("body", "fields"), [(0, 1), (0, 60), (3000, 5), (100_000, 5)])
def test_bytes_are_those_that_copies_take_up(body: int, fields: int) -> None:
    copies = Copies()
    tracemalloc.start()
    for number in range(200):
        said = [(b"x-%d-%d" % (number, field), b"v%d" % number * 5) for field in range(fields)]
        key = CopyKey("r u", f"subject-{number % 50}", "h" * 20, b"/%d" % number, bytes([number]) * 32)
        copies.keep(key, [], said, bytes([number]) * body)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert copies.snapshot()["questions"] == 200
    assert taken <= copies.snapshot()["bytes"] <= 3 * taken


@pytest.mark.parametrize("held", [10, 2000])
def test_keeping_costs_the_same_however_much_is_kept(held: int) -> None:
    """Counted in lines, not in time."""
    copies = Copies(max_total=64 * 1024 * 1024)
    for number in range(held):
        copies.keep(KEY._replace(target=b"/%d" % number), [], PLAIN, b"x")
    lines = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += 1
        return count

    sys.settrace(count)  # type: ignore[arg-type] # a trace function that returns itself
    copies.keep(KEY._replace(target=b"/new"), [], PLAIN, b"x")
    sys.settrace(None)
    assert lines < 200
