"""An authorized request does not become more expensive unnoticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.hazard, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
NOT_COMPARED = 3


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is missing (scripts/install-foreign)")
def test_an_authorized_request_has_hardly_more_instructions_than_the_repository_says() -> None:
    count = [sys.executable, "bench/count_instructions.py", "authorized"]
    done = subprocess.run(count, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode == NOT_COMPARED:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
