"""Few calls, in order, bounded and fair; a caller who leaves takes only its own wait along."""

import asyncio

import pytest

from gateway.model.permit import ALLOW, DENY, Outcome
from gateway.model.settings import IamTimeouts
from tests.iam.conftest import allowed, answer, codes, decided, question, turns


async def test_all_checks_of_a_request_are_one_call_and_keep_their_order(bench):
    bench.transport.reply = lambda items: decided(items, lambda item: item["resource"]["id"] != "b")
    decisions = await bench.decide(question("u", "a"), question("u", "b"), question("u", "c"))
    assert decisions == [ALLOW, DENY, ALLOW]
    assert bench.transport.batches == [["u:a", "u:b", "u:c"]]
    assert bench.memory.calls == [(3, "")]


async def test_nothing_asked_is_nothing_sent(bench):
    assert await bench.decide() == []
    assert bench.transport.batches == []


async def test_an_idle_client_sends_without_any_timer(bench):
    """Two turns of the event loop are enough; time stands still in between."""
    task = bench.start(question())
    await turns(4)
    assert len(bench.transport.batches) == 1
    assert allowed(await task)


async def test_what_is_asked_in_one_turn_shares_a_call(bench):
    tasks = [bench.start(question(f"u{n}")) for n in range(30)]
    assert all(map(allowed, await asyncio.gather(*tasks)))
    assert len(bench.transport.batches) == 1


async def test_while_all_places_are_taken_questions_gather_and_leave_as_one(make_bench):
    bench = make_bench(max_concurrency=2)
    bench.transport.gate.clear()
    tasks = []
    for n in range(12):
        tasks.append(bench.start(question(f"u{n}")))
        await turns()
    assert [len(batch) for batch in bench.transport.batches] == [1, 1]
    assert bench.iam.snapshot()["queue"] == 10
    assert bench.memory.queue[-1] == 10
    bench.transport.gate.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in bench.transport.batches] == [1, 1, 10]
    assert bench.transport.batches[2] == [f"u{n}:inventory" for n in range(2, 12)]
    assert bench.memory.queue[-1] == 0


async def test_what_one_request_asks_is_not_torn_apart_by_the_size_of_a_call(make_bench):
    bench = make_bench(max_concurrency=1, batch_max_size=5)
    bench.transport.gate.clear()
    flying = bench.start(question("u0"))
    await turns()
    tasks = [bench.start(*(question(f"u{n}", str(i)) for i in range(3))) for n in range(1, 4)]
    await turns()
    bench.transport.gate.set()
    await asyncio.gather(flying, *tasks)
    assert [len(batch) for batch in bench.transport.batches] == [1, 3, 3, 3]


async def test_more_than_fits_one_call_still_gives_one_list(make_bench):
    bench = make_bench(batch_max_size=50)
    bench.transport.reply = lambda items: decided(items, lambda item: int(item["resource"]["id"]) % 3 > 0)
    decisions = await bench.decide(*(question("u", str(n)) for n in range(120)))
    assert [decision is ALLOW for decision in decisions] == [n % 3 > 0 for n in range(120)]
    assert [len(batch) for batch in bench.transport.batches] == [50, 50, 20]


async def test_calls_in_flight_never_exceed_the_limit(make_bench):
    bench = make_bench(max_concurrency=3, batch_max_size=2)
    tasks = [bench.start(question(f"u{n}")) for n in range(60)]
    await asyncio.gather(*tasks)
    assert bench.transport.most_in_flight == 3


async def test_identical_questions_are_asked_once(bench):
    bench.transport.gate.clear()
    first = bench.start(question("alice"))
    await turns()
    others = [bench.start(question("alice")) for _ in range(5)]
    await turns()
    bench.transport.gate.set()
    assert [(decision.outcome, decision.source) for decision in await first] == [(Outcome.ALLOW, "iam")]
    for task in others:
        assert [(decision.outcome, decision.source) for decision in await task] == [(Outcome.ALLOW, "coalesced")]
    assert len(bench.transport.batches) == 1


async def test_one_request_that_asks_the_same_twice_gets_two_answers(bench):
    decisions = await bench.decide(question(), question())
    assert allowed(decisions)
    assert bench.transport.batches == [["alice:inventory"]]


@pytest.mark.parametrize(
    "other", [question("bob"), question("alice", "monitoring"), question("alice", context={"ip": "::1"})]
)
async def test_questions_that_differ_in_anything_are_different(bench, other):
    await asyncio.gather(bench.start(question()), bench.start(other))
    assert sum(len(batch) for batch in bench.transport.batches) == 2


async def test_an_answer_is_not_remembered(bench):
    await bench.decide(question())
    bench.transport.reply = lambda items: decided(items, lambda _: False)
    assert await bench.decide(question()) == [DENY]


async def test_a_denial_is_coalesced_as_a_denial(bench):
    bench.transport.reply = lambda items: decided(items, lambda _: False)
    both = await asyncio.gather(bench.start(question()), bench.start(question()))
    assert [[decision.outcome for decision in decisions] for decisions in both] == [[Outcome.DENY], [Outcome.DENY]]


async def test_a_full_queue_answers_at_once_and_never_degrades(make_bench):
    bench = make_bench(max_concurrency=1, max_queue=3)
    bench.transport.gate.clear()
    flying = bench.start(question("u0"))
    await turns()
    waiting = [bench.start(question(f"u{n}")) for n in range(1, 4)]
    await turns()
    refused = await bench.decide(question("u9"))
    assert codes(refused) == ["iam_overloaded"]
    assert not refused[0].fault.kind.degrades
    bench.transport.gate.set()
    assert all(map(allowed, await asyncio.gather(flying, *waiting)))


async def test_what_one_subject_asks_waits_instead_of_being_refused(make_bench):
    bench = make_bench(max_concurrency=1, max_queue=40, batch_max_size=5)
    bench.transport.gate.clear()
    flying = bench.start(question("u"))
    await turns()
    greedy = bench.start(*(question("mallory", str(n)) for n in range(40)))
    await turns()
    assert bench.iam.snapshot()["queue"] == 40
    bench.transport.gate.set()
    assert allowed(await greedy)
    assert allowed(await flying)


async def test_who_holds_less_than_its_share_is_never_refused_for_anothers_flood(make_bench):
    bench = make_bench(max_concurrency=1, max_queue=40)
    bench.transport.gate.clear()
    flying = bench.start(question("u"))
    await turns()
    greedy = [bench.start(question("mallory", str(n))) for n in range(60)]
    await turns()
    modest = bench.start(question("alice", "1"), question("alice", "2"))
    await turns()
    assert bench.iam.snapshot()["queue"] == 40
    bench.transport.gate.set()
    said = [codes(await task)[0] for task in greedy]
    assert said == ["allow"] * 38 + ["iam_overloaded"] * 22, "the newest go"
    assert allowed(await modest)
    assert allowed(await flying)


async def test_subjects_take_turns(make_bench):
    """A flood is answered as fast as before, but nobody else waits behind it."""
    bench = make_bench(max_concurrency=1, batch_max_size=4)
    bench.transport.gate.clear()
    flying = bench.start(question("u"))
    await turns()
    greedy = [bench.start(question("mallory", str(n))) for n in range(20)]
    await turns()
    modest = [bench.start(question(name)) for name in ("alice", "bob")]
    await turns()
    bench.transport.gate.set()
    await asyncio.gather(flying, *greedy, *modest)
    assert bench.transport.batches[1] == ["mallory:0", "alice:inventory", "bob:inventory", "mallory:1"]


async def test_one_subjects_calls_leave_places_to_the_others(make_bench):
    bench = make_bench(max_concurrency=4, batch_max_size=1)
    bench.transport.gate.clear()
    greedy = [bench.start(question("mallory", str(n))) for n in range(20)]
    await turns()
    assert bench.transport.in_flight == 3
    modest = bench.start(question("alice"))
    await turns()
    assert bench.transport.batches[-1] == ["alice:inventory"]
    bench.transport.gate.set()
    assert allowed(await modest)
    assert all(map(allowed, await asyncio.gather(*greedy)))


async def test_more_of_one_subject_than_one_call_holds_does_not_wait_in_an_idle_client(make_bench):
    """What the free places take at once does not wait."""
    bench = make_bench(max_concurrency=4, batch_max_size=10, max_queue=20)
    asked = await bench.decide(*(question("u", str(n)) for n in range(65)))
    assert codes(asked) == ["allow"] * 60 + ["iam_overloaded"] * 5


async def test_the_share_is_given_back(make_bench):
    bench = make_bench(max_concurrency=1, max_queue=20)
    bench.transport.gate.clear()
    flying = bench.start(question("u"))
    await turns()
    for _ in range(3):
        left = bench.start(question("mallory", "1"))
        await turns()
        assert bench.iam.snapshot()["queue"] == 1
        left.cancel()
        await turns()
        assert bench.iam.snapshot()["queue"] == 0
    bench.transport.gate.set()
    await flying


async def test_who_leaves_never_cancels_a_call_that_others_wait_for(bench):
    bench.transport.gate.clear()
    first = bench.start(question("alice"))
    await turns()
    second = bench.start(question("alice"))
    await turns()
    first.cancel()
    await turns()
    assert bench.transport.in_flight == 1
    bench.transport.gate.set()
    assert allowed(await second)
    assert len(bench.transport.batches) == 1


async def test_who_leaves_harms_no_other_question_of_its_batch(bench):
    bench.transport.gate.clear()
    tasks = [bench.start(question(f"u{n}")) for n in range(4)]
    await turns()
    for task in tasks[:3]:
        task.cancel()
    bench.transport.gate.set()
    assert allowed(await tasks[3])


async def test_who_joined_a_question_that_others_left_is_waited_for_like_anybody(bench):
    """One hangs up, another asks the same again while the call is under way; then the rest of the call hangs up."""
    bench.transport.gate.clear()
    left, other = bench.start(question("alice")), bench.start(question("bob"))
    await turns()
    left.cancel()
    await turns()
    again = bench.start(question("alice"))
    await turns()
    other.cancel()
    await turns()
    assert bench.transport.in_flight == 1
    bench.transport.gate.set()
    assert allowed(await asyncio.wait_for(again, 5))
    assert len(bench.transport.batches) == 1


async def test_who_asked_the_same_twice_and_leaves_harms_no_other_question_of_its_batch(bench):
    bench.transport.gate.clear()
    left, other = bench.start(question("alice"), question("alice")), bench.start(question("bob"))
    await turns()
    left.cancel()
    await turns()
    assert bench.transport.in_flight == 1
    bench.transport.gate.set()
    assert allowed(await asyncio.wait_for(other, 5))


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_who_asked_the_same_twice_may_leave_the_queue(make_bench, hangs_up):
    bench = make_bench(max_concurrency=1)
    bench.transport.gate.clear()
    flying = bench.start(question("u0"))
    await turns()
    leaving = bench.start(question("u1"), question("u1"), deadline_s=60 if hangs_up else 0.01)
    await turns()
    if hangs_up:
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    else:
        assert codes(await leaving) == ["iam_timeout"] * 2
    assert bench.iam.snapshot()["queue"] == 0
    bench.transport.gate.set()
    assert allowed(await flying)
    assert bench.memory.bugs == []


async def test_when_all_hang_up_the_call_ends_and_nothing_is_counted(bench):
    bench.transport.gate.clear()
    for _ in range(8):
        tasks = [bench.start(question(f"u{n}")) for n in range(3)]
        await turns()
        for task in tasks:
            task.cancel()
        await turns()
        assert bench.transport.in_flight == 0
    assert bench.breaker.snapshot()["consecutive_failures"] == 0
    assert bench.iam.snapshot()["in_flight"] == 0


async def test_a_new_question_never_joins_a_call_that_was_given_up(bench):
    bench.transport.gate.clear()
    left = bench.start(question())
    await turns()
    left.cancel()
    late = bench.start(question())
    await turns()
    bench.transport.gate.set()
    assert allowed(await late)
    assert len(bench.transport.batches) == 2


async def test_a_call_cancelled_before_its_first_step_leaves_nothing_behind(bench):
    task = bench.start(question())
    await asyncio.sleep(0)
    task.cancel()
    await turns()
    assert bench.transport.batches == []
    assert bench.iam.snapshot()["in_flight"] == 0
    assert allowed(await bench.decide(question()))


async def test_questions_of_who_left_the_queue_are_never_asked(make_bench):
    bench = make_bench(max_concurrency=1)
    bench.transport.gate.clear()
    flying = bench.start(question("u0"))
    await turns()
    leaving = bench.start(question("u1"))
    staying = bench.start(question("u2"))
    await turns()
    leaving.cancel()
    await turns()
    bench.transport.gate.set()
    await asyncio.gather(flying, staying)
    assert bench.transport.batches == [["u0:inventory"], ["u2:inventory"]]


async def test_a_deadline_ends_the_wait_as_iam_timeout(bench):
    bench.transport.gate.clear()
    assert codes(await bench.decide(question("a"), question("b"), deadline_s=0.01)) == ["iam_timeout"] * 2


async def test_a_deadline_that_is_over_asks_nobody(bench):
    assert codes(await bench.decide(question(), deadline_s=0.0)) == ["iam_timeout"]
    await turns()
    assert bench.transport.batches == []


async def test_a_call_goes_on_when_deadlines_ended_the_wait_and_its_end_counts(bench):
    """IAM that is slower than every route's deadline is seen to be slow."""
    bench.transport.gate.clear()
    bench.transport.reply = lambda items: answer(500, {})
    assert codes(await bench.decide(question(), deadline_s=0.01)) == ["iam_timeout"]
    assert bench.transport.in_flight == 1
    bench.transport.gate.set()
    await turns()
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_call_that_goes_on_for_nobody_can_be_joined_again(bench):
    bench.transport.gate.clear()
    await bench.decide(question(), deadline_s=0.01)
    again = bench.start(question())
    await turns()
    bench.transport.gate.set()
    assert [(decision.outcome, decision.source) for decision in await again] == [(Outcome.ALLOW, "iam")]
    assert len(bench.transport.batches) == 1


async def test_a_question_whose_call_timed_out_for_nobody_is_asked_anew(make_bench):
    """Deadlines ended the waits, then `timeout.total` the call: nobody may wait for its answer any more."""
    bench = make_bench(timeout=IamTimeouts(total_s=0.05))
    bench.transport.gate.clear()
    assert codes(await bench.decide(question(), deadline_s=0.01)) == ["iam_timeout"]
    await asyncio.sleep(0.1)
    assert bench.iam._pendings == {}
    bench.transport.gate.set()
    assert codes(await bench.decide(question(), deadline_s=1)) == ["allow"]


async def test_closing_answers_who_waits_and_never_degrades(make_bench):
    bench = make_bench(max_concurrency=1)
    bench.transport.gate.clear()
    tasks = [bench.start(question(f"u{n}")) for n in range(2)]
    await turns()
    await bench.iam.aclose()
    for task in tasks:
        assert codes(await task) == ["iam_overloaded"]


async def test_a_storm_of_logins_costs_few_calls(make_bench):
    """100 users, 5 systems each: no more than distinct questions / max_size plus what was in flight."""
    bench = make_bench(max_concurrency=4)
    users = [bench.start(*(question(f"u{n}", f"s{s}") for s in range(5))) for n in range(100)]
    assert all(map(allowed, await asyncio.gather(*users)))
    assert len(bench.transport.batches) <= 10 + 4


async def test_the_first_caller_of_a_call_names_the_request_and_all_are_linked(bench):
    first = bench.start(question("a"), request_id="first")
    second = bench.start(question("b"), request_id="second")
    await asyncio.gather(first, second)
    assert bench.transport.requests[0].headers["x-request-id"] == "first"
    assert len(bench.memory.links) == 2
