"""YAML and JSON files of others, with the line of every value."""

from __future__ import annotations

from gateway.config.problems import Problems
from gateway.config.tree import Node
from gateway.config.yaml_reader import read_yaml
from gateway.starter.draft import NotUnderstoodError


def read_tree(file: str, content: bytes) -> Node:
    """The tree of a file. Raises NotUnderstoodError with every mistake."""
    problems = Problems()
    tree = read_yaml(file, content, problems)
    if tree is None:
        raise NotUnderstoodError("\n".join(map(str, problems.errors)))
    return tree


def text_of(node: Node | None) -> str:
    """The text of a value, "" where there is none."""
    return str(node.value) if node is not None and isinstance(node.value, str | int | float) else ""
