"""One url of IAM: how it is asked, how it is, and what went wrong there last."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from gateway.iam.api import Api
from gateway.iam.failure import CallFailure
from gateway.telemetry.observer import Server as Peer
from gateway.upstream.origins import Standing


class Server:
    """`standing` outlives this object on a reload. `peer`: as spans and metrics call it."""

    __slots__ = ("_last_error", "api", "peer", "standing", "url")

    def __init__(self, url: str, api: Api, standing: Standing) -> None:
        self.url = url
        self.api = api
        self.standing = standing
        self.peer = _peer(url)
        self._last_error: dict[str, Any] | None = None

    def failed(self, failure: CallFailure) -> None:
        """For whoever looks at the status."""
        self._last_error = {"code": failure.code, "reason": failure.reason, "at_s": time.time()}

    def snapshot(self) -> dict[str, Any]:
        """For the status page. `at_s` in Unix time."""
        return {"url": self.url, "set_aside": self.standing.ill, "last_error": self._last_error}


def _peer(url: str) -> Peer:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Peer(parts.hostname or "", str(port), f"{parts.scheme}://{parts.hostname}:{port}")
