"""How many examples a property is tried with, and what is printed when one fails.

TEST_EXAMPLES chooses: `few` for the inner loop (the default), `usual` for CI, `many` for scripts/soak. Every run has
fresh seeds. A property that fails prints its example, and a line `@reproduce_failure` that tries just this one again.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

HOW_MANY = os.environ.get("TEST_EXAMPLES") or ("usual" if os.environ.get("CI") else "few")
_DEFAULT = {"few": 15, "usual": 50, "many": 5_000}[HOW_MANY]
# A loaded machine is slow in making examples, and a fixture that all examples share is meant so.
_ALLOWED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile(
    HOW_MANY, max_examples=_DEFAULT, deadline=None, derandomize=False, print_blob=True, suppress_health_check=_ALLOWED
)
settings.load_profile(HOW_MANY)


def examples(usual: int, **more: Any) -> settings:
    """Settings of a property that is worth `usual` examples in CI: a tenth in the inner loop, 5,000 in soak."""
    number = {"few": max(10, min(usual // 10, 100)), "usual": usual, "many": max(usual, _DEFAULT)}[HOW_MANY]
    return settings(max_examples=number, **more)
