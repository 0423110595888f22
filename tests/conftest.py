"""What holds for all tests."""

from __future__ import annotations

import functools
import os
import re
import signal
from pathlib import Path

import pytest
from httpx._transports import default

from tests.support import properties  # noqa: F401 - loads the profile of Hypothesis

TIER = os.environ.get("TEST_TIER", "")
_ALL_OF_IT = re.compile(r"^pytestmark = .*\b(hazard|integration)\b", re.MULTILINE)
_WORD = {"system": "hazard", "peers": "integration"}

# A shell that starts tests in the background has them ignore SIGINT, and every process that they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A client of httpx reads all certificates of the system when it is made, which takes longer than most tests. Those made
# without certificates of their own share one context.
_made = default.create_ssl_context
_shared = functools.cache(_made)


def _context(verify=True, cert=None, trust_env=True):
    if verify is True and cert is None:
        return _shared(verify=True, cert=None, trust_env=trust_env)
    return _made(verify=verify, cert=cert, trust_env=trust_env)


default.create_ssl_context = _context


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files without a test of this tier are not even imported."""
    if not TIER or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    if TIER == "fast":
        return True if _ALL_OF_IT.search(_text(collection_path)) else None
    return None if _WORD[TIER] in _text(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What decides the tier stands in the file of the test, or `pytest_ignore_collect` would not see it."""
    for item in items:
        for word in _WORD.values():
            if item.get_closest_marker(word) and word not in _text(item.path):
                raise pytest.UsageError(f"{item.nodeid} is marked {word!r} from outside its file")
