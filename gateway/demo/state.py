"""How `gateway drill` finds the running demo: a file that only this user can read."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoState:
    """Where the demo's parts are. `control` accepts faults with `secret`; `tokens` by person."""

    pid: int
    gateway: str
    admin: str
    control: str
    secret: str = field(repr=False)
    tokens: dict[str, str] = field(repr=False)


def runtime_folder() -> Path:
    """A folder of this user's own, mode 0700."""
    wanted = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(wanted) if wanted and Path(wanted).is_dir() else Path(tempfile.gettempdir())
    folder = base / f"gateway-demo-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    folder.chmod(0o700)
    return folder


def _file() -> Path:
    return runtime_folder() / "state.json"


def write(state: DemoState) -> None:
    """Leave the state for drills."""
    file = _file()
    file.touch(mode=0o600)
    file.write_text(json.dumps(asdict(state)))


def read() -> DemoState | None:
    """The running demo, None if there is none."""
    try:
        state = DemoState(**json.loads(_file().read_text()))
        os.kill(state.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return state


def forget() -> None:
    """The demo has ended."""
    _file().unlink(missing_ok=True)
