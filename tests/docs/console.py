"""Documents as sessions: their files are written, their commands run, their output compared.

- A fence ```` ```yaml routes.yaml ```` (a second word with a dot) is a file.
- A fence ```` ```console tested ```` is a session: lines after `$ ` are commands, what follows is a part of the output,
  line by line, in order; `…` stands for anything. A comment `<!-- tested … -->` is one that readers do not see.
- The ports of the documents are replaced by free ones, also where `gateway serve`, `status` and `reload` take defaults.
- A command with ` &` is waited for until it listens.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.conftest import free_port

PORTS = ("8080", "9901", "8181", "8282", "9000", "3593", "8081")
_BLOCK = re.compile(
    r"^```(?P<kind>\w+) (?P<word>\S+)\n(?P<text>.*?)^```$|^<!-- tested\n(?P<hidden>.*?)^-->$", re.MULTILINE | re.DOTALL
)
_PORT = re.compile(rf"(?<=[: ])({'|'.join(PORTS)})\b")
_OPERATOR = re.compile(r"gateway (?:status|reload)(?= |$)")
_SERVE = re.compile(r"gateway serve -c \S+?(?=[ ;]|$)")
PATIENCE_S = 30.0


@dataclass
class Step:
    """A command with what it should print, or a file with its content."""

    command: str = ""
    expected: list[str] = field(default_factory=list)
    file: str = ""
    content: str = ""


def steps(document: Path) -> list[Step]:
    """What a document does, in order."""
    found = []
    for block in _BLOCK.finditer(document.read_text()):
        if block["hidden"] is not None:
            found += _commands(block["hidden"])
        elif block["kind"] == "console" and block["word"] == "tested":
            found += _commands(block["text"])
        elif "." in block["word"]:
            found.append(Step(file=block["word"], content=block["text"]))
    return found


def _commands(text: str) -> list[Step]:
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Step(command=line[2:]))
        elif found and found[-1].command.endswith("\\"):
            found[-1].command += "\n" + line
        elif line.strip():
            found[-1].expected.append(line.strip())
    return found


class Session:
    """A folder in which a document is followed."""

    def __init__(self, folder: Path, *, patience_s: float = PATIENCE_S) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._ports = {port: str(free_port()) for port in PORTS}
        self._groups: list[int] = []

    def follow(self, step: Step) -> None:
        """Do what it says. AssertionError where the output is not as documented."""
        if step.file:
            path = self._folder / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(step.content))
            return
        own = f" --listen 127.0.0.1:{self._ports['8080']} --admin 127.0.0.1:{self._ports['9901']}"
        command = _SERVE.sub(rf"\g<0>{own}", self._here(step.command))
        output = self._run(_OPERATOR.sub(rf"\g<0> --admin http://127.0.0.1:{self._ports['9901']}", command))
        assert _occur(step.expected, output), f"$ {step.command}\n{output}"

    def port(self, documented: str) -> str:
        """The port that stands here for one of the documents'."""
        return self._ports[documented]

    def end(self) -> None:
        """Stop everything that was started."""
        for group in reversed(self._groups):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _here(self, text: str) -> str:
        return _PORT.sub(lambda match: self._ports[match[1]], text)

    def _there(self, text: str) -> str:
        for port, own in self._ports.items():
            text = text.replace(f":{own}", f":{port}")
        return text

    def _run(self, command: str) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = self._folder / ".output"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the documents' own commands
                ["/bin/bash", "-c", command],
                cwd=self._folder,
                env={**os.environ, "PATH": path, "NO_COLOR": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            process.wait(self._patience_s)
        if " &" in command and "&& " not in command:
            self._wait_for(command)
        return self._there(log.read_text())

    def _wait_for(self, command: str) -> None:
        end = time.monotonic() + self._patience_s
        wanted = self._ports["9901"] if "gateway serve" in command else ""
        ports = [wanted] if wanted else [port for port in self._ports.values() if re.search(rf"[: ]{port}\b", command)]
        while not all(_ready(port) if wanted else _listens(port) for port in ports):
            assert time.monotonic() < end, f"$ {command}\nnever listened"
            time.sleep(0.1)


def _listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def _ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _occur(expected: list[str], output: str) -> bool:
    lines = iter(line.strip() for line in output.splitlines())
    patterns = [re.escape(line).replace("…", ".*") for line in expected]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)
