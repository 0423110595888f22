"""How tests are spread over processes in the tiers that use sockets. scripts/test loads it (`-p tests.support.spread`).

A file stays together, since its tests share a gateway. What takes longest begins first, so that at the end no process
is left with it while the others have nothing to do.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Beginnings of names, longest first. Only for speed: what is missing here begins later, and nothing else changes.
LONG = (
    "tests/production/",
    "tests/simulation/",
    "tests/complete_path/",
    "tests/admin/",
    "tests/decide/",
    "tests/partial/",
    "tests/packaging/",
    "tests/faults/",
    "tests/wire/",
)
ALONE = ("tests/simulation/",)  # each test for itself


class Spread(LoadFileScheduling):
    """By file, but for what is in `ALONE`."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ALONE) else super()._split_scope(nodeid)


def _place(item: pytest.Item) -> int:
    return next((place for place, begin in enumerate(LONG) if item.nodeid.startswith(begin)), len(LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spread:
    config.option.loadscopereorder = False
    return Spread(config, log)
