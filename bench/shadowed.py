"""CPU time and p99 of requests beside a second IAM: none, and one that answers, hangs, lies or is dead.

`python bench/shadowed.py` (`--rounds`, `--seconds`, `--sample`). Five gateways on one core, measured in turns, so that
what else the machine does meets all of them; load and stubs are on the other core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contestants import CONFIGS, SCRIPTS, filled
from processes import cpu_s, free_port, running
from tokens import write_jwts

HERE: Final = Path(__file__).parent
CONNECTIONS: Final = 32
KINDS: Final = ("none", "answers", "hangs", "lies", "dead")
SHADOW: Final = "iam_shadow: {{url: 'http://127.0.0.1:{port}', sample: {sample}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--sample", default="100%")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gateways = started(stack, folder, cores, options.sample)
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for number in range(options.rounds):
            for kind, (port, pid) in gateways.items():
                taken[kind].append(measure(port, pid, folder / "jwts", cores[0], options.seconds))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    report(taken)


def started(stack: contextlib.ExitStack, folder: Path, cores: Sequence[int], sample: str) -> dict[str, tuple[int, int]]:
    """By kind of second IAM: the gateway's port and process."""
    write_jwts(folder / "jwts", folder / "jwks.json")
    ports = {role: free_port() for role in ("iam", "upstream", "answers", "hangs", "lies", "dead")}
    roles = {"iam": "iam", "upstream": "upstream", "answers": "iam", "hangs": "silent", "lies": "liar"}
    for name, role in roles.items():
        command = [sys.executable, str(HERE / "stub.py"), role, str(ports[name])]
        stack.enter_context(running(command, ports[name], core=cores[0], log=folder / f"{name}.log"))
    found = {}
    for kind in KINDS:
        own = {name: free_port() for name in ("PORT", "ADMIN", "DECISIONS")}
        values = {**own, "IAM": ports["iam"], "UPSTREAM": ports["upstream"]}
        text = filled((CONFIGS / "deciding.yaml").read_text(), {name: str(port) for name, port in values.items()})
        file = folder / f"{kind}.yaml"
        file.write_text(text + ("" if kind == "none" else SHADOW.format(port=ports[kind], sample=sample)))
        command = [str(SCRIPTS / "gateway"), "serve", "-c", str(file)]
        pid = stack.enter_context(running(command, own["PORT"], core=cores[-1], log=folder / f"{kind}.gateway.log"))
        found[kind] = (own["PORT"], pid)
    return found


def measure(port: int, pid: int, tokens: Path, core: int, seconds: int) -> tuple[float, float]:
    """CPU µs a request, and p99 in ms."""
    load(port, tokens, core, 1)
    before = cpu_s(pid)
    said = load(port, tokens, core, seconds)
    used = cpu_s(pid) - before
    count, late = re.search(r"(\d+) requests in", said), re.search(r"99% +([\d.]+)(us|ms|s)", said)
    if count is None or late is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"port {port} failed:\n{said}")
    return used / int(count[1]) * 1e6, float(late[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[late[2]]


def load(port: int, tokens: Path, core: int, seconds: int) -> str:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s"]
    command += [str(HERE / "users.lua"), f"http://127.0.0.1:{port}/inventory/x", "--", str(tokens)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def report(taken: dict[str, list[tuple[float, float]]]) -> None:
    print(
        "| a second IAM that | CPU µs a request | ratio to none | p99, ms | ratio to none |\n|---|---:|---:|---:|---:|"
    )
    for kind, samples in taken.items():
        columns = []
        for what in (0, 1):
            own = [sample[what] for sample in samples]
            ratios = [mine / none for mine, none in zip(own, (each[what] for each in taken["none"]), strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            columns += [f"{statistics.median(own):.{what}f}", spread]
        print(f"| {kind} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
