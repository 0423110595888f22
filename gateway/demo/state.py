"""How `gateway drill` finds the running demo: a file that only this user can read."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gateway.demo.tokens import PEOPLE


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


def _file(offset: int) -> Path:
    return runtime_folder() / (f"state-{offset}.json" if offset else "state.json")


def token_file(person: str, offset: int) -> Path:
    """Where the token of a person is while the demo runs."""
    return runtime_folder() / (f"{person}-{offset}.token" if offset else f"{person}.token")


def write(state: DemoState, offset: int = 0) -> None:
    """Leave the state for drills, and a file with each token. `offset`: of the demo's ports."""
    for person, token in state.tokens.items():
        _write(token_file(person, offset), token)
    _write(_file(offset), json.dumps(asdict(state)))


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def read(offset: int = 0) -> DemoState | None:
    """The running demo, None if there is none."""
    try:
        state = DemoState(**json.loads(_file(offset).read_text()))
        os.kill(state.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return state


def forget(offset: int = 0) -> None:
    """The demo has ended."""
    for file in (_file(offset), *(token_file(person, offset) for person in PEOPLE)):
        file.unlink(missing_ok=True)
