"""CPU time of one request through the gateway and through other gateways, side by side: `bench/run`.

Every server has one core to itself, with one upstream, one IAM and one load generator (wrk) on another. They are
measured in turns, several rounds of it, and the ratios are medians of ratios within a round: what else the machine does
disturbs neighbours in time alike. Every request is that of the next of 100 users, so no two in flight ask the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contestants import CONTESTANTS, JWT, Contestant, Route
from processes import cpu_s, free_port, running
from tokens import write_jwts, write_opaque

HERE = Path(__file__).parent
CONNECTIONS = 64
WARM_UP_S = 1


@dataclass(frozen=True)
class Sample:
    """One measurement. Latencies in milliseconds; `asked`: calls to IAM for one request."""

    cpu_us: float
    per_s: float
    p50_ms: float
    p99_ms: float
    asked: float


@dataclass(frozen=True, eq=False)
class Entrant:
    """A server that runs, with one of its routes."""

    contestant: Contestant
    route: Route
    pid: int
    port: int
    tokens: Path


@dataclass(frozen=True)
class Bench:
    """What all measurements share. Cores: of the servers measured, and of everything else."""

    folder: Path
    core: int
    other_core: int
    seconds: int
    iam_port: int
    connections: int = CONNECTIONS

    def measure(self, entrant: Entrant) -> Sample:
        self.load(entrant, WARM_UP_S)
        asked, begun_s = self.asked(), cpu_s(entrant.pid)
        report = self.load(entrant, self.seconds)
        used_s, asked = cpu_s(entrant.pid) - begun_s, self.asked() - asked
        requests = int(_found(r"(\d+) requests in", report))
        if "Non-2xx" in report or "Socket errors" in report:
            raise SystemExit(f"{entrant.contestant.name} {entrant.route.path} failed:\n{report}")
        return Sample(
            used_s / requests * 1e6,
            float(_found(r"Requests/sec: +([\d.]+)", report)),
            _milliseconds(_found(r"50% +(\S+)", report)),
            _milliseconds(_found(r"99% +(\S+)", report)),
            asked / requests,
        )

    def load(self, entrant: Entrant, seconds: int) -> str:
        command = ["taskset", "-c", str(self.other_core), "wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s"]
        command += ["--latency", "-s", str(HERE / "users.lua")]
        command += [f"http://127.0.0.1:{entrant.port}{entrant.route.path}", "--", str(entrant.tokens)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def asked(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.iam_port}/-/count") as answer:
            return int(answer.read())


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("wrk") is None:  # one for the server, one for the rest
        raise SystemExit("this needs two cores and wrk")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench, entrants = _started(stack, folder, cores, options)
        samples: dict[Entrant, list[Sample]] = {entrant: [] for entrant in entrants}
        for number in range(options.rounds):
            for entrant in entrants:
                samples[entrant].append(bench.measure(entrant))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.python_implementation()} {platform.python_version()}, ", end="")
        print(f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections\n")
        for line in table(samples):
            print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of load for each row in each round")
    parser.add_argument("--only", default="", help="names of servers, with commas; Envoy is always there")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    return parser.parse_args()


def _started(
    stack: contextlib.ExitStack, folder: Path, cores: Sequence[int], options: argparse.Namespace
) -> tuple[Bench, list[Entrant]]:
    """Start the stubs and every server."""
    iam_port, upstream_port = free_port(), free_port()
    core, other_core = cores[-1], cores[0]
    for role, port in (("iam", iam_port), ("upstream", upstream_port)):
        command = [sys.executable, str(HERE / "stub.py"), role, str(port)]
        stack.enter_context(running(command, port, core=other_core, log=folder / f"{role}.log"))
    write_opaque(folder / "opaque")
    write_jwts(folder / "jwts", folder / "jwks.json")
    entrants = [
        entrant
        for contestant in _chosen(options.only)
        for entrant in entered(stack, folder, contestant, core, {"IAM": str(iam_port), "UPSTREAM": str(upstream_port)})
    ]
    return Bench(folder, core, other_core, options.seconds, iam_port, options.connections), entrants


def _chosen(names: str) -> list[Contestant]:
    wanted = {name.lower() for name in names.split(",")} - {""}
    return [one for one in CONTESTANTS if not wanted or one.name.lower() in wanted or _reference(one)]


def _reference(contestant: Contestant) -> bool:
    return any(route.reference for route in contestant.routes)


def entered(
    stack: contextlib.ExitStack, parent: Path, contestant: Contestant, core: int, peers: dict[str, str]
) -> Iterator[Entrant]:
    folder = parent / contestant.name
    folder.mkdir()
    shutil.copy(parent / "jwks.json", folder)
    port = free_port()
    command = contestant.written(folder, {**peers, "PORT": str(port), "ADMIN": str(free_port())})
    environ = {name: value.replace("@FOLDER@", str(folder)) for name, value in (contestant.environ or {}).items()}
    pid = stack.enter_context(running(command, port, core=core, log=folder / "log", environ=environ))
    identity = (contestant.values or {}).get("IDENTITY")
    for route in contestant.routes:
        yield Entrant(contestant, route, pid, port, parent / ("jwts" if identity == JWT else "opaque"))


def table(samples: dict[Entrant, list[Sample]]) -> Iterator[str]:
    reference = next(taken for entrant, taken in samples.items() if entrant.route.reference)
    yield "| server | route | CPU µs a request | ratio | requests/s | p50 ms | p99 ms | IAM calls a request |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for entrant, taken in samples.items():
        ratios = [one.cpu_us / other.cpu_us for one, other in zip(taken, reference, strict=True)]
        name = entrant.contestant.shown
        yield (
            f"| {name} | {entrant.route.label} | {_median(taken, 'cpu_us'):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {_median(taken, 'per_s'):,.0f} | {_median(taken, 'p50_ms'):.1f} | {_median(taken, 'p99_ms'):.1f} "
            f"| {_median(taken, 'asked'):.2f} |"
        )


def _median(taken: list[Sample], field: str) -> float:
    return statistics.median(getattr(sample, field) for sample in taken)


def _found(pattern: str, report: str) -> str:
    found = re.search(pattern, report)
    if found is None:
        raise SystemExit(f"not understood:\n{report}")
    return found[1]


def _milliseconds(text: str) -> float:
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(text)


if __name__ == "__main__":
    main()
