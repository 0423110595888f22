"""How a drill is shown: seconds as rows, what callers see as columns, what changed marked; in 80 columns.

On a terminal a table that is drawn anew each second; elsewhere the same rows as plain lines. A cell is short: what has
changed is told in full below it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

COLUMNS: Final = ("time", "IAM", "inventory", "monitoring", "public", "navigation", "audit", "denied")
WIDTHS: Final = (8, 9, 9, 10, 9, 10, 9, 9)
ROWS: Final = 15
HEADER_EVERY: Final = 20
_TOLD: Final = 6


class View(Protocol):
    """Shows a drill."""

    def event(self, text: str) -> None:
        """Something begins or ends."""

    def second(self, cells: Sequence[str], changed: Sequence[bool], notes: Sequence[str], waits_for: str) -> None:
        """What is so now. `notes`: in full what changed; `waits_for`: what happens next."""

    def close(self) -> None:
        """It is over."""


def view_for(say: Callable[[str], None]) -> View:
    """A table on a terminal, else lines."""
    return _Table() if sys.stdout.isatty() else Lines(say)


class Lines:
    """A line each second; one more for each change."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rows = 0
        self._waited_for = ""

    def event(self, text: str) -> None:
        """See View."""
        self._say(f"-- {text}")

    def second(self, cells: Sequence[str], changed: Sequence[bool], notes: Sequence[str], waits_for: str) -> None:
        """See View. What it waits for is said when that changes."""
        if not self._rows % HEADER_EVERY:
            self._say(_line(COLUMNS))
        self._rows += 1
        self._say(_line([f"{cell}{'*' if new else ''}" for cell, new in zip(cells, changed, strict=True)]))
        for note in notes:
            self._say(f"   * {note}")
        subject = waits_for.partition(" (")[0]
        if subject != self._waited_for:
            self._waited_for = subject
            self._say(f"   waiting for {waits_for}")

    def close(self) -> None:
        """See View."""


def _line(cells: Sequence[str]) -> str:
    return " ".join(f"{cell[:width]:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


class _Table:
    """The last seconds as a table in place."""

    def __init__(self) -> None:
        from rich.console import Console  # heavy, and only for terminals
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        self._rows: list[tuple[Sequence[str], Sequence[bool]]] = []
        self._told: list[str] = []

    def event(self, text: str) -> None:
        """See View."""
        self._console.print(f"-- {text}", markup=False, highlight=False)

    def second(self, cells: Sequence[str], changed: Sequence[bool], notes: Sequence[str], waits_for: str) -> None:
        """See View."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        self._rows = [*self._rows, (cells, changed)][-ROWS:]
        self._told = [*self._told, *(f"{cells[0]} {note}" for note in notes)][-_TOLD:]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name, width in zip(COLUMNS, WIDTHS, strict=True):
            table.add_column(name, width=width, no_wrap=True)
        for row, new in self._rows:
            table.add_row(*(Text(cell, style=_style(cell, new=one)) for cell, one in zip(row, new, strict=True)))
        told = Text("\n".join(self._told), style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(table, told, Text(f"waiting for {waits_for}", style="bold")), refresh=True)

    def close(self) -> None:
        """See View."""
        self._live.stop()


def _style(cell: str, *, new: bool) -> str:
    bad = cell[:1] == "5" or cell.startswith(("open", "no answer"))
    colour = "red" if bad else "yellow" if cell.startswith(("wait", "half")) or " " in cell else ""
    return f"{colour} reverse bold".strip() if new else colour
