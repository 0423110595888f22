"""CPU time of one decision: beside a proxied request, and behind Envoy beside `ext_authz` with a plain stub.

`python bench/deciding.py` (`--rounds`, `--seconds`). Envoy's configuration is what `gateway export envoy --decide`
prints. Measured in turns, as in `compare.py`; of Envoy's rows the time is Envoy's and that of the program it asks.
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
from dataclasses import dataclass
from pathlib import Path

from contestants import CONFIGS, CONTESTANTS, SCRIPTS, filled
from processes import cpu_s, free_port, running
from tokens import write_jwts

HERE = Path(__file__).parent
CONNECTIONS = 64
PROXIED, DECISION, ENVOY, PLAIN = (
    "gateway, proxied request",
    "gateway, decision",
    "Envoy + decision of the gateway",
    "Envoy's `ext_authz` + plain stub",
)


@dataclass(frozen=True)
class Row:
    """What is measured: a URL, and the programs whose time it takes. The first one's is shown apart."""

    name: str
    url: str
    pids: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = started(stack, folder, cores)
        taken: dict[str, list[list[float]]] = {row.name: [] for row in rows}
        for number in range(options.rounds):
            for row in rows:
                taken[row.name].append(measure(row, folder / "jwts", cores[0], options.seconds))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    report(taken)


def started(stack: contextlib.ExitStack, folder: Path, cores: Sequence[int]) -> list[Row]:
    names = ("PORT", "ADMIN", "DECISIONS", "IAM", "UPSTREAM", "PLAIN", "ENVOY", "ENVOY_ADMIN", "EXT_AUTHZ")
    ports = {name: free_port() for name in names}
    write_jwts(folder / "jwts", folder / "jwks.json")

    def run(command: list[str], port: str, core: int) -> int:
        return stack.enter_context(running(command, ports[port], core=core, log=folder / f"{port}.log"))

    for role, port in (("iam", "IAM"), ("upstream", "UPSTREAM")):
        run([sys.executable, str(HERE / "stub.py"), role, str(ports[port])], port, cores[0])
    plain = run([sys.executable, str(HERE / "stub.py"), "iam", str(ports["PLAIN"])], "PLAIN", cores[-1])
    file = folder / "routes.yaml"
    file.write_text(filled((CONFIGS / "deciding.yaml").read_text(), {name: str(port) for name, port in ports.items()}))
    gateway = run([str(SCRIPTS / "gateway"), "serve", "-c", str(file)], "PORT", cores[-1])
    exported = ("export", "envoy", "--decide", "-c", str(file), "--listen", f"127.0.0.1:{ports['ENVOY']}")
    exported += ("--admin", f"127.0.0.1:{ports['ENVOY_ADMIN']}")
    text = subprocess.run([str(SCRIPTS / "gateway"), *exported], check=True, capture_output=True, text=True).stdout
    (folder / "deciding.yaml").write_text(text)
    (reference,) = (one for one in CONTESTANTS if one.name == "Envoy")
    own = {"PORT": ports["EXT_AUTHZ"], "IAM": ports["PLAIN"], "UPSTREAM": ports["UPSTREAM"]}
    command = reference.written(folder, {name: str(port) for name, port in own.items()})
    asking = run([*command[:1], "-c", str(folder / "deciding.yaml"), *command[3:]], "ENVOY", cores[-1])
    other = run(command, "EXT_AUTHZ", cores[-1])
    return [
        Row(PROXIED, f"http://127.0.0.1:{ports['PORT']}/inventory/x", (gateway,)),
        Row(DECISION, f"http://127.0.0.1:{ports['DECISIONS']}/envoy/inventory/x", (gateway,)),
        Row(PLAIN, f"http://127.0.0.1:{ports['EXT_AUTHZ']}/inventory/x", (other, plain)),
        Row(ENVOY, f"http://127.0.0.1:{ports['ENVOY']}/inventory/x", (asking, gateway)),
    ]


def measure(row: Row, tokens: Path, core: int, seconds: int) -> list[float]:
    """µs a request of each program."""
    load(row, tokens, core, 1)
    begun = [cpu_s(pid) for pid in row.pids]
    said = load(row, tokens, core, seconds)
    used = [cpu_s(pid) - before for pid, before in zip(row.pids, begun, strict=True)]
    found = re.search(r"(\d+) requests in", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{row.name} failed:\n{said}")
    return [one / int(found[1]) * 1e6 for one in used]


def load(row: Row, tokens: Path, core: int, seconds: int) -> str:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s"]
    command += [str(HERE / "users.lua"), row.url, "--", str(tokens)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def report(taken: dict[str, list[list[float]]]) -> None:
    print("| | CPU µs a request | of it the one asked | ratio |\n|---|---:|---:|---:|")
    for name, beside in ((PROXIED, PROXIED), (DECISION, PROXIED), (PLAIN, PLAIN), (ENVOY, PLAIN)):
        sums = [sum(sample) for sample in taken[name]]
        ratios = [one / sum(other) for one, other in zip(sums, taken[beside], strict=True)]
        asked = statistics.median(sample[-1] for sample in taken[name])
        share = f"{asked:.0f}" if len(taken[name][0]) > 1 else ""
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {statistics.median(sums):.0f} | {share} | {spread} |")


if __name__ == "__main__":
    main()
