"""Reload when a folder of the configuration changes, also by a Kubernetes ConfigMap's symlink swap.

The folders are watched, not the files: a swap replaces a symlink beside them, which a watch on the file never sees.
Of what changes in a folder only the configuration's own files count, and what may become one of them.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import PurePath

import watchfiles

from gateway.app.running import Gateway

_LOG = logging.getLogger("gateway")
_KINDS = frozenset({".yaml", ".cedar", ".json"})


def matters(path: str, known: frozenset[str]) -> bool:
    """Whether a changed path concerns the configuration: a file it was read from, one like it, or a symlink swap."""
    name = PurePath(path).name
    return name in known or name.startswith("..") or PurePath(path).suffix in _KINDS


async def reload_on_change(gateway: Gateway) -> None:
    """Watch until cancelled. The set of folders is taken anew after each reload."""
    while True:
        folders = gateway.folders
        known = frozenset(file.name for file in gateway.composition.configuration.files)
        try:
            async for _ in watchfiles.awatch(
                *folders,
                watch_filter=lambda _, path: matters(path, known),  # noqa: B023 - awatch ends before `known` changes
                recursive=False,
                debounce=200,
            ):
                await gateway.reload()
                if gateway.folders != folders:
                    break
        except (OSError, RuntimeError) as error:
            _LOG.warning("cannot watch the configuration's folders, SIGHUP and /-/reload still work: %s", error)
            await asyncio.sleep(60)
