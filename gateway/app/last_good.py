"""The last good configuration of a gateway with workers: what a worker serves that starts while the file is broken.

The workers share a file in memory (`memfd_create(2)`), which the supervisor holds open: nothing of it is on a disk, and
it outlives every worker. It holds the contents of every file that was read, so that a worker loads exactly the
configuration that the others serve, by the same checks.
"""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config import ConfigurationError, load
from gateway.model.settings import Configuration
from gateway.pdp.check import access_problems, needs_access_policies

_CHUNK: Final = 1 << 20


class LastGood:
    """The shared file, by its number, which workers inherit."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def create(cls) -> LastGood:
        """An empty one. Raises OSError."""
        return cls(os.memfd_create("gateway-configuration"))

    def keep(self, configuration: Configuration) -> None:
        """This one serves now."""
        held = {str(path): base64.b64encode(content).decode() for path, content in configuration.contents.items()}
        data = json.dumps(held).encode()
        fcntl.lockf(self.number, fcntl.LOCK_EX)
        try:
            os.ftruncate(self.number, 0)
            at = 0
            while at < len(data):
                at += os.pwrite(self.number, data[at : at + _CHUNK], at)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN)

    def load(self, file: Path, environ: Mapping[str, str], folder: Path) -> Configuration:
        """The one that was kept last; its access policies are written below `folder`.

        Raises ConfigurationError, and ValueError if none was kept.
        """
        fcntl.lockf(self.number, fcntl.LOCK_EX)
        try:
            data = os.pread(self.number, os.fstat(self.number).st_size, 0)
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN)
        contents = {Path(path): base64.b64decode(content) for path, content in json.loads(data).items()}
        return _with_policies(load(file, environ, contents), folder)


def load_for_worker(file: Path, last_good: LastGood, folder: Path) -> tuple[Configuration, list[str]]:
    """What a worker serves at its start: the file, or the last good one, and what is wrong with the file then.

    Raises ConfigurationError or ValueError if there is no good one either. `folder`: private, not kept.
    """
    try:
        return _checked(file), []
    except (ConfigurationError, ValueError) as error:
        problems = str(error).splitlines()
        try:
            return last_good.load(file, os.environ, folder), problems
        except ValueError:
            raise error from None


def _checked(file: Path) -> Configuration:
    configuration = load(file, os.environ)
    if needs_access_policies(configuration) and (mistakes := access_problems(configuration)):
        raise ValueError("\n".join(map(str, mistakes)))
    return configuration


def _with_policies(configuration: Configuration, folder: Path) -> Configuration:
    """With its access policies in a folder of their own, as the decision point reads them from one."""
    if configuration.access_policies is None:
        return configuration
    home = Path(tempfile.mkdtemp(prefix="policies-", dir=folder))
    for path, content in configuration.contents.items():
        if path.parent == configuration.access_policies:
            (home / path.name).write_bytes(content)
    return dataclasses.replace(configuration, access_policies=home)
