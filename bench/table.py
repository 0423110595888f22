"""Everything that is said about speed, in one command: the gateway, pure and compiled, beside others, row by row.

    bench/table [--rounds 3] [--seconds 2] [--parts load,one,…]

Each ratio is the median over rounds of the ratio within a round; the least and the greatest stand in brackets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvloop
from compare import HERE, Bench, Entrant, Sample, entered
from contestants import ASKED, CONTESTANTS, JWT, OPAQUE, PUBLIC, Contestant, Route, compiled, gateway
from processes import cpu_s, family, free_port, running
from storm import connected, stage
from tokens import write_jwts, write_opaque

ONE, MANY, FEW = 1, 64, 16
IDLE = 500
PACE_S, PER_S = 4.0, 100
BUSY_S = "0.001"
CACHED = ", cache: {ttl: 60s}"
Row = tuple[str, str]
Taken = dict[str, list[Sample]]


class Table:
    """Runs the parts. `core` is for what is measured, `other` for everything else."""

    def __init__(self, folder: Path, rounds: int, seconds: int) -> None:
        self.folder, self.rounds, self.seconds = folder, rounds, seconds
        cores = sorted(os.sched_getaffinity(0))
        self.core, self.other = cores[-1], cores[0]
        write_opaque(folder / "opaque")
        write_jwts(folder / "jwts", folder / "jwks.json")

    @contextlib.contextmanager
    def peers(self, busy_s: str = "0") -> Iterator[tuple[dict[str, str], int]]:
        """An upstream and an IAM: their ports, and IAM's process."""
        with contextlib.ExitStack() as stack:
            ports = {"IAM": free_port(), "UPSTREAM": free_port()}
            pids = [
                stack.enter_context(
                    running(
                        [sys.executable, str(HERE / "stub.py"), role.lower(), str(port)],
                        port,
                        core=self.other,
                        log=self.folder / f"{role}.log",
                        environ={"STUB_BUSY_S": busy_s},
                    )
                )
                for role, port in ports.items()
            ]
            yield {name: str(port) for name, port in ports.items()}, pids[0]

    def samples(
        self, contestants: Sequence[Contestant], connections: int, *, busy_s: str = "0", path: str = ""
    ) -> Taken:
        """By server and route. With `busy_s` the CPU time is that of server and IAM together."""
        with self.peers(busy_s) as (peers, iam), contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
            for name in ("opaque", "jwts", "jwks.json"):
                (folder / name).write_bytes((self.folder / name).read_bytes())
            bench = Bench(folder, self.core, self.other, self.seconds, int(peers["IAM"]), connections)
            entrants = [each for one in contestants for each in entered(stack, folder, one, self.core, peers)]
            entrants = [each for each in entrants if not path or each.route.path == path]
            taken: Taken = {f"{each.contestant.name} {each.route.path}": [] for each in entrants}
            for _ in range(self.rounds):
                for each in entrants:
                    taken[f"{each.contestant.name} {each.route.path}"].append(_measured(bench, each, iam, busy_s))
            return taken

    # The parts

    def load(self) -> Iterator[Row]:
        """64 connections."""
        pure = [
            gateway("gateway", OPAQUE, "off", Route("", PUBLIC), Route("", ASKED)),
            gateway("jwt", JWT, "off", Route("", ASKED)),
            gateway("log", JWT, "json", Route("", ASKED)),
            gateway("cache", OPAQUE, "off", Route("", ASKED), iam=CACHED),
        ]
        taken = self.samples([*pure, *map(compiled, pure), *_others("nginx", "Envoy", "Traefik", "Caddy")], MANY)
        for kind, end in (("pure", ""), ("compiled", "-compiled")):
            own = f"gateway{end} {ASKED}"
            for other, what in (("Envoy", "ext_authz"), ("nginx", "auth_request"), ("Traefik", "forwardAuth")):
                yield f"{kind}: authorized ÷ {other} `{what}`", ratio(taken, own, f"{other} {ASKED}")
            yield f"{kind}: authorized ÷ Caddy `forward_auth`", ratio(taken, own, f"Caddy {ASKED}")
            yield f"{kind}: proxy only ÷ Envoy, proxy only", ratio(taken, f"gateway{end} {PUBLIC}", f"Envoy {PUBLIC}")
            yield f"{kind}: JWT of a known token ÷ opaque", ratio(taken, f"jwt{end} {ASKED}", own)
            added = [log.cpu_us - jwt.cpu_us for log, jwt in _pairs(taken, f"log{end} {ASKED}", f"jwt{end} {ASKED}")]
            yield f"{kind}: access log as JSON, added µs", _spread(added, "%.0f")
            yield f"{kind}: decision cache warm ÷ Envoy", ratio(taken, f"cache{end} {ASKED}", f"Envoy {ASKED}")
        for name, values in taken.items():
            yield f"CPU µs: {name}", _spread([sample.cpu_us for sample in values], "%.0f")

    def one(self) -> Iterator[Row]:
        """One connection: nothing shares a call to IAM."""
        own = gateway("gateway", OPAQUE, "off", Route("", ASKED))
        taken = self.samples([own, compiled(own), *_others("Envoy")], ONE, path=ASKED)
        for kind, name in (("pure", "gateway"), ("compiled", "gateway-compiled")):
            yield f"{kind}: one connection, authorized ÷ Envoy", ratio(taken, f"{name} {ASKED}", f"Envoy {ASKED}")

    def together(self) -> Iterator[Row]:
        """With an IAM that takes 1 ms of CPU for a call."""
        own = gateway("gateway", OPAQUE, "off", Route("", ASKED))
        taken = self.samples([own, compiled(own), *_others("Envoy")], MANY, busy_s=BUSY_S, path=ASKED)
        for kind, name in (("pure", "gateway"), ("compiled", "gateway-compiled")):
            yield f"{kind}: with IAM of 1 ms ÷ Envoy with IAM", ratio(taken, f"{name} {ASKED}", f"Envoy {ASKED}")

    def sizes(self) -> Iterator[Row]:
        """Large answers, by requests a second beside nginx."""
        for size, path in (("64 kB", "/open/64k"), ("1 MiB", "/open/1m")):
            own = gateway("gateway", OPAQUE, "off", Route("", path))
            nginx = [Contestant(o.name, o.command, o.files, (Route("", path),)) for o in _others("nginx")]
            taken = self.samples([own, compiled(own), *nginx], FEW)
            for kind, name in (("pure", "gateway"), ("compiled", "gateway-compiled")):
                yield f"{kind}: {size}, requests/s ÷ nginx", ratio(taken, f"{name} {path}", f"nginx {path}", "per_s")

    def growth(self) -> Iterator[Row]:
        """More routes, more checks; how long a start takes; what an idle connection holds."""
        kinds = [
            gateway("ten", OPAQUE, "off", Route("", ASKED), more_routes=8),
            gateway("many", OPAQUE, "off", Route("", ASKED), more_routes=9_998),
            gateway("checks", OPAQUE, "off", Route("", ASKED), checks=10),
        ]
        for kind, made in (("pure", kinds), ("compiled", [compiled(each) for each in kinds])):
            taken = self.samples(made, MANY)
            ten, many, checks = taken
            yield f"{kind}: 10,000 routes ÷ 10", ratio(taken, many, ten)
            yield f"{kind}: 10 checks ÷ 1", ratio(taken, checks, ten)
        for kind, change in _KINDS:
            for count in (10, 1_000, 10_000):
                contestant = change(gateway("start", OPAQUE, "off", Route("", ASKED), more_routes=count - 2))
                with self._started(contestant) as (_, _, took_s):
                    yield f"{kind}: start with {count:,} routes, s", f"{took_s:.2f}"
            with self._started(change(gateway("idle", OPAQUE, "off", Route("", ASKED)))) as (port, pid, _):
                yield f"{kind}: an idle connection, KiB", f"{uvloop.run(_idle_kib(port, pid)):.1f}"

    def pace(self) -> Iterator[Row]:
        """Latency where there is no load: 100 requests a second."""
        contestants = [("Envoy", _others("Envoy")[0])]
        own = gateway("gateway", OPAQUE, "off", Route("", ASKED))
        contestants += [(kind, change(own)) for kind, change in _KINDS]
        found: dict[str, tuple[float, float]] = {}
        for name, contestant in contestants:
            with self._started(contestant) as (port, _, _):
                found[name] = uvloop.run(_paced(port, (self.folder / "opaque").read_text().split()))
        for kind, _ in _KINDS:
            for at, what in enumerate(("p50", "p99")):
                ours, theirs = found[kind][at], found["Envoy"][at]
                yield f"{kind}: {what} at {PER_S} a second ÷ Envoy", f"{ours / theirs:.2f} ({ours:.2f} ms)"

    def storm(self) -> Iterator[Row]:
        """The login storm of bench/storm.py."""
        own = next(one for one in CONTESTANTS if one.name == "gateway")
        with stage(self.core, self.other) as at:
            for kind, change in _KINDS:
                storms = [(at.hit(change(own)), at.hit(_others("Envoy")[0])) for _ in range(self.rounds)]
                calls = sorted(ours.calls for ours, _ in storms)
                ratios = [ours.last_ms / theirs.last_ms for ours, theirs in storms]
                yield f"{kind}: login storm, last answer ÷ Envoy", _spread(ratios)
                yield f"{kind}: login storm, calls to IAM", f"{calls[0]} to {calls[-1]}"

    @contextlib.contextmanager
    def _started(self, contestant: Contestant) -> Iterator[tuple[int, int, float]]:
        """The contestant's port and process, and how long it took to listen."""
        with self.peers() as (peers, _), tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder, port = Path(name), free_port()
            command = contestant.written(folder, {**peers, "PORT": str(port), "ADMIN": str(free_port())})
            environ = {key: value.replace("@FOLDER@", name) for key, value in (contestant.environ or {}).items()}
            begun_s = time.monotonic()
            with running(command, port, core=self.core, log=folder / "log", environ=environ) as pid:
                yield port, pid, time.monotonic() - begun_s


def _same(contestant: Contestant) -> Contestant:
    return contestant


_KINDS: Sequence[tuple[str, Callable[[Contestant], Contestant]]] = (("pure", _same), ("compiled", compiled))


def _others(*names: str) -> list[Contestant]:
    return [one for one in CONTESTANTS if one.name in names]


def _measured(bench: Bench, entrant: Entrant, iam: int, busy_s: str) -> Sample:
    if busy_s == "0":
        return bench.measure(entrant)
    before_s, asked = cpu_s(iam), bench.asked()
    sample = bench.measure(entrant)
    a_call_s = (cpu_s(iam) - before_s) / (bench.asked() - asked)
    return Sample(
        sample.cpu_us + a_call_s * sample.asked * 1e6, sample.per_s, sample.p50_ms, sample.p99_ms, sample.asked
    )


def _pairs(taken: Taken, one: str, other: str) -> Iterator[tuple[Sample, Sample]]:
    return zip(taken[one], taken[other], strict=True)


def ratio(taken: Taken, one: str, other: str, field: str = "cpu_us") -> str:
    return _spread([getattr(ours, field) / getattr(theirs, field) for ours, theirs in _pairs(taken, one, other)])


def _spread(values: Sequence[float], form: str = "%.2f") -> str:
    return f"{form % statistics.median(values)} ({form % min(values)}-{form % max(values)})"


async def _paced(port: int, tokens: Sequence[str]) -> tuple[float, float]:
    """p50 and p99 in milliseconds of requests that begin every 10 ms, each on a connection that is free."""
    loop = asyncio.get_running_loop()
    free = [await connected(port) for _ in range(8)]
    times: list[float] = []

    async def ask(token: str) -> None:
        caller = free.pop()
        begun_s = loop.time()
        good, _ = await caller.ask(ASKED, token)
        times.append(loop.time() - begun_s)
        free.append(caller)
        if not good:
            raise SystemExit("not a 200")

    for number in range(-50, int(PACE_S * PER_S)):
        if number == 0:
            times.clear()
        task = loop.create_task(ask(tokens[number % len(tokens)]))
        await asyncio.sleep(1 / PER_S)
        await task
    times.sort()
    return times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3


async def _idle_kib(port: int, pid: int) -> float:
    """Resident memory of a connection that has had its answer."""
    callers = [await connected(port) for _ in range(20)]
    for caller in callers:
        await caller.ask(PUBLIC, "warm")
    before = _resident_kib(pid)
    more = [await connected(port) for _ in range(IDLE)]
    for caller in more:
        await caller.ask(PUBLIC, "warm")
    held = (_resident_kib(pid) - before) / IDLE
    for caller in [*callers, *more]:
        caller.writer.close()
    return held


def _resident_kib(pid: int) -> int:
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/statm").read_text().split()
        total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return total


PARTS = ("load", "one", "together", "sizes", "growth", "pace", "storm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/table", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each row in each round")
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"{commit.strip()}, {options.rounds} rounds of {options.seconds} s, load {os.getloadavg()[0]:.1f} before\n")
    print("| what | figure |\n|---|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="table-") as name:
        table = Table(Path(name), options.rounds, options.seconds)
        for part in options.parts.split(","):
            for what, figure in getattr(table, part)():
                print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
