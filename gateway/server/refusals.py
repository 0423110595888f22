"""Connections that were refused: counted by reason, and told once a second at most, however many they are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 1.0
_LOG: Final = logging.getLogger("gateway.server")
_WHY: Final = {
    "max_connections": "there are as many connections as server.max_connections allows",
    "max_connections_per_client": "a client has as many connections as server.max_connections_per_client allows",
    "open_files": "the process has opened as many files as it may; raise its limit (ulimit -n, LimitNOFILE of systemd)",
}


class ConnectionRefusals:
    """Refused connections of one listener. `on_count` hears of each, by reason. `name`: the listener in the log."""

    def __init__(self, name: str = "") -> None:
        self._of = f" of the {name} listener" if name else ""
        self.on_count: Callable[[str], None] | None = None
        self.total: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._peers: dict[str, str] = {}
        self._telling = False

    def count(self, reason: str, peer: str) -> None:
        """One more was refused. The first is told at once, those that follow together."""
        self.total[reason] += 1
        if self.on_count is not None:
            self.on_count(reason)
        self._untold[reason] += 1
        self._peers[reason] = peer
        if not self._telling:
            self._telling = True
            self._tell()

    def _tell(self) -> None:
        if not self._untold:
            self._telling = False
            return
        for reason, number in self._untold.items():
            what = "a connection" if number == 1 else f"{number} connections"
            last = f"; the last came from {self._peers[reason]}" if self._peers[reason] else ""
            _LOG.warning("refused %s%s: %s%s", what, self._of, _WHY[reason], last)
        self._untold.clear()
        self._peers.clear()
        asyncio.get_running_loop().call_later(EVERY_S, self._tell)
