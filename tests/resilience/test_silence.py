"""When failures without a single answer are the dependency's own, and not one or two subjects' doing."""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
from hypothesis import given

from gateway.resilience.evidence import Evidence, Silence
from tests.support.properties import examples


def silence(*calls: list[list[str]]) -> Silence:
    found = Silence(0)
    for groups in calls:
        found.add(groups)
    return found


def test_three_subjects_that_failed_alone_prove_it() -> None:
    assert silence([["a"]], [["b"]], [["c"]]).proves(3)
    assert not silence([["a"]], [["b"]], [["a"]], [["b"]]).proves(3)


def test_who_was_in_a_call_with_the_question_that_hangs_proves_nothing() -> None:
    """One call of three subjects, or many calls that all hold the same one."""
    assert not silence([["mallory", "bob", "carol"]]).proves(3)
    assert not silence(*([["mallory", str(other), str(other + 1)]] for other in range(20))).proves(3)


def test_it_takes_as_many_questions_as_the_threshold() -> None:
    assert not silence([["a"]], [["b"]], [["c"]]).proves(4)
    assert silence([["a"]], [["b"]], [["c"]], [["c"]]).proves(4)


def test_failures_before_the_window_make_nothing_widespread() -> None:
    evidence = Evidence()
    for at_s, subject in ((0.0, "a"), (5.0, "b"), (10.0, "c")):
        evidence.failed(subject, at_s)
    assert evidence.widespread(10.0, window_s=10.0)
    assert not evidence.widespread(10.0, window_s=9.0)


def test_calls_that_no_two_subjects_explain_prove_it() -> None:
    assert silence([["a", "b"]], [["c", "d"]], [["e", "f"]]).proves(3)


def test_an_answer_begins_anew() -> None:
    evidence = Evidence()
    for subject in "abc":
        evidence.unanswered([[subject]])
    assert evidence.silence.proves(3)
    evidence.answered("d", 1.0)
    assert not evidence.silence.proves(3)


GROUPS = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), max_size=8)


@given(groups=GROUPS)
@examples(300)
def test_it_is_proven_exactly_where_no_two_subjects_explain_everything(groups: list[list[str]]) -> None:
    pairs = [*combinations("abcdef", 2)]
    explained = any(all(set(pair) & set(group) for group in groups) for pair in pairs)
    assert silence(groups).proves(0) is not explained
