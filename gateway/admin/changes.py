"""What is different between two status documents, so that a page with thousands of routes is sent what moved."""

from __future__ import annotations

from typing import Any, Final

Document = dict[str, Any]

_BY_NAME: Final = ("breakers", "upstreams")
_BY_ROW: Final = "routes"


def changes(before: Document | None, after: Document) -> Document | None:
    """Of `routes` the rows that changed, of mappings by name their entries, all else whole.

    None where only the whole document says it: there was none, or another configuration has other routes.
    """
    if before is None or before.keys() != after.keys() or _names(before) != _names(after):
        return None
    changed = {
        name: value
        for name, value in after.items()
        if name != _BY_ROW and name not in _BY_NAME and before[name] != value
    }
    for name in _BY_NAME:
        if name in after:
            changed[name] = {key: value for key, value in after[name].items() if before[name][key] != value}
    if _BY_ROW in after:
        pairs = zip(before[_BY_ROW], after[_BY_ROW], strict=True)
        changed[_BY_ROW] = [row for old, row in pairs if old != row]
    return changed


def _names(document: Document) -> list[list[str]]:
    rows = [str(row["id"]) for row in document.get(_BY_ROW, ())]
    return [rows, *(list(document.get(name, ())) for name in _BY_NAME)]
