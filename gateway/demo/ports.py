"""The demo's configuration on other ports, so that two demos, or a demo and something else, run side by side."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_LOOPBACK = re.compile(r"\b(127\.0\.0\.1|localhost|\[::1\]):(\d+)\b")
_HIGHEST = 65535


def moved(file: Path, offset: int, folder: Path) -> Path:
    """A copy of `file` in `folder` with `offset` added to every loopback port; what lies beside it is linked.

    Raises ValueError for a port that does not exist.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for other in file.parent.iterdir():
        if other.name != file.name:
            (folder / other.name).symlink_to(other)

    def add(address: re.Match[str]) -> str:
        port = int(address[2]) + offset
        if not 0 < port <= _HIGHEST:
            raise ValueError(f"port {address[2]} + {offset} is no port")
        return f"{address[1]}:{port}"

    copy = folder / file.name
    copy.write_text(_LOOPBACK.sub(add, file.read_text()))
    return copy
