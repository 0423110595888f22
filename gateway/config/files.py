"""Every file of a configuration, read once: what was read makes the configuration's hash and the list to watch."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.problems import Mark, Problems

# A file that can't be read is one mistake at the place that names it. Only regular files are read, so that a pipe or
# a device can't hold up the start.

MAX_BYTES: Final = 16 * 1024 * 1024
_REASONS: Final[dict[type[OSError], str]] = {
    FileNotFoundError: "there is no such file",
    NotADirectoryError: "there is no such file",
    IsADirectoryError: "this is a directory, not a file",
    PermissionError: "the file may not be read",
}


class Files:
    """The files read so far. `folder` is where relative paths start.

    `contents`: what was read once, to be read again instead of what the files hold now.
    """

    def __init__(self, folder: Path, problems: Problems, contents: Mapping[Path, bytes] | None = None) -> None:
        self.folder = folder
        self._problems = problems
        self._given = contents
        self._contents: dict[Path, bytes] = {}

    def resolve(self, name: str) -> Path:
        """The absolute path of a file that the configuration names."""
        return Path(os.path.abspath(self.folder / name))  # resolve() would lose a ConfigMap's symlinks

    def read(self, mark: Mark, name: str) -> bytes | None:
        """The content, or None with a mistake noted at `mark`."""
        path = self.resolve(name)
        if path not in self._contents:
            try:
                self._contents[path] = _content(path) if self._given is None else _given(self._given, path)
            except (OSError, ValueError) as error:
                self._problems.error(mark, "unreadable-file", f"{name}: {_reason(error)}")
                return None
        return self._contents[path]

    def read_text(self, mark: Mark, name: str) -> str | None:
        """The content as text without the line break at its end, or None with a mistake noted."""
        content = self.read(mark, name)
        try:
            return None if content is None else content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            self._problems.error(mark, "not-utf-8", f"{name}: the file is not UTF-8")
            return None

    def listing(self, folder: Path) -> list[Path]:
        """What is in a folder. Raises OSError."""
        if self._given is None:
            return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        whole = Path(os.path.abspath(folder))  # as `resolve`
        return [folder / path.name for path in sorted(self._given) if path.parent == whole]

    def is_file(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.is_file() if self._given is None else True

    @property
    def contents(self) -> dict[Path, bytes]:
        """What every file held."""
        return dict(self._contents)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files read, in order."""
        return tuple(sorted(self._contents))

    @property
    def hash(self) -> str:
        """SHA-256 over names and contents of all files read."""
        total = hashlib.sha256()
        for path in self.paths:
            name = os.path.relpath(path, self.folder).encode("utf-8", "surrogateescape")
            total.update(b"%d:%b%d:" % (len(name), name, len(self._contents[path])))
            total.update(self._contents[path])
        return total.hexdigest()


def _given(contents: Mapping[Path, bytes], path: Path) -> bytes:
    if path not in contents:
        raise FileNotFoundError
    return contents[path]


def _content(path: Path) -> bytes:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError("this is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return content


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return _REASONS.get(type(error), error.strerror or "the file can't be read")
    return "there is no such file" if "null byte" in str(error) else str(error)


# Whether TLS files are what they are named for: found out at load, not at the first connection.


def check_pair(mark: Mark, cert_file: Path | None, key_file: Path | None, problems: Problems) -> None:
    """Notes a certificate and key that can't be used together. Files that could not be read were noted before."""
    if cert_file is None or key_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password=str)
    except (ssl.SSLError, OSError, ValueError):
        message = "cert_file and key_file are not a PEM certificate and its key (without a passphrase)"
        problems.error(mark, "bad-certificate", message)


def check_authorities(mark: Mark, file: Path | None, problems: Problems) -> None:
    """Notes a file of authorities that holds no certificate."""
    if file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError, ValueError):
        problems.error(mark, "bad-certificate", f"{file.name} holds no PEM certificates")
