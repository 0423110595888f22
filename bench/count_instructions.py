"""Instructions of one request, beside the figures in bench/instructions.json. Needs valgrind.

A figure is the difference of two runs of bench/in_process.py, over the difference of their requests. It hardly depends
on what else the machine does, but on the interpreter: each build of CPython has figures of its own.
With BENCH_COMPILED=$(GATEWAY_COMPILE_LEVEL=2 scripts/compiled) the compiled gateway is counted.
Exit code: 0 if no figure rose by more than TOLERANCE, 1 if one did, 3 without valgrind or anything to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from in_process import CASES

TOLERANCE: Final = 0.05
_HERE: Final = Path(__file__).parent
_FIGURES: Final = _HERE / "instructions.json"
_SHORT, _LONG = 250, 1250
_NOT_COMPARED: Final = 3


_COMPILED: Final = os.environ.get("BENCH_COMPILED", "")
"""The tree that scripts/compiled printed, to count the compiled gateway."""


def interpreter() -> str:
    """Which build this is: its version, and the compiler that made it; and whether the gateway is compiled."""
    build = f"CPython {platform.python_version()}, {platform.python_compiler()}, {platform.machine()}"
    return f"{build}, gateway compiled" if _COMPILED else build


def counted(case: str, requests: int) -> int:
    """Instructions of a whole run."""
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    said = subprocess.run(
        [*tool, sys.executable, str(_HERE / "in_process.py"), case, str(requests)],
        env=os.environ
        | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": _COMPILED or str(_HERE.parent)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = re.search(r"I *refs: *([\d,]+)", said.stderr)
    if said.returncode or found is None:
        raise SystemExit(f"bench/in_process.py failed:\n{said.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def of_one_request(case: str) -> int:
    with ThreadPoolExecutor(2) as both:  # side by side: what runs beside makes no difference
        long, short = both.map(lambda requests: counted(case, requests), (_LONG, _SHORT))
    return (long - short) // (_LONG - _SHORT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--write", action="store_true", help="write the figures down as those to compare with")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is missing: nothing was counted", file=sys.stderr)
        return _NOT_COMPARED
    figures = json.loads(_FIGURES.read_text())
    known = figures.get(interpreter(), {})
    print(f"{interpreter()}\n")
    print("| case | instructions a request | figure in the repository | change |\n|---|---:|---:|---:|")
    worst, measured = 0.0, {}
    for case in options.cases or CASES:
        now = measured[case] = of_one_request(case)
        before = known.get(case)
        change = now / before - 1 if before else 0.0
        worst = max(worst, change)
        print(f"| {case} | {now:,} | {f'{before:,}' if before else '-'} | {f'{change:+.1%}' if before else '-'} |")
    if options.write:
        figures[interpreter()] = known | measured
        _FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
        return 0
    if not known:
        print("\nno figures of this interpreter: write them down with --write", file=sys.stderr)
        return _NOT_COMPARED
    if worst > TOLERANCE:
        print(f"\nmore than {TOLERANCE:.0%} over the figure: see docs/performance.md", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
