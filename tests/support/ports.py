"""Ports for processes that a test starts."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

# Below the range from which the system takes the ports of outgoing connections (ip_local_port_range), so that no
# client takes one between now and the start of the process. Runners beside each other have ranges of their own.
_RUNNER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % 8
_FIRST, _COUNT = 10_000 + _RUNNER * 2_700, 2_700
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and that this runner was not given before."""
    while True:
        port = random.randrange(_FIRST, _FIRST + _COUNT)  # noqa: S311 - guards nothing
        if port in _given:
            continue
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            if len(_given) > _COUNT // 2:
                _given.clear()
            return port
