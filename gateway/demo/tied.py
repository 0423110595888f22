"""A part of the demo that ends with its parent, also when that is killed: `python -m gateway.demo.tied serve …`.

The parent holds the other end of standard input and never writes. When it is gone, this process is told to end, and is
ended a moment later.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_MOMENT_S = 1.0


def main() -> None:
    """Run the command of the arguments."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("gateway", run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_MOMENT_S)
    os._exit(1)


if __name__ == "__main__":
    main()
