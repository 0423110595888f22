"""Puts faults into the running code, one at a time, and shows which tests notice: see scripts/mutants.

All tests are imported once. Each fault gets a fork of that process, in which the functions that it changes get their
changed code; then the tests that must notice run until one fails. So a fault costs only those tests. A test that starts
the gateway as a process sees no fault.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import select
import signal
import sys
import time
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
AREAS = ROOT / "tests" / "mutants"
SEEDS = range(400)
LIMIT_S = 900
AT_ONCE = int(os.environ.get("TEST_WORKERS", "2"))
SIMULATION = "simulation"
BROKEN = "CANNOT BE PUT IN"


class Mutant:
    """One fault: what it changes, and who must notice."""

    def __init__(self, area: str, entry: dict[str, Any], sources: dict[Path, str]) -> None:
        self.area, self.name = area, entry["name"]
        self.killed_by = entry["killed_by"].split()
        self.equivalent = entry.get("equivalent", "")
        edits = entry.get("edits") or [entry]
        was, beside = edits[0]["was"], entry.get("beside", "")
        files = [path for path, text in sources.items() if was in text and beside in text]
        if len(files) != 1:
            raise SystemExit(f"{area}, {self.name}: {len(files)} files hold {was!r}")
        self.file = files[0]
        self.text = sources[self.file]
        self.changed = self.text
        for edit in edits:
            if (times := self.changed.count(edit["was"])) != 1:
                raise SystemExit(f"{area}, {self.name}: {self.file.name} holds {times} times {edit['was']!r}")
            self.changed = self.changed.replace(edit["was"], edit["is"])

    def put_in(self) -> None:
        """Change this process."""
        before, after = _codes(self.text, self.file), _codes(self.changed, self.file)
        differ = {name for name, code in after.items() if before.get(name) != code}
        changed = 0
        for function in gc.get_objects():
            if not isinstance(function, types.FunctionType) or function.__code__.co_filename != str(self.file):
                continue
            name = function.__code__.co_qualname
            if name in differ:
                function.__code__ = after[name]
                changed += 1
        changed += self._constants()
        if not changed:
            raise SystemExit(f"{self.name}: no function and no constant is another one")

    def _constants(self) -> int:
        """Constants of a module, also where they were imported to."""
        old, new = (
            {ast.unparse(node.target): ast.unparse(node.value) for node in ast.parse(text).body if _is_constant(node)}
            for text in (self.text, self.changed)
        )
        changed = 0
        for name in (name for name, value in new.items() if old.get(name) != value):
            here = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == str(self.file))
            was, becomes = getattr(here, name), eval(new[name], vars(here))  # noqa: S307 - our own list
            for module in list(sys.modules.values()):
                if module.__name__.startswith("gateway") and vars(module).get(name) is was:
                    setattr(module, name, becomes)
                    changed += 1
        return changed


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None


def _codes(text: str, file: Path) -> dict[str, types.CodeType]:
    """By qualified name: the code of every function."""
    found: dict[str, types.CodeType] = {}
    todo = [compile(text, str(file), "exec", dont_inherit=True)]
    while todo:
        for code in todo.pop().co_consts:
            if isinstance(code, types.CodeType):
                found[code.co_qualname] = code
                todo.append(code)
    return found


class Runner:
    """A plugin of pytest: instead of running what was collected, runs it once without and once with each fault."""

    def __init__(self, mutants: list[Mutant]) -> None:
        self.mutants = mutants
        self.failed = ""
        self.survived = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every fault."""
        self.session = session
        sound = sorted({" ".join(mutant.killed_by) for mutant in self.mutants if SIMULATION not in mutant.killed_by})
        for tests, failed, _ in self._each([(None, tests.split(), tests) for tests in sound]):
            if failed:
                raise SystemExit(f"fails without any fault: {failed} ({tests})")
        results: dict[str, list[bool]] = defaultdict(list)
        argued = [mutant for mutant in self.mutants if mutant.equivalent]
        run = [(mutant, mutant.killed_by, mutant) for mutant in self.mutants if not mutant.equivalent]
        for mutant, failed, seconds in self._each(run):
            results[mutant.area].append(bool(failed) and not failed.startswith(BROKEN))
            print(f"{failed or 'SURVIVED'} | {mutant.area}: {mutant.name} | {seconds:.0f} s", flush=True)
        print("\n| folder | noticed | argued as equivalent |\n|---|---:|---:|")
        for area, noticed in sorted(results.items()):
            print(f"| {area} | {sum(noticed)} of {len(noticed)} | {sum(m.area == area for m in argued)} |")
            self.survived += len(noticed) - sum(noticed)
        return True

    def _each(self, work: list[tuple[Mutant | None, list[str], Any]]) -> Any:
        """Yields what was worked on, what failed and how long it took, a few at a time."""
        waiting, running = list(reversed(work)), {}
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                mutant, tests, what = waiting.pop()
                reading, writing = os.pipe()
                pid = os.fork()
                if not pid:
                    os.setpgrp()
                    self._child(mutant, tests, writing)
                os.close(writing)
                running[reading] = (pid, what, time.monotonic())
            ready, _, _ = select.select(list(running), [], [], 5)
            late = [r for r, (_, _, began_s) in running.items() if time.monotonic() - began_s > LIMIT_S]
            for reading in {*ready, *late}:
                pid, what, began_s = running.pop(reading)
                failed = f"it hangs for {LIMIT_S} s"
                if reading in ready:
                    failed = os.read(reading, 1000).decode(errors="replace")
                os.close(reading)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                yield what, failed, time.monotonic() - began_s

    def _child(self, mutant: Mutant | None, tests: list[str], writing: int) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (1, 2):
            os.dup2(nothing, standard)
        try:
            if mutant is not None:
                try:
                    mutant.put_in()
                except BaseException as error:  # noqa: BLE001 - not what was meant to be tried
                    os.write(writing, f"{BROKEN}: {error!r}".encode()[:1000])
                    os._exit(1)
            failed = _simulated() if SIMULATION in tests else self._run(tests)
        except BaseException as error:  # noqa: BLE001 - whatever ends it is told
            failed = f"it does not run: {error!r}"
        os.write(writing, failed.encode()[:1000])
        os._exit(0)

    def _run(self, tests: list[str]) -> str:
        """The first test that fails; "" if none does."""
        prefixes = tuple(tests)
        items = [item for item in self.session.items if item.nodeid.startswith(prefixes)]
        if not items:
            return f"no such tests: {tests}"
        for item, after in zip(items, [*items[1:], None], strict=True):
            self.session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                break
        return self.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the first that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _simulated() -> str:
    from tests.simulation.play import play

    for seed in SEEDS:
        try:
            play(seed)
        except AssertionError as error:
            return f"{SIMULATION}, seed {seed}: {str(error).splitlines()[0][:120]}"
    return ""


def main(words: list[str]) -> int:
    """Try those whose area or name holds one of `words`; all without words."""
    sources = {path: path.read_text() for path in sorted((ROOT / "gateway").rglob("*.py"))}
    mutants = [
        Mutant(file.stem, entry, sources)
        for file in sorted(AREAS.glob("*.yaml"))
        for entry in yaml.safe_load(file.read_text())
        if not words or any(word in f"{file.stem}: {entry['name']}" for word in words)
    ]
    sys.path.insert(0, str(ROOT))
    runner = Runner(mutants)
    tests = sorted({test for mutant in mutants for test in mutant.killed_by if test != SIMULATION})
    if any(SIMULATION in mutant.killed_by for mutant in mutants):
        tests.append("tests/simulation")
    options = ["-n", "0", "-qq", "-s", "-p", "no:cacheprovider", "--timeout", "120"]
    ended = pytest.main([*options, *tests], plugins=[runner])
    return int(ended) or min(runner.survived, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
