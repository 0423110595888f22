"""The harness of tests/e2e, with an identity provider beside it."""

from __future__ import annotations

import pytest

from tests.complete_path.issuer import Issuer
from tests.e2e.conftest import iam, start_gateway, upstream

__all__ = ["iam", "issuer", "start_gateway", "upstream"]


@pytest.fixture
def issuer() -> Issuer:
    """An identity provider with one key."""
    return Issuer()
