"""The files that a package index gets: built as a release builds them, checked as the index checks them."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    ours("hatchling", "build", "-d", str(folder))
    return folder


def ours(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_an_index_takes_both(built: Path) -> None:
    pytest.importorskip("twine", reason="twine is in the dev group")
    said = ours("twine", "check", "--strict", *map(str, sorted(built.iterdir())))
    assert said.count("PASSED") == 2


def test_the_readme_is_shown_as_a_page(built: Path) -> None:
    markdown = pytest.importorskip("readme_renderer.markdown", reason="readme-renderer is in the dev group")
    shown = markdown.render(metadata(built).get_payload())
    assert shown is not None
    assert "<h2" in shown
    assert "<table" in shown
    assert "<pre" in shown


def test_the_metadata_names_the_extras_and_only_addresses_that_exist(built: Path) -> None:
    found = metadata(built)
    assert {"cedar", "otlp", "otlp-grpc"} <= set(found.get_all("Provides-Extra") or [])
    always = [each for each in found.get_all("Requires-Dist") or [] if "extra ==" not in each]
    assert not [each for each in always if each.startswith(("cedarpy", "opentelemetry"))]
    assert found["License-Expression"] == "Apache-2.0"
    assert found.get_all("Project-URL") is None
    assert "github.com/example" not in found.as_string()


def test_the_wheel_has_the_demo_and_the_sdist_what_builds_it(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"gateway/demo/shipped/routes.yaml", "gateway/demo/shipped/policies/access/roles.cedar"} <= names
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as source:
        kept = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "routes.yaml"} <= kept


def metadata(built: Path) -> email.message.Message:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))
