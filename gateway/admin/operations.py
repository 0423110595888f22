"""What the admin listener shows and does, whoever does it: this process, or all workers together."""

from __future__ import annotations

from typing import Any, Protocol


class Operations(Protocol):
    """The running gateway as an operator sees it. Documents are JSON-ready."""

    @property
    def ready(self) -> bool:
        """Configuration loaded, listening, not draining. IAM's state does not matter."""

    async def status(self) -> dict[str, Any]:
        """Everything that the page shows."""

    async def routes(self) -> list[dict[str, Any]]:
        """One row per route."""

    async def breakers(self) -> dict[str, dict[str, Any]]:
        """Every breaker by name."""

    async def config(self) -> dict[str, Any]:
        """The configuration with secrets masked."""

    async def systems_health(self) -> dict[str, Any]:
        """IAM and every upstream, asked now (shared for a second)."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Metrics and their media type, by what an `Accept` field asks for: Prometheus text, or OpenMetrics."""

    async def reload(self) -> tuple[bool, list[str]]:
        """Load routes.yaml again: whether it serves now, and the mistakes if not."""

    async def drain(self) -> None:
        """Begin to end, as on SIGTERM."""

    async def force_breaker(self, name: str, mode: str) -> bool:
        """`open`, `close`, `auto` or `try`; False if there is no such breaker."""

    async def purge_cache(self, subject: str | None = None) -> int:
        """Forget every decision and copy, or those of one subject, and end its streams; how many decisions it was."""
