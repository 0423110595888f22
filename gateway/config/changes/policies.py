"""Policies of the embedded IAM that may permit more than before. They are compared, not evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.pdp.statements import statements


def policies_changed(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """What may allow more. A policy that only moved, or is only laid out anew, is the same."""
    before, after = _statements(old), _statements(new)
    for text, place in after.items():
        if text not in before and _effect(text) == "permit":
            yield f"policies/access/{place}: this permit is new or changed"
    for text, place in before.items():
        if text not in after and _effect(text) == "forbid":
            yield f"policies/access/{place}: this forbid is gone or changed"
    for name in sorted(old.keys() | new.keys()):
        if name.endswith(".json") and old.get(name) != new.get(name):
            yield f"policies/access/{name}: the entities have changed, so policies may permit more"


def _statements(files: Mapping[str, bytes]) -> dict[tuple[str, ...], str]:
    """Where each policy stands, by its tokens."""
    found = {}
    for name, content in files.items():
        text = content.decode("utf-8", "replace")
        for statement in statements(text) if name.endswith(".cedar") else ():
            line = text.count("\n", 0, statement.start) + 1
            found[tuple(token.text for token in statement.tokens)] = f"{name}:{line}"
    return found


def _effect(tokens: tuple[str, ...]) -> str:
    """`permit` or `forbid`: the first of these words that no annotation's name or text is."""
    return next(
        (
            token
            for index, token in enumerate(tokens)
            if token in ("permit", "forbid") and (index == 0 or tokens[index - 1] != "@")
        ),
        "",
    )
