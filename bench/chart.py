"""A chart of CPU time a request, from the table that `bench/run` prints.

    bench/run | tee table.md; python bench/chart.py table.md docs/performance.svg

A bar is the median; its length is relative to the longest. The ratio to Envoy's `ext_authz` in the same round stands
beside it, as in the table.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

_ROW = re.compile(r"^\| (?P<server>[^|]+) \| (?P<route>[^|]+) \| (?P<us>[\d.]+) \| (?P<ratio>[\d.]+) ", re.MULTILINE)
WIDTH, LEFT, BAR, STEP, TOP = 760, 300, 330, 26, 52
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}"
    ".n{fill:#555}.o{fill:#9aa7b5}.g{fill:#1f6feb}"
)


class Bar(NamedTuple):
    """One row of the table."""

    name: str
    us: float
    ratio: str


def bars_of(text: str) -> list[Bar]:
    return [
        Bar(f"{row['server'].strip()}: {row['route'].strip().replace('`', '')}", float(row["us"]), row["ratio"])
        for row in _ROW.finditer(text)
    ]


def drawn(bars: list[Bar], below: str) -> str:
    """The chart as SVG."""
    longest = max(bar.us for bar in bars)
    height = TOP + STEP * len(bars) + 34
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    parts = [
        f'<svg {frame} aria-label="CPU time of one request"><style>{STYLE}</style>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text class="t" x="12" y="26">CPU time of one request, µs (less is better)</text>',
    ]
    for number, bar in enumerate(bars):
        y, length = TOP + STEP * number, BAR * bar.us / longest
        kind = "g" if bar.name.startswith("gateway") else "o"
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="17"/>')
        parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 13}">{bar.us:.0f} ({bar.ratio})</text>')
    parts.append(
        f'<text class="n" x="12" y="{height - 12}">{escape(below)}; in brackets: ratio to ext_authz</text></svg>'
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    table, chart = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
    chart.write_text(drawn(bars_of(table), table.strip().partition("\n")[0]))


if __name__ == "__main__":
    main()
