"""What is read when files change: whole states, never what lies between two writes, and nothing is missed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.app import watch
from gateway.app.watch import reload_on_change
from tests.production.backends import until


class Reading:
    """A gateway that remembers what it read; a read takes `takes_s`."""

    def __init__(self, folder: Path, files: list[Path], takes_s: float = 0.0) -> None:
        self.folders = (folder,)
        self.composition: Any = SimpleNamespace(configuration=SimpleNamespace(files=tuple(files)))
        self.read: list[str] = []
        self.begun = asyncio.Event()
        self._takes_s = takes_s

    async def reload(self, by: str) -> None:
        self.read.append("".join(file.read_text() for file in self.composition.configuration.files))
        self.begun.set()
        await asyncio.sleep(self._takes_s)


async def read_last(reading: Reading, wanted: str) -> bool:
    return reading.read[-1:] == [wanted]


async def test_a_rule_that_moves_from_one_file_to_another_is_never_read_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUIET_S", 0.5)
    files = [tmp_path / name for name in ("a.cedar", "b.cedar")]
    for file, text in zip(files, ("forbid", ""), strict=True):
        file.write_text(text)
    reading = Reading(tmp_path, files)
    watching = asyncio.create_task(reload_on_change(reading))  # type: ignore[arg-type] # as much of it as is used
    await asyncio.sleep(0.3)
    files[0].write_text("")
    await asyncio.sleep(0.35)
    files[1].write_text(" forbid")
    await until(lambda: read_last(reading, " forbid"), "both files")
    watching.cancel()
    assert "" not in reading.read


async def test_a_secret_that_rotates_behind_a_symlink_during_a_reload_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is not watched: without another look nobody would tell."""
    monkeypatch.setattr(watch, "QUIET_S", 0.05)
    mount, elsewhere = tmp_path / "mount", tmp_path / "elsewhere"
    mount.mkdir()
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("old")
    (mount / "routes.yaml").write_text("1 ")
    (mount / "secret").symlink_to(elsewhere / "secret")
    reading = Reading(mount, [mount / "routes.yaml", mount / "secret"], takes_s=0.2)
    watching = asyncio.create_task(reload_on_change(reading))  # type: ignore[arg-type] # as much of it as is used
    await asyncio.sleep(0.3)
    (mount / "routes.yaml").write_text("2 ")
    await reading.begun.wait()
    (elsewhere / "new").write_text("new, rotated")
    (elsewhere / "new").replace(elsewhere / "secret")
    async with asyncio.timeout(watch.LOOK_S / 2):
        await until(lambda: read_last(reading, "2 new, rotated"), "the new secret")
    watching.cancel()
