"""Resilience policies: the built-in ones, those of `policies/`, and a route on top of one.

A file of the same name replaces a built-in policy. Every file is validated, used or not. A route's (or part's) keys go
over the policy's, the server's defaults below both; see `tree.merge` for how.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

from gateway.config.files import Files
from gateway.config.keys import Keys
from gateway.config.problems import Mark, Problems, near, quoted
from gateway.config.resilience import CallKeys, PolicyKeys
from gateway.config.tree import Interpolation, Node, merge
from gateway.config.validate import BUILT_IN, Section, refuse_pending, validate
from gateway.config.yaml_reader import read_yaml

BUILT_IN_NAMES: Final = ("fail-closed", "degrade-stale", "navigation", "audit")
FOLDER: Final = "policies"
_PACKAGED: Final = "builtin"
ACCESS_FOLDER: Final = "access"
_DECIDING: Final = frozenset({".cedar", ".json"})
C = TypeVar("C", bound=CallKeys)


def built_in_policies() -> dict[str, Node]:
    """The built-in policies by name."""
    found = {name: read_yaml(BUILT_IN, built_in_text(name).encode(), Problems()) for name in BUILT_IN_NAMES}
    return {name: node for name, node in found.items() if node is not None}


def built_in_text(name: str) -> str:
    """A built-in policy as the file that would replace it."""
    return (resources.files("gateway.config") / _PACKAGED / f"{name}.yaml").read_text(encoding="utf-8")


def read_policies(shown: Path, files: Files, interpolate: Interpolation, problems: Problems) -> dict[str, Node]:
    """The policies of the folder `policies` by name. `shown`: the folder of routes.yaml as the user named it."""
    policies: dict[str, Node] = {}
    for path in _listing(files, shown / FOLDER, problems):
        if path.suffix == ".yml":
            problems.warning(Mark(str(path)), "policy-not-read", f"not read: name it {path.stem}.yaml")
        elif path.suffix == ".yaml":
            mark = Mark(str(path))
            content = files.read(mark, f"{FOLDER}/{path.name}")
            node = read_yaml(str(path), content, problems) if content is not None else None
            if node is not None:
                refuse_pending(node, problems, prefix=(FOLDER, path.stem))
                policies[path.stem] = interpolate(node)
    return policies


def read_access_policies(shown: Path, files: Files, problems: Problems) -> Path | None:
    """Reads (and so watches) all of policies/access; the folder, if it holds policies."""
    folder = shown / FOLDER / ACCESS_FOLDER
    found = [path for path in _listing(files, folder, problems) if files.is_file(path)]
    for path in found:
        files.read(Mark(str(path)), f"{FOLDER}/{ACCESS_FOLDER}/{path.name}")
    has_policies = any(path.suffix == ".cedar" for path in found)
    return files.resolve(f"{FOLDER}/{ACCESS_FOLDER}") if has_policies else None


def access_texts(folder: Path | None, files: Files) -> tuple[tuple[str, bytes], ...]:
    """Name and content of each file in policies/access that decides, as read."""
    return tuple(
        (path.name, content)
        for path, content in sorted(files.contents.items())
        if path.parent == folder and path.suffix in _DECIDING
    )


def _listing(files: Files, folder: Path, problems: Problems) -> Iterable[Path]:
    try:
        return files.listing(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.error(Mark(str(folder)), "unreadable-file", f"the folder can't be read: {error.strerror}")
        return []


def policy_of(section: Section[C], name: str, policies: dict[str, Node], problems: Problems) -> Node | None:
    """The policy that a route names; unknown ones are noted."""
    if name not in policies and section.sound("policy"):
        message = f"there is no policy {quoted(name)}{near(name, policies) or _known(policies)}"
        if name.replace("_", "-").endswith("open"):
            message += " To let reads through while IAM is down: on_iam_failure: [{methods: [GET], degrade: allow}]"
        problems.error(section.at("policy"), "unknown-policy", message)
    return policies.get(name)


def _known(policies: dict[str, Node]) -> str:
    return f"; known: {', '.join(sorted(policies))}"


def overlay(base: Node | None, over: Node, model: type[C], home: Mark) -> Section[C] | None:
    """`model`'s keys of `over` on top of `base`. What is wrong in either was noted where it was read."""
    merged = merge(_only(base, model) if base else None, _only(over, model))
    section = validate(merged or over, model, Problems())
    return section and Section(section.node, section.keys, section.broken, home)


def _only(node: Node, model: type[Keys]) -> Node:
    names = model.model_fields
    members = {name: child for name, child in node.members().items() if name in names}
    return Node(node.mark, members, {name: node.keys[name] for name in members})


def validate_policies(policies: dict[str, Node], problems: Problems) -> list[Section[PolicyKeys]]:
    """Every policy by itself."""
    found = [validate(node, PolicyKeys, problems) for node in policies.values()]
    return [section for section in found if section is not None]
