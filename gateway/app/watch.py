"""Reload when a folder of the configuration changes, also by a Kubernetes ConfigMap's symlink swap.

The folders are watched, not the files: a swap replaces a symlink beside them, which a watch on the file never sees.
What did not change in content is no reload, so that a noisy folder costs a hash and nothing else.
"""

from __future__ import annotations

import asyncio
import logging

import watchfiles

from gateway.app.running import Gateway

_LOG = logging.getLogger("gateway")


async def reload_on_change(gateway: Gateway) -> None:
    """Watch until cancelled. The set of folders is taken anew after each reload."""
    while True:
        folders = gateway.folders
        try:
            async for _ in watchfiles.awatch(*folders, recursive=False, debounce=200, step=50, rust_timeout=1000):
                await gateway.reload()
                if gateway.folders != folders:
                    break
        except (OSError, RuntimeError) as error:
            _LOG.warning("cannot watch the configuration's folders, SIGHUP and /-/reload still work: %s", error)
            await asyncio.sleep(60)
