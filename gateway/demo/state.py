"""Where the demo is: its files, ports, key and tokens, and how `gateway drill` finds it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.jwk import ECKey

import gateway

# The demo's configuration on other ports, so that two demos, or a demo and something else, run side by side.

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


# Where the shipped routes.yaml and policies are: beside the package in a checkout, inside it in an installed wheel.


def shipped_folder() -> Path:
    """The folder that holds routes.yaml and policies/."""
    package = Path(gateway.__file__).parent
    inside = package / "demo" / "shipped"
    return inside if inside.is_dir() else package.parent


# A key made for this run, its public half as a JWKS file, and tokens for the demo's people.

ISSUER: Final = "https://idp.demo.invalid"
AUDIENCE: Final = "platform"
PEOPLE: Final = {"alice": "operator", "bob": "viewer", "mallory": "no rights"}
LIFETIME_S: Final = 8 * 3600


class Issuer:
    """Signs tokens with a key that lives as long as this object."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256", {"kid": "demo", "use": "sig", "alg": "ES256"})

    def write_jwks(self, file: Path) -> None:
        """The public key as a JWK set (RFC 7517 section 5)."""
        file.write_text(json.dumps({"keys": [self._key.as_dict(private=False)]}))

    def token(self, subject: str, lifetime_s: int = LIFETIME_S) -> str:
        """A token for one person."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + lifetime_s}
        return jwt.encode({"alg": "ES256", "kid": "demo"}, claims, self._key)


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
