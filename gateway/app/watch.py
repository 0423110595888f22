"""Reload when a folder of the configuration changes, also by a Kubernetes ConfigMap's symlink swap.

The folders are watched, not the files: a swap replaces a symlink beside them, which a watch on the file never sees.
Of what changes in a folder only the configuration's own files count, and what may become one of them. Where the kernel
tells nothing (network file systems, a symlink into a folder that is not watched) or told it before the watch began,
files and folders are looked at every LOOK_S.
Whoever writes several files writes one after the other, and what lies between may allow more than either end: nothing
is read until the files have been quiet for QUIET_S. What changed while it was being read is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Final

import watchfiles

from gateway.app.running import BY_CHANGE, Gateway

LOOK_S: Final = 10.0
QUIET_S: Final = 1.0
RESTLESS_S: Final = 10.0
"""If the files change all the time for this long, they are read as they are."""
_DEBOUNCE_MS: Final = 200
_ROUNDS: Final = 5
_LOG: Final = logging.getLogger("gateway")
_FOLDERS: Final = frozenset({"policies", "access"})
_KINDS: Final = frozenset({".yaml", ".cedar", ".json"})

Stamps = frozenset[tuple[Path, int, int, int]]


def matters(path: str, known: frozenset[str]) -> bool:
    """Whether a changed path concerns the configuration: a file it was read from, one like it, or a symlink swap."""
    name = PurePath(path).name
    return name in known or name in _FOLDERS or name.startswith("..") or PurePath(path).suffix in _KINDS


def stamps(files: Iterable[Path]) -> Stamps:
    """What shows that a file or folder has changed. A deleted one has none."""
    found = set()
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.add((file, status.st_ino, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def changed(before: Stamps, after: Stamps) -> bool:
    """Whether a file or folder that was looked at before is another one now. One that is new to us is not."""
    paths = {stamp[0] for stamp in before}
    return before != frozenset(stamp for stamp in after if stamp[0] in paths)


class _Watch:
    """One gateway's files and folders."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._seen = self._stamps()

    async def folders(self) -> None:
        """Watch until there is something else to watch, as a reload can have it."""
        folders, files = self._gateway.folders, self._gateway.composition.configuration.files
        known = frozenset(file.name for file in files)
        async for changes in watchfiles.awatch(
            *folders,
            watch_filter=lambda _, path: matters(path, known),
            recursive=False,
            debounce=_DEBOUNCE_MS,
            rust_timeout=round(LOOK_S * 1000),
            yield_on_timeout=True,
        ):
            if changes or self._stamps() != self._seen:
                await self._reload()
            if (folders, files) != (self._gateway.folders, self._gateway.composition.configuration.files):
                return

    async def _reload(self) -> None:
        """Reload, and again if something changed meanwhile: its notification may not come again."""
        for _ in range(_ROUNDS):
            before = await self._quiet()
            await self._gateway.reload(BY_CHANGE)
            self._seen = before
            if changed(before, self._stamps()):
                continue
            return

    async def _quiet(self) -> Stamps:
        """The state of the files when they do not change any more."""
        found = self._stamps()
        for _ in range(round(RESTLESS_S / QUIET_S)):
            await asyncio.sleep(QUIET_S)
            before, found = found, self._stamps()
            if before == found:
                break
        return found

    def _stamps(self) -> Stamps:
        return stamps((*self._gateway.composition.configuration.files, *self._gateway.folders))


async def reload_on_change(gateway: Gateway) -> None:
    """Watch until cancelled."""
    watch = _Watch(gateway)
    while True:
        try:
            await watch.folders()
        except (OSError, RuntimeError) as error:
            _LOG.warning("cannot watch the folders of the configuration (SIGHUP and /-/reload still work): %s", error)
            await asyncio.sleep(60)
