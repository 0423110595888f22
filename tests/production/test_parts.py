"""What configurations share is closed once, when the last of them lets go."""

from __future__ import annotations

import pytest

from gateway.app.shared import Parts


class Part:
    """Something that can be closed."""

    def __init__(self, log: list[str], name: str, *, fails: bool = False) -> None:
        self.log, self.name, self.fails = log, name, fails

    async def aclose(self) -> None:
        self.log.append(self.name)
        if self.fails:
            raise OSError("cannot be closed")


def take(parts: Parts, log: list[str], name: str, made_from: object = 1, *, fails: bool = False) -> Part:
    return parts.take(name, made_from, lambda: Part(log, name, fails=fails), lambda part: part.aclose)


async def test_an_unchanged_part_is_taken_over_and_closed_by_the_last() -> None:
    log: list[str] = []
    first = Parts()
    part = take(first, log, "pool")
    second = Parts(first)
    assert take(second, log, "pool") is part
    second.settle()
    await first.release()
    assert log == []
    await second.release()
    assert log == ["pool"]


async def test_the_one_in_the_middle_does_not_close_what_an_older_one_still_uses() -> None:
    log: list[str] = []
    first = Parts()
    take(first, log, "pool")
    second = Parts(first)
    take(second, log, "pool")
    third = Parts(second)
    take(third, log, "another pool")
    await second.release()
    assert log == []
    await first.release()
    assert log == ["pool"]


async def test_a_part_made_from_something_else_is_a_new_one() -> None:
    log: list[str] = []
    first = Parts()
    part = take(first, log, "pool", 1)
    second = Parts(first)
    assert take(second, log, "pool", 2) is not part
    assert take(second, log, "pool", 2) is take(second, log, "pool", 2)
    await first.release()
    assert log == ["pool"]


async def test_a_construction_that_fails_closes_what_it_made_and_nothing_else() -> None:
    log: list[str] = []
    serving = Parts()
    take(serving, log, "kept")
    failed = Parts(serving)
    take(failed, log, "kept")
    take(failed, log, "first")
    take(failed, log, "second")
    changed: list[str] = []
    failed.when_settled(lambda: changed.append("policy"))
    await failed.release()
    assert log == ["second", "first"]
    failed.settle()
    assert changed == []


async def test_a_part_that_cannot_be_closed_keeps_no_other_open(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    parts = Parts()
    take(parts, log, "first")
    take(parts, log, "second", fails=True)
    await parts.release()
    await parts.release()
    assert log == ["second", "first"]
    assert "Part was not closed" in caplog.text
