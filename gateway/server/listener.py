"""What the connections of the public listener share: settings, admission, and who is told of refusals.

Rules: a connection over a limit is answered `overloaded` and closed; a trusted proxy's connections do not count against
`max_connections_per_client`, as they carry many clients. Settings may be replaced while it serves: limits of new
requests and connections follow, what is counted stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.forwarded import Trust
from gateway.model.settings import ServerSettings

OnRefusal = Callable[[GatewayError, str, str, bytes], None]
"""Called with the error, the peer's address, the request ID and the raw target (b"" if there was none yet)."""


def _nobody(error: GatewayError, peer: str, request_id: str, target: bytes) -> None:
    """Nobody wants to know."""


class Listener:
    """The state that all connections of one listener share. `on_refusal` hears of what never reached the app."""

    def __init__(self, settings: ServerSettings, on_refusal: OnRefusal = _nobody) -> None:
        self.settings = settings
        self.on_refusal = on_refusal
        self.connections = 0
        self._trust = Trust(settings.trusted_proxies)
        self._by_client: Counter[str] = Counter()

    def update(self, settings: ServerSettings) -> None:
        """Serve under new settings from now on (reload). The address listened on does not change."""
        self.settings = settings
        self._trust = Trust(settings.trusted_proxies)

    def admit(self, peer: str) -> GatewayError | None:
        """Count a new connection; the refusal if it is one too many. `release` is due in either case."""
        self.connections += 1
        self._by_client[peer] += 1
        settings = self.settings
        if self.connections > settings.max_connections:
            return GatewayError("overloaded", "There are too many connections.", reason="max_connections")
        if peer and self._by_client[peer] > settings.max_connections_per_client and peer not in self._trust:
            return GatewayError(
                "overloaded", "There are too many connections of this client.", reason="max_connections_per_client"
            )
        return None

    def release(self, peer: str) -> None:
        """A connection is over."""
        self.connections -= 1
        self._by_client[peer] -= 1
        if not self._by_client[peer]:
            del self._by_client[peer]
