"""Tells a flaky test from a broken one, in sight: what failed is tried once more, alone, at the end of its session.

A test that fails twice has failed. One that passes then is counted and named as flaky, with its first failure, and more
than two of them make the session red. scripts/test loads this (`-p tests.support.second_try`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

FLAKY_ALLOWED = 2
_TOO_MANY = 20  # so many failures are no accident
_BEGAN_S = time.monotonic()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # in the process that reports, not in those that run the tests
        config.pluginmanager.register(SecondTry(config), "second-try")


class SecondTry:
    """What failed in this session, and what of it was flaky."""

    def __init__(self, config: pytest.Config) -> None:
        self.reporter: Any = None
        self.config = config
        self.flaky: dict[str, pytest.TestReport] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self.reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if exitstatus != pytest.ExitCode.TESTS_FAILED:
            return
        failed = self._failed()
        if len(failed) > _TOO_MANY:
            return
        again = self._fail_again(sorted(failed))
        self.flaky = {test: report for test, report in failed.items() if test not in again}
        self._count()
        if not again and len(self.flaky) <= FLAKY_ALLOWED:
            session.exitstatus = pytest.ExitCode.OK

    def _failed(self) -> dict[str, pytest.TestReport]:
        stats = self.reporter.stats
        return {report.nodeid: report for kind in ("failed", "error") for report in stats.get(kind, [])}

    def _fail_again(self, tests: list[str]) -> set[str]:
        """Those of `tests` that fail in a process of their own."""
        sys.stdout.flush()
        self.reporter.ensure_newline()
        self.reporter.write_line(f"once more, alone: {len(tests)} that failed")
        with tempfile.TemporaryDirectory() as folder:
            options = ["-q", "-n", "0", "-m", "", "-o", f"cache_dir={folder}", "--timeout", "300"]
            done = subprocess.run(  # noqa: S603 - the names of tests of this session
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=self.config.rootpath,
                stdout=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode == pytest.ExitCode.OK:
                return set()
            last = Path(folder) / "v" / "cache" / "lastfailed"
            failed = set(json.loads(last.read_text())) if last.exists() else set()
        return failed if failed and done.returncode == pytest.ExitCode.TESTS_FAILED else set(tests)

    def _count(self) -> None:
        """Moves what was flaky to a count of its own, which the closing line shows."""
        if not self.flaky:
            return
        stats = self.reporter.stats
        for kind in ("failed", "error"):
            stats[kind] = [report for report in stats.get(kind, []) if report.nodeid not in self.flaky]
            if not stats[kind]:
                del stats[kind]
        stats["flaky"] = list(self.flaky.values())
        self.reporter._main_color = None  # what is known of kinds of outcome is read anew

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for report in self.flaky.values():
            terminalreporter.section(f"flaky: {report.nodeid}", sep="_")
            terminalreporter.write_line(str(report.longreprtext))
        if self.flaky:
            terminalreporter.section(f"{len(self.flaky)} flaky, {FLAKY_ALLOWED} are allowed", sep="=")
            for test in self.flaky:
                terminalreporter.write_line(f"FLAKY {test}")
        tier = os.environ.get("TEST_TIER")
        if tier:
            before = os.environ.get("TEST_TIMES", "")
            terminalreporter.write_line(f"times: {before}{tier} {time.monotonic() - _BEGAN_S:.0f} s")
