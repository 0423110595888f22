"""One poison question harms nobody else, and finding it never multiplies the load."""

import asyncio

import httpx
import pytest

from tests.iam.conftest import allowed, answer, codes, decided, question, turns

POISON = "poison"


def poisoned(fault, permitted=lambda item: True):
    """An IAM that answers every batch with a poison question in it by `fault()`."""

    def reply(items):
        if any(item["subject"]["id"].startswith(POISON) for item in items):
            return fault()
        return decided(items, permitted)

    return reply


def rejected():
    return answer(400, {})


def crashed():
    return httpx.ReadError("connection reset")


def garbled():
    return answer(200, {"evaluations": []})


async def ask_together(bench, *subjects):
    tasks = [bench.start(question(subject)) for subject in subjects]
    return [decision for decisions in await asyncio.gather(*tasks) for decision in decisions]


USERS = [f"u{n}" for n in range(9)]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (rejected, "iam_rejected"),
        (lambda: answer(409, {}), "iam_rejected"),
        (lambda: answer(422, {}), "iam_rejected"),
        (lambda: answer(413, {}), "iam_rejected"),
        (crashed, "iam_unreachable"),
        (lambda: answer(500, {}), "iam_error"),
        (lambda: answer(503, {}), "iam_error"),
        (garbled, "iam_invalid_response"),
    ],
)
@pytest.mark.parametrize("place", [0, 4, 9])
async def test_only_the_poison_question_fails_and_it_neither_counts_nor_degrades(bench, fault, code, place):
    bench.transport.reply = poisoned(fault)
    subjects = [*USERS[:place], POISON, *USERS[place:]]
    decisions = await ask_together(bench, *subjects)
    assert codes(decisions) == ["allow"] * place + [code] + ["allow"] * (9 - place)
    assert decisions[place].isolated
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_denial_stays_a_denial_when_asked_apart(bench):
    bench.transport.reply = poisoned(rejected, lambda item: item["subject"]["id"] != "u3")
    decisions = await ask_together(bench, POISON, *USERS)
    assert codes(decisions)[1:] == ["deny" if name == "u3" else "allow" for name in USERS]


async def test_many_poison_questions_are_all_found_when_iam_rejects_them(bench):
    bench.transport.reply = poisoned(rejected)
    decisions = await ask_together(bench, *(f"{POISON}{n}" for n in range(20)), *USERS)
    assert codes(decisions) == ["iam_rejected"] * 20 + ["allow"] * 9


async def test_a_rejected_batch_is_asked_again_once_each(bench):
    bench.transport.reply = poisoned(rejected)
    await ask_together(bench, POISON, *USERS)
    assert sorted(len(batch) for batch in bench.transport.batches) == [1] * 10 + [10]


async def test_too_large_a_batch_is_asked_in_halves(bench):
    bench.transport.reply = lambda items: answer(413, {}) if len(items) > 4 else decided(items)
    assert allowed(await ask_together(bench, *(f"u{n}" for n in range(16))))
    assert sorted(len(batch) for batch in bench.transport.batches) == [4, 4, 4, 4, 8, 8, 16]
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_when_all_are_rejected_nothing_is_counted_and_nothing_degrades(bench):
    bench.transport.reply = lambda items: answer(400, {})
    for _ in range(10):
        decisions = await ask_together(bench, "a", "b", "c")
        assert codes(decisions) == ["iam_rejected"] * 3
        assert not any(decision.fault.kind.degrades for decision in decisions)
    assert bench.breaker.state == "closed"


async def test_when_all_fail_the_failure_counts_once_and_degrades(bench):
    bench.transport.reply = lambda items: answer(500, {})
    decisions = await ask_together(bench, *USERS)
    assert codes(decisions) == ["iam_error"] * 9
    assert not any(decision.isolated for decision in decisions)
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_an_outage_is_not_asked_apart_beyond_the_budget(bench):
    """Nine users, one call, and at most the three retries a second that are always there."""
    bench.transport.reply = lambda items: answer(500, {})
    await ask_together(bench, *USERS)
    assert len(bench.transport.batches) <= 1 + 3


@pytest.mark.parametrize(
    "fault",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: answer(401, {}),
        lambda: answer(403, {}),
        lambda: answer(404, {}),
        lambda: answer(429, {}),
        lambda: answer(408, {}),
        lambda: answer(503, {}, [(b"retry-after", b"9")]),
        lambda: answer(307, {}, [(b"location", b"http://evil.test/")]),
    ],
)
async def test_what_is_plainly_iams_own_is_not_asked_apart(bench, fault):
    bench.transport.reply = lambda items: fault()
    await ask_together(bench, *USERS)
    assert all(len(batch) == 9 for batch in bench.transport.batches)


async def test_asking_apart_takes_free_places_only(make_bench):
    bench = make_bench(max_concurrency=3)
    bench.transport.reply = poisoned(rejected)
    decisions = await ask_together(bench, POISON, *(f"u{n}" for n in range(30)))
    assert codes(decisions) == ["iam_rejected"] + ["allow"] * 30
    assert bench.transport.most_in_flight == 3
    assert bench.iam.snapshot()["in_flight"] == 0


async def test_the_others_have_their_answers_before_the_poison_is_found(bench):
    """Who is decided does not wait for the rest of the batch."""
    held = asyncio.Event()

    async def slow_poison(request):
        if request.content.count(b'"subject"') == 1 and POISON.encode() in request.content:
            await held.wait()
        return await plain(request)

    plain = bench.transport.handle_async_request
    bench.transport.handle_async_request = slow_poison
    bench.transport.reply = poisoned(rejected)
    tasks = [bench.start(question(name)) for name in (POISON, "u1", "u2")]
    await turns(60)
    assert [task.done() for task in tasks] == [False, True, True]
    held.set()
    assert codes(await tasks[0]) == ["iam_rejected"]


async def test_an_open_circuit_ends_the_asking_apart(bench):
    def reply(items):
        if len(items) > 1:
            bench.breaker.force_open()
            return rejected()
        return decided(items)

    bench.transport.reply = reply
    assert codes(await ask_together(bench, "a", "b")) == ["iam_rejected"] * 2
    assert len(bench.transport.batches) == 1


async def test_an_items_own_error_beside_decided_ones_is_isolated(bench):
    bench.transport.reply = lambda items: answer(
        200, {"evaluations": [{"decision": True}, {"decision": False, "context": {"error": {"status": 503}}}]}
    )
    decisions = await bench.decide(question("a"), question("b"))
    assert codes(decisions) == ["allow", "iam_error"]
    assert decisions[1].isolated


async def test_an_items_own_error_is_isolated_also_when_there_is_nothing_else(bench):
    bench.transport.reply = lambda items: answer(
        200, {"evaluations": [{"decision": False, "context": {"error": {"status": 500}}}] * len(items)}
    )
    for asked in ([question("a")], [question("a"), question("b")]):
        decisions = await bench.decide(*asked)
        assert codes(decisions) == ["iam_error"] * len(asked)
        assert all(decision.isolated for decision in decisions)
    assert bench.breaker.snapshot()["consecutive_failures"] == 0
    assert bench.transport.probes == 0, "a well-formed reply proves that IAM works"


async def test_a_question_that_is_no_unicode_text_is_rejected_alone(bench):
    assert codes(await bench.decide(question("\udc80"), question("b"))) == ["iam_rejected", "allow"]


async def test_a_bug_in_asking_answers_everybody_and_permits_nobody(bench):
    bench.transport.reply = lambda items: RuntimeError("a bug")
    assert codes(await ask_together(bench, "a", "b")) == ["internal_error"] * 2
    assert [str(error) for _, error in bench.memory.bugs] == ["a bug"]
    assert bench.breaker.snapshot()["consecutive_failures"] == 0
    bench.transport.reply = decided
    assert allowed(await bench.decide(question()))
