"""Permits on disk. They survive a restart, and workers share them (`iam.cache.snapshot`).

One file: a header, a record for each permit, and a seal over both. An old file that is put back is not
noticed: its permits have the ages that it says.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import json
import logging
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.authorize.cache import DecisionCache
from gateway.model.settings import SnapshotSettings

_MAGIC: Final = b"gateway permits 1\n"
_RECORD: Final = struct.Struct("<32s32sdd")
_SEAL: Final = 32
_MAX_MARKS: Final = 10_000
_LOCK_S: Final = 5.0
_LOG: Final = logging.getLogger("gateway")


class Record(NamedTuple):
    """One permit: whose, when IAM was asked and when the token ends (both Unix time)."""

    subject: bytes
    asked_at_s: float
    dies_at_s: float


@dataclass(slots=True)
class Content:
    """What a file says. `marks`: purges by subject, b"" for everybody, with their Unix time."""

    records: dict[bytes, Record] = field(default_factory=dict)
    marks: dict[bytes, float] = field(default_factory=dict)


class Refused(Exception):
    """The file must not be trusted."""


class Snapshot:
    """Keeps the permits of a cache in a file. `wall` is Unix time in seconds."""

    def __init__(self, settings: SnapshotSettings, *, wall: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._path = settings.path
        self._key = settings.key.encode() if settings.key else b""
        self._wall = wall
        self._cache: DecisionCache | None = None
        self._decider: tuple[str, frozenset[str]] = ("", frozenset())
        self._told: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def hide(self, digest: bytes) -> bytes:
        """What stands in the file for a digest."""
        # Keyed, so that nobody without the key can test a guess.
        return hmac.digest(self._key, digest, "sha256") if self._key else digest

    def serve(self, cache: DecisionCache, base: str, urls: frozenset[str]) -> None:
        """Keep this cache from now on. `base` and `urls` say who decides; what others decided is not read."""
        hidden = frozenset(self.hide(hashlib.sha256(url.encode()).digest()).hex() for url in urls)
        self._decider = (self.hide(hashlib.sha256(base.encode()).digest()).hex(), hidden)
        if cache is self._cache:
            return
        self._cache = cache
        cache.restore(self.read().records, self.hide)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def read(self) -> Content:
        """The content of the file, nothing if it must not be trusted."""
        try:
            return self._believed(self._bytes())
        except FileNotFoundError:
            return Content()
        except (Refused, OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            self._tell(f"{self._path}: the permits kept there were not read: {_reason(error)}")
            return Content()

    async def write(self) -> None:
        """Merge what is known now with what other workers wrote."""
        cache = self._cache
        if cache is None:
            return
        async with self._writing:
            try:
                content = await asyncio.to_thread(self._merge, cache)
            except (OSError, TimeoutError) as error:
                self._tell(f"{self._path}: the permits were not written: {_reason(error)}")
                return
            cache.restore(content.records, self.hide)

    async def aclose(self) -> None:
        """Stop writing by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.every_s)
            await self.write()

    def _merge(self, cache: DecisionCache) -> Content:
        with _locked(self._path.parent):
            # Workers share the file: a writer adds to its content.
            content = self.read()
            for name, at_s in cache.purges().items():
                hidden = self.hide(bytes.fromhex(name)) if name else b""
                # A purge is a mark in the file, so that no other worker's write undoes it.
                content.marks[hidden] = max(at_s, content.marks.get(hidden, 0.0))
            for digest, subject, asked_at_s, dies_at_s in cache.permits():
                record = Record(self.hide(bytes.fromhex(subject)), asked_at_s, dies_at_s)
                hidden = self.hide(digest)
                known = content.records.get(hidden)
                if known is None or known.asked_at_s < asked_at_s:
                    content.records[hidden] = record
            content = self._alive(content)
            self._replace(self._sealed(content))
            return content

    def _alive(self, content: Content) -> Content:
        """Without what is too old, of the future, at its token's end, or from before a purge."""
        now_s = self._wall()
        assert self._cache is not None  # noqa: S101 - read and written only for one
        oldest_s, everybody_s = now_s - self._cache.max_stale_s, content.marks.get(b"", 0.0)
        marks = {name: at_s for name, at_s in content.marks.items() if oldest_s < at_s <= now_s}
        records = {
            digest: record
            for digest, record in content.records.items()
            if oldest_s < record.asked_at_s <= now_s < record.dies_at_s
            and record.asked_at_s > max(everybody_s, marks.get(record.subject, 0.0))
        }
        newest = sorted(records.items(), key=lambda item: item[1].asked_at_s)[-self._cache.max_entries :]
        return Content(dict(newest), dict(sorted(marks.items(), key=lambda item: item[1])[-_MAX_MARKS:]))

    def _bytes(self) -> bytes:
        file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(file, "rb") as opened:  # of a descriptor
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Refused("this is no regular file")
            # Others could add permits to a file that they may write.
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise Refused("others may write it")
            return opened.read()

    def _believed(self, content: bytes) -> Content:
        body, seal = content[:-_SEAL], content[-_SEAL:]
        if not body.startswith(_MAGIC) or not hmac.compare_digest(self._seal(body), seal):
            raise Refused("it is damaged, was changed, or was written with another key")
        head, _, records = body[len(_MAGIC) :].partition(b"\n")
        header: dict[str, Any] = json.loads(head)
        marks = {bytes.fromhex(name): float(at_s) for name, at_s in header["purged"].items()}
        base, urls = self._decider
        # Permits of another decision point are not read.
        if header["decider"] != base or (urls and not urls & set(header["urls"])):
            return Content({}, marks)
        read = {digest: Record(*rest) for digest, *rest in _RECORD.iter_unpack(records)}
        return self._alive(Content(read, marks))

    def _sealed(self, content: Content) -> bytes:
        base, urls = self._decider
        marks = {name.hex(): at_s for name, at_s in content.marks.items()}
        header = json.dumps({"decider": base, "urls": sorted(urls), "purged": marks}).encode("ascii")
        records = b"".join(_RECORD.pack(digest, *record) for digest, record in content.records.items())
        body = _MAGIC + header + b"\n" + records
        return body + self._seal(body)

    def _seal(self, body: bytes) -> bytes:
        # With a key nobody else can add a permit (HMAC, RFC 2104). Without a key the seal only finds damage.
        return hmac.digest(self._key, body, "sha256") if self._key else hashlib.sha256(body).digest()

    def _replace(self, content: bytes) -> None:
        if self._path.is_dir():
            return  # reading it has logged this already
        # A reader sees the old file or the new one, never a part.
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.unlink(missing_ok=True)
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _tell(self, message: str) -> None:
        """Log each problem once, however often it occurs."""
        if message not in self._told:
            self._told.add(message)
            _LOG.warning("%s", message)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder for writing. TimeoutError if another process holds the lock for long."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise TimeoutError("another process holds the folder") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(directory)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, Refused | TimeoutError) else "it is damaged"
