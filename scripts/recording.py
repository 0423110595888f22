"""Makes docs/outage.svg: a terminal in which IAM is stopped and asked for. Run as `python scripts/recording.py`.

The commands are run by bash, and what they print is shown as it is; only waiting is shortened. `gateway` is the one
beside this Python. The demo takes its usual ports, so nothing else may run there.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WANTED: Final = Path(__file__).parents[1] / "docs" / "outage.svg"
COLUMNS: Final = 92
CHAR: Final = 8.4  # pixels of a character at 14 px
LINE: Final = 20
LENGTH_S: Final = 20.0
REST_S: Final = 3.5  # the end stands still before all begins again
END: Final = "--end--"


@dataclass(frozen=True)
class Step:
    """A command. `wait` stands before it and is run, not shown; `note` is a remark above it."""

    command: str
    note: str = ""
    wait: str = ""
    pause: float = 1.0


STEPS: Final = (
    Step("gateway demo --quiet >demo.log 2>&1 &", "# toy systems, an IAM and the gateway on this machine"),
    Step('eval "$(gateway demo env)"', wait="until gateway demo env >/dev/null 2>&1; do sleep 0.2; done"),
    Step(
        "alice() { curl -si -H \"Authorization: Bearer $ALICE\" $GATEWAY$1 | grep -iE '^HTTP|^retry|^x-gateway|^{'; }"
    ),
    Step("alice /inventory/7", "# IAM permits: the request is forwarded"),
    Step("gateway drill iam-down --for 25s >drill.log &", "# kill IAM", wait="alice /monitoring/alarms >/dev/null"),
    Step(
        "alice /inventory/7",
        "# nobody can say whether alice may: 503 at once, with the seconds until the next try",
        wait="until alice /inventory/7 | grep -q circuit_open; do sleep 0.3; done",
    ),
    Step(
        "alice /monitoring/alarms",
        "# this route allows what was permitted within the last 60 seconds",
        wait="until alice /monitoring/alarms | grep -q stale; do sleep 0.3; done",
    ),
    Step("gateway status | grep -E '^IAM|^down'", "# what the person on call sees", pause=0.6),
)


def run(steps: tuple[Step, ...]) -> list[list[str]]:
    """What each command printed, in a folder of its own."""
    script = ["set +m"]
    for step in steps:
        if step.wait:
            script.append(f"{{ {step.wait}; }} </dev/null")
        script += [step.command, f"echo {END}"]
    script += ["kill $(jobs -p); wait"]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["/bin/bash", "-c", "\n".join(script)],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    parts = done.stdout.split(END + "\n")
    if len(parts) != len(steps) + 1:
        raise SystemExit(f"the session broke off:\n{done.stdout}\n{done.stderr}")
    return [part.splitlines() for part in parts[:-1]]


@dataclass(frozen=True)
class Piece:
    """Some text that appears at a time, at a place."""

    at: float
    row: int
    column: int
    text: str
    kind: str


def pieces(steps: tuple[Step, ...], outputs: list[list[str]]) -> tuple[list[Piece], int]:
    """What appears when, in seconds that are scaled to the whole later; and the number of rows."""
    shown: list[Piece] = []
    now, row = 0.4, 0
    for step, output in zip(steps, outputs, strict=True):
        if step.note:
            shown.append(Piece(now, row, 0, step.note, "note"))
            row += 1
            now += 0.6
        for line in textwrap.wrap(step.command, COLUMNS - 2, break_on_hyphens=False):
            shown.append(Piece(now, row, 0, "$ " if line == step.command[: len(line)] else "> ", "prompt"))
            column = 2
            for word in line.split(" "):
                shown.append(Piece(now, row, column, word, "typed"))
                column += len(word) + 1
                now += 0.12
            row += 1
        now += 0.3
        for text in output:
            for line in textwrap.wrap(text, COLUMNS) or [""]:
                shown.append(Piece(now, row, 0, line, kind_of(text)))
                row += 1
        now += step.pause if output else 0.3
    return shown, row


def kind_of(line: str) -> str:
    """The class of a line that was printed."""
    if line.startswith("HTTP/1.1 200"):
        return "good"
    return "bad" if line.startswith(("HTTP/1.1 5", "retry-after", "down")) else "out"


def drawn(shown: list[Piece], rows: int) -> str:
    """The picture. Without animation everything stands there."""
    last = max(piece.at for piece in shown)
    scale = (LENGTH_S - REST_S) / last
    moments = sorted({piece.at for piece in shown})
    width, height = round(COLUMNS * CHAR) + 40, rows * LINE + 40
    styles = [
        f"@keyframes a{number} {{0%,{percent(moment * scale)} {{opacity:0}} {percent(moment * scale + 0.05)},100% "
        f"{{opacity:1}}}} .a{number} {{animation:a{number} {LENGTH_S:g}s infinite}}"
        for number, moment in enumerate(moments)
    ]
    texts = [
        f'<text class="{piece.kind} a{moments.index(piece.at)}" x="{20 + piece.column * CHAR:.1f}" '
        f'y="{36 + piece.row * LINE}">{html.escape(piece.text)}</text>'
        for piece in shown
        if piece.text
    ]
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            "<title>A terminal: the demo starts, IAM is killed, the gateway answers 503 with Retry-After</title>",
            "<style>",
            "text {font: 14px ui-monospace, Menlo, Consolas, monospace; white-space: pre; fill: #d8dee9}",
            ".note {fill: #8fa1b3} .prompt {fill: #a3be8c} .good {fill: #a3be8c} .bad {fill: #ff8f80}",
            *styles,
            "@media (prefers-reduced-motion: reduce) {text {animation: none !important}}",
            "</style>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#20242c"/>',
            *texts,
            "</svg>",
            "",
        ]
    )


def percent(seconds: float) -> str:
    """A moment of the whole."""
    return f"{100 * seconds / LENGTH_S:.2f}%"


if __name__ == "__main__":
    WANTED.write_text(drawn(*pieces(STEPS, run(STEPS))), encoding="utf-8")
    sys.stdout.write(f"{WANTED}\n")
