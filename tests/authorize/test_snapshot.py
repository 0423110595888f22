"""Permits on disk: what is believed, for whom, and for how long."""

from __future__ import annotations

import math
import os
import stat

import pytest

from gateway.authorize import DecisionCache
from gateway.authorize.snapshot import Snapshot
from gateway.checks import make_check
from gateway.model.permit import ALLOW, DENY, Decision, Outcome, Question
from gateway.model.request import name_of
from gateway.model.settings import CacheSettings, SnapshotSettings

URLS = frozenset({"http://iam"})


class Worker:
    """One process: a cache with its own monotonic clock, and the file."""

    def __init__(self, path, wall, *, key="k", base="authzen", urls=URLS, **settings):
        started_s = wall.now - 50
        self.cache = DecisionCache(CacheSettings(**settings), clock=lambda: wall.now - started_s, wall=wall)
        self.snapshot = Snapshot(SnapshotSettings(path=path, every_s=1e6, key=key), wall=wall)
        self.snapshot.serve(self.cache, base, urls)

    def put(self, asked, decision=ALLOW):
        self.cache.remember([asked], [decision], self.cache.stamp())

    def age(self, asked):
        return self.cache.permit_age_s(asked)


@pytest.fixture
def wall(kit):
    return kit.Clock(1_700_000_000.0)


@pytest.fixture
async def start(tmp_path, wall):
    workers = []

    def make(**over):
        workers.append(Worker(tmp_path / "permits", wall, **over))
        return workers[-1]

    yield make
    for worker in workers:
        await worker.snapshot.aclose()


def question(kit, who="alice", thing="inventory", **over):
    return Question(kit.subject(who, **over), make_check({"name": "read"}, {"type": "system", "id": thing}, None))


@pytest.mark.parametrize("key", [None, "secret"])
async def test_a_permit_outlives_the_process_with_its_age(kit, tmp_path, wall, start, key):
    asked = question(kit)
    first = start(key=key)
    first.put(asked)
    first.put(question(kit, "mallory"), DENY)
    await first.snapshot.write()
    assert [path.name for path in tmp_path.iterdir()] == ["permits"]
    assert stat.S_IMODE((tmp_path / "permits").stat().st_mode) == 0o600
    wall.now += 100
    second = start(key=key)
    assert second.age(asked) == pytest.approx(100)
    assert second.age(question(kit, "mallory")) is None
    assert second.age(question(kit, thing="other")) is None
    wall.now += 100
    await second.snapshot.write()
    assert start(key=key).age(asked) == pytest.approx(200)
    wall.now += 101
    assert start(key=key).age(asked) is None


async def test_neither_names_nor_questions_nor_the_key_stand_in_the_file(kit, tmp_path, start):
    worker = start(key="secret")
    worker.put(question(kit))
    await worker.snapshot.write()
    content = (tmp_path / "permits").read_bytes()
    for text in (b"alice", b"inventory", b"secret", bytes.fromhex(name_of("alice"))):
        assert text not in content


async def test_a_permit_dies_with_its_token_and_none_is_of_the_future(kit, wall, start):
    dying, asked = question(kit, expires_at_s=wall.now + 10), question(kit, thing="b")
    first = start()
    first.put(dying)
    first.put(asked)
    await first.snapshot.write()
    wall.now += 10
    assert [start().age(dying), start().age(asked)] == [None, pytest.approx(10)]
    wall.now -= 20
    assert start().age(asked) is None


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def folder(path):
    path.unlink()
    path.mkdir()


SPOILT = {
    "writable by others": lambda path: path.chmod(0o666),
    "changed": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": folder,
    "a symlink": lambda path: (path.rename(path.with_name("x")), path.symlink_to(path.with_name("x"))),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_file_that_is_not_to_be_believed_is_not_and_that_is_said_once(kit, tmp_path, start, caplog, spoil):
    first = start()
    first.put(question(kit))
    await first.snapshot.write()
    spoil(tmp_path / "permits")
    second = start()
    assert second.age(question(kit)) is None
    second.snapshot.read()
    (warning,) = [record.message for record in caplog.records]
    assert str(tmp_path / "permits") in warning


@pytest.mark.parametrize(
    "over", [{"key": "other"}, {"base": "opa"}, {"urls": frozenset({"http://other"})}], ids=["key", "base", "urls"]
)
async def test_what_somebody_else_decided_or_sealed_is_not_believed(kit, start, over):
    first = start()
    first.put(question(kit))
    await first.snapshot.write()
    assert start(**over).age(question(kit)) is None
    assert start(urls=URLS | {"http://another"}).age(question(kit)) is not None


async def test_a_folder_in_its_place_is_said_once_and_stays(kit, tmp_path, start, caplog):
    (tmp_path / "permits").mkdir()
    worker = start()
    worker.put(question(kit))
    for _ in range(3):
        await worker.snapshot.write()
    assert len(caplog.records) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["permits"]


async def test_a_purge_counts_what_was_restored_once(kit, start):
    first = start()
    first.put(question(kit))
    await first.snapshot.write()
    second = start()
    assert second.cache.purge_subject(name_of("alice")) == 1
    assert first.cache.purge() == 1


async def test_workers_share_what_they_know(kit, start):
    one, two = start(), start()
    one.put(question(kit, "alice"))
    two.put(question(kit, "bob"))
    for worker in (one, two, one):
        await worker.snapshot.write()
    assert [one.age(question(kit, "bob")), two.age(question(kit, "alice"))] == [pytest.approx(0), pytest.approx(0)]


@pytest.mark.parametrize("whom", ["alice", None])
async def test_a_purge_is_not_undone_by_another_workers_write(kit, wall, start, whom):
    one, two = start(), start()
    for worker in (one, two):
        worker.put(question(kit))
        worker.put(question(kit, "bob"))
        await worker.snapshot.write()
    wall.now += 1
    if whom is None:
        one.cache.purge()
    else:
        one.cache.purge_subject(name_of(whom))
    assert one.age(question(kit)) is None
    await one.snapshot.write()
    wall.now += 1
    await two.snapshot.write()
    await one.snapshot.write()
    later = start()
    assert (one.age(question(kit)), later.age(question(kit))) == (None, None)
    assert (later.age(question(kit, "bob")) is None) is (whom is None)


@pytest.mark.parametrize("no", [DENY, Decision(Outcome.DENY, unauthenticated=True)])
async def test_a_denial_ends_a_permit_of_before_the_start(kit, wall, start, no):
    first = start()
    first.put(question(kit))
    await first.snapshot.write()
    wall.now += 1
    second = start()
    assert second.age(question(kit)) == pytest.approx(1)
    second.put(question(kit), no)
    assert second.age(question(kit)) is None
    second.put(question(kit))
    assert second.age(question(kit)) == 0


async def test_a_token_without_an_end_is_kept_as_such(kit, start):
    first = start()
    first.put(question(kit))
    await first.snapshot.write()
    (record,) = start().snapshot.read().records.values()
    assert record.dies_at_s == math.inf
