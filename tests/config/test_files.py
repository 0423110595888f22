"""Files: missing, unreadable, not files at all; the hash and the list to watch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigurationError, load
from tests.config.texts import whole


def _line(path: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(path, {})
    assert len(refused.value.problems) == 1
    return str(refused.value)


def test_a_missing_file_is_one_clear_line(tmp_path) -> None:
    path = tmp_path / "routes.yaml"
    assert _line(path) == f"{path}:1:1: error[unreadable-file]: routes.yaml: there is no such file"


def test_a_missing_folder_too(tmp_path) -> None:
    assert "there is no such file" in _line(tmp_path / "no" / "routes.yaml")


def test_a_directory_is_one_clear_line(tmp_path) -> None:
    assert "this is a directory, not a file" in _line(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "routes.yaml")
    assert "this is not a regular file" in _line(tmp_path / "routes.yaml")


def test_an_unreadable_file_is_one_clear_line(tmp_path, monkeypatch) -> None:
    (tmp_path / "routes.yaml").write_text(whole())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "the file may not be read" in _line(tmp_path / "routes.yaml")


def test_a_huge_file_is_not_read_whole(tmp_path) -> None:
    with (tmp_path / "routes.yaml").open("wb") as file:
        file.truncate(20 * 1024 * 1024)
    assert "larger than 16 MiB" in _line(tmp_path / "routes.yaml")


def test_a_name_with_a_null_byte_is_no_file(tmp_path) -> None:
    (tmp_path / "routes.yaml").write_text(whole(server='server: {tls: {cert_file: "a\\0b", key_file: k}}'))
    with pytest.raises(ConfigurationError):
        load(tmp_path / "routes.yaml", {})


def test_the_file_is_named_as_the_user_named_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "routes.yaml").write_text("version: 2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        load(Path("routes.yaml"), {})
    assert str(refused.value).startswith("routes.yaml:1:1: error[missing-key]")


def test_the_hash_changes_with_any_file(load_text, tmp_path) -> None:
    text = whole(iam="iam: {url: http://127.0.0.1, token: '${file:secret}'}")
    (tmp_path / "secret").write_text("one")
    first = load_text(text)
    assert load_text(text).hash == first.hash
    (tmp_path / "secret").write_text("two")
    second = load_text(text)
    third = load_text(text, {"policies/p.yaml": "deadline: 1s\n"})
    assert len({first.hash, second.hash, third.hash}) == 3
    assert len(first.hash) == 64


def test_the_hash_does_not_depend_on_the_folder(load_text, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "routes.yaml").write_text(whole())
    assert load(other / "routes.yaml", {}).hash == load_text(whole()).hash


def test_a_symlink_swap_changes_what_is_read(tmp_path) -> None:
    """A Kubernetes ConfigMap: routes.yaml → ..data/routes.yaml, ..data → a dated folder."""
    for name, deadline in (("..1", "1s"), ("..2", "2s")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "routes.yaml").write_text(whole(server=f"server: {{deadline: {deadline}}}"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    first = load(tmp_path / "routes.yaml", {})
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    second = load(tmp_path / "routes.yaml", {})
    assert (first.server.deadline_s, second.server.deadline_s) == (1, 2)
    assert first.files == second.files == (tmp_path / "routes.yaml",)
