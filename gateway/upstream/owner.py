"""Whose connections they are: what a connection tells its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.upstream.wire import Connection


class Owner(Protocol):
    """Whose connection it is: the pool."""

    def on_free(self, connection: Connection) -> None:
        """Its exchange is over and it can take another."""

    def on_lost(self, connection: Connection) -> None:
        """It will take no more requests. Called once."""

    def on_closed(self, connection: Connection) -> None:
        """Its socket is closed. Called once, after `on_lost`."""

    def on_failed(self, connection: Connection, error: Exception) -> None:
        """Its exchange fails by the upstream, with `error`. Called before `on_lost`."""

    def on_unasked(self, connection: Connection) -> None:
        """The upstream sent what nobody asked for."""

    def on_sent(self, connection: Connection) -> None:
        """A request body that was still arriving has been sent."""

    def on_unread(self, connection: Connection) -> None:
        """The caller takes no more of its answer for now."""

    def on_read(self, connection: Connection) -> None:
        """It takes it again."""

    def on_stream(self, connection: Connection) -> None:
        """Its answer is a stream, which may last for ever."""
