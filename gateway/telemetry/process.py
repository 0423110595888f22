"""What the operating system says of this process, read when somebody asks; what it does not say is left out.

Linux alone has `/proc`; elsewhere there is only the time of the CPU.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.telemetry.instruments import BUILD, CPU_TIME, MEMORY, MOST_FILES, OPEN_FILES, STARTED
from gateway.telemetry.store import Readings

_PROC: Final = Path("/proc/self")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STARTED_AT: Final = 19
"""Place of `starttime` among the fields behind the command's name (proc_pid_stat(5), field 22)."""


def readings() -> Readings:
    """CPU, memory, files, and when it began."""
    spent = os.times()
    yield BUILD, (__version__, platform.python_version()), 1
    yield CPU_TIME, (), spent.user + spent.system
    yield MOST_FILES, (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.suppress(OSError, ValueError, IndexError):
        yield MEMORY, (), int((_PROC / "statm").read_text().split()[1]) * _PAGE
        yield OPEN_FILES, (), sum(1 for _ in (_PROC / "fd").iterdir())
        yield STARTED, (), round(_started_s(), 2)


def _started_s() -> float:
    """Unix time: when the machine began plus the process's own start in ticks after that."""
    ticks = int((_PROC / "stat").read_text().rpartition(")")[2].split()[_STARTED_AT])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS
