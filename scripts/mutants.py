"""See scripts/mutants."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SEEDS = ["0", "400"]
LIMIT_S = 900


def main(words: list[str]) -> int:
    """Try those whose names hold all `words`."""
    mutants = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text())
    wanted = [mutant for mutant in mutants if all(word in mutant["name"] for word in words)]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("gateway", "tests", "policies", "examples", "docs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "routes.yaml", "routes.schema.json"):
            shutil.copy(ROOT / name, copy / name)
        for mutant in wanted:
            began_s = time.monotonic()
            noticed = _noticed(mutant, copy)
            survived += not noticed
            print(f"{noticed or 'SURVIVED'} | {mutant['name']} | {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"{len(wanted) - survived} of {len(wanted)} noticed")
    return min(survived, 1)


def _noticed(mutant: dict[str, Any], copy: Path) -> str:
    """What noticed it, in words; "" if nothing did."""
    file = copy / mutant["file"]
    text = changed = file.read_text()
    for was, becomes in mutant["edits"]:
        if changed.count(was) != 1:
            raise SystemExit(f"{mutant['name']}: {mutant['file']} holds this {changed.count(was)} times: {was!r}")
        changed = changed.replace(was, becomes)
    file.write_text(changed)
    try:
        return _run(mutant["killed_by"], copy)
    finally:
        file.write_text(text)


def _run(killed_by: str, copy: Path) -> str:
    simulated = killed_by == "simulation"
    command = ["tests.simulation", "--first", *SEEDS] if simulated else ["pytest", "-x", "-n", "0", *killed_by.split()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it hangs for {LIMIT_S} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("seed", "FAILED"))]
    return lines[0] if done.returncode and lines else "it does not run" if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
