"""How many files this process may open: each connection is one, and a system's usual limit is low (setrlimit(2))."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from typing import Final

from gateway.server.listener import files_for, files_for_connections

_LOG: Final = logging.getLogger("gateway")


def provide_for(connections: int) -> None:
    """Raise this process's own limit as far as so many connections need; say so if the system does not let us."""
    wanted = files_for(connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, wanted):
        return
    raised = wanted if _enough(hard, wanted) else hard
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    if not _enough(soft, wanted):
        _LOG.warning(
            "this process may open %d files: enough for about %d connections, not for server.max_connections: %d; "
            "allow it %d (ulimit -n, LimitNOFILE of systemd)",
            soft, files_for_connections(soft), connections, wanted,
        )  # fmt: skip


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
