"""`python -m tests.simulation SEED` replays one seed and prints all that happened; two numbers are a range of seeds."""

from __future__ import annotations

import sys
import time

from tests.simulation.play import play


def main() -> int:
    first, *rest = (int(each) for each in sys.argv[1:])
    if not rest:
        trace: list[str] = []
        try:
            play(first, trace)
        finally:
            sys.stdout.write("\n".join(trace) + "\n")
        return 0
    failed, began_s = 0, time.monotonic()
    for seed in range(first, rest[0]):
        try:
            play(seed)
        except AssertionError as error:
            failed += 1
            sys.stdout.write(f"seed {seed}: {error}\n")
    sys.stdout.write(f"{rest[0] - first} seeds, {failed} failed, {time.monotonic() - began_s:.1f} s\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
