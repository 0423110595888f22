"""`python -m tests.simulation SEED` replays one seed and prints all that happened; two numbers are a range of seeds.

`--first` ends a range at the first seed that fails.
"""

from __future__ import annotations

import sys
import time

from tests.simulation.play import play


def main(arguments: list[str]) -> int:
    first, *rest = (int(each) for each in arguments if each != "--first")
    return plays_all(range(first, rest[0]), once="--first" in arguments) if rest else replay(first)


def replay(seed: int) -> int:
    trace: list[str] = []
    try:
        play(seed, trace)
    finally:
        sys.stdout.write("\n".join(trace) + "\n")
    return 0


def plays_all(seeds: range, *, once: bool) -> int:
    failed, began_s = 0, time.monotonic()
    for seed in seeds:
        try:
            play(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, this seed found it
            failed += 1
            sys.stdout.write(f"seed {seed}: {error}\n")
            if once:
                break
    sys.stdout.write(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - began_s:.1f} s\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
