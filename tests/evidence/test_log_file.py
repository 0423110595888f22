"""The file of the decision log on disks that are full, slow, or not ours."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.evidence.log import DecisionLog, LogFile
from gateway.model.settings import DecisionLogSettings
from gateway.telemetry.observer import Observer
from tests.authorize.conftest import request, route, subject
from tests.evidence.test_lines import Decided, checks


class Losses(Observer):
    """Counts lost lines and bugs."""

    def __init__(self) -> None:
        self.lost = 0
        self.bugs: list[BaseException] = []

    def lines_dropped(self, signal: str, count: int) -> None:
        assert signal == "decisions"
        self.lost += count

    def bug(self, where: str, error: BaseException) -> None:
        self.bugs.append(error)


def a_permit(**changed: Any) -> Decided:
    fields: dict[str, Any] = {"outcome": "allow", "source": "iam"} | changed
    return Decided(request(), route(checks("a b:c")), subject(), (), (), (), **fields)


def test_it_is_for_its_owner_alone_also_where_it_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    path.chmod(0o666)
    LogFile(path).write(b"x\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"before\nx\n"


def test_a_renamed_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path)
    file.write(b"1\n")
    path.rename(tmp_path / "log.1")
    file.write(b"2\n")
    file.reopen()
    file.write(b"3\n")
    assert (tmp_path / "log.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


def test_what_a_full_disk_cut_off_spoils_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    file, real = LogFile(path), os.write
    file.write(b'{"a":1')
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                file.write(b"}\n")
    assert os.write is real
    file.write(b'{"b":2}\n')
    assert path.read_bytes() == b'{"a":1\n{"b":2}\n'
    assert caplog.text.count("not logged") == 1
    assert caplog.text.count("logged again") == 1


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1')
    LogFile(path).write(b'{"b":2}\n')
    assert path.read_bytes() == b'{"a":1\n{"b":2}\n'


def test_a_pipe_or_a_folder_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nowhere" / "log"):
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
            LogFile(path).write(b"x\n")


def test_a_disk_that_hangs_costs_lines_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, losses = threading.Event(), Losses()
    monkeypatch.setattr(LogFile, "write", lambda *_: hanging.wait(20) and 1)
    log = DecisionLog(DecisionLogSettings(path=tmp_path / "log"), losses)
    begun = time.thread_time()
    for _ in range(30_000):
        log.saw(a_permit())
    assert losses.lost > 5000
    assert time.thread_time() - begun < 10
    hanging.set()


async def test_permits_are_sampled_and_nothing_else(tmp_path: Path) -> None:
    numbers = iter([0.5, 0.005] * 10)
    log = DecisionLog(DecisionLogSettings(path=tmp_path / "log", permits=0.01), Losses(), chance=lambda: next(numbers))
    for _ in range(10):
        log.saw(a_permit())
        log.saw(a_permit(outcome="deny"))
        log.saw(a_permit(outcome="unknown"))
        log.saw(a_permit(outcome="stale"))
    await log.aclose()
    assert len((tmp_path / "log").read_text().splitlines()) == 5 + 30


async def test_a_bug_costs_a_line_and_is_told(tmp_path: Path) -> None:
    losses = Losses()
    log = DecisionLog(DecisionLogSettings(path=tmp_path / "log"), losses)
    log.saw(a_permit()._replace(questions=(None,)))  # type: ignore[arg-type]
    assert (losses.lost, len(losses.bugs)) == (1, 1)
    await log.aclose()
