"""A first routes.yaml: from two answers, or from the configuration of the proxy or API that is there already.

Rule: every route of a starter asks IAM. What another file leaves open to everybody is not made public here.
"""

from __future__ import annotations

from pathlib import Path

from gateway.starter.block_files import read_caddyfile, read_nginx
from gateway.starter.draft import Draft, NotUnderstoodError
from gateway.starter.text import EMBEDDED, policy_files, starter
from gateway.starter.tree_files import read_openapi, read_traefik, read_tree

__all__ = ["EMBEDDED", "Draft", "NotUnderstoodError", "policy_files", "read_foreign", "starter"]


def read_foreign(file: Path, service: str = "") -> Draft:
    """What was understood of a file, by its name and content. Raises NotUnderstoodError, OSError.

    `service` is the URL of the service that an OpenAPI document describes, where the document does not name it.
    """
    if file.suffix == ".conf":
        return read_nginx(str(file), file.read_text(encoding="utf-8"))
    if file.suffix in {".yml", ".yaml", ".json"}:
        tree = read_tree(str(file), file.read_bytes())
        return read_openapi(tree, service) if tree.get("paths") is not None else read_traefik(tree)
    if file.name.lower().startswith("caddyfile") or file.suffix == ".caddyfile":
        return read_caddyfile(str(file), file.read_text(encoding="utf-8"))
    raise NotUnderstoodError(f"{file}: nginx's *.conf, a Caddyfile, or Traefik's or OpenAPI's YAML or JSON is expected")
