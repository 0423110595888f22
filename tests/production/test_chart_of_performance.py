"""The chart in docs/performance.md is drawn from the table beside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_chart_shows_every_row_of_the_table():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from chart import bars_of, drawn
    finally:
        sys.path.remove(str(ROOT / "bench"))
    text = (ROOT / "docs" / "performance.md").read_text()
    table = text.partition("](performance.svg)")[2].partition("`bench/run | tee")[0]
    bars = bars_of(table)
    assert len(bars) == 12
    below = re.findall(r"^(\d{4}-\d\d-\d\d, CPython .*):$", text, re.MULTILINE)[0]
    assert drawn(bars, below) == (ROOT / "docs" / "performance.svg").read_text()
