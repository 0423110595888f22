"""The real process and its neighbours, for what happens to a gateway in production."""

from __future__ import annotations

from tests.e2e.conftest import iam, start_gateway
from tests.production.backends import backend

__all__ = ["backend", "iam", "start_gateway"]
