"""Last good answers: what is kept, for whom, for how long, and what ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forward.copies import MAX_COPY, SUBJECT_SHARE, Copies, CopyKey, served_headers, storable
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
    copies = Copies(max_total=200_000)
    bobs = KEY._replace(subject="identity:bob")
    copies.keep(bobs, [], PLAIN, b"bob")
    for number in range(1000):
        copies.keep(KEY._replace(target=b"/%d" % number), [], PLAIN, b"x" * 1000)
    assert copies.find(bobs, [], 60) is not None
    assert copies.snapshot()["bytes"] <= 200_000 // SUBJECT_SHARE + 1000
    assert copies.find(KEY._replace(target=b"/999"), [], 60) is not None


def test_the_total_is_bounded_and_the_least_used_goes_first() -> None:
    copies = Copies(max_total=40_000)
    keys = [KEY._replace(subject=f"identity:{number}") for number in range(50)]
    for key in keys:
        copies.keep(key, [], PLAIN, b"x" * 1000)
        copies.find(keys[0], [], 60)
    assert copies.snapshot()["bytes"] <= 40_000
    assert copies.find(keys[0], [], 60) is not None
    assert copies.find(keys[1], [], 60) is None


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
        assert held == sum(sum(own.values()) for own in copies._subjects.values())
        assert all(sum(own.values()) <= 3000 for own in copies._subjects.values())
        assert all(copies._subjects.values())
