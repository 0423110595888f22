"""What the things that outlive a configuration depend on: a reload drops exactly those whose dependence has changed.

Permits and denials depend on the question (which is their key) and on who decides. Breakers, connections and copies
depend on where requests go. Where several addresses serve one purpose, what was learned stays as long as the old and
the new list share one: adding an address, or taking one of several away, changes nothing that was learned.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.settings import Configuration, IamApi, IamSettings


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides. `paths`: where on the server it is asked; None for one that is not used."""

    api: str
    paths: tuple[str | None, ...]
    policies: tuple[tuple[str, bytes], ...]
    urls: frozenset[str]
    headers: tuple[tuple[str, str], ...] = ()


def decider_of(configuration: Configuration) -> Decider:
    """Who decides under this configuration."""
    iam = configuration.iam
    embedded = iam.api is IamApi.EMBEDDED
    return Decider(
        api=iam.api,
        paths=() if embedded else _paths(iam),
        policies=configuration.access_texts if embedded else (),
        urls=frozenset(iam.urls),
        headers=iam.headers,
    )


def same_decider(old: Decider, new: Decider) -> bool:
    """Whether what the old one said is what the new one would say."""
    if (old.api, old.policies, old.headers, len(old.paths)) != (new.api, new.policies, new.headers, len(new.paths)):
        return False
    if any(a != b for a, b in zip(old.paths, new.paths, strict=True) if a is not None and b is not None):
        return False
    return share_one(old.urls, new.urls)


def share_one(old: frozenset[str], new: frozenset[str]) -> bool:
    """Whether both lists of addresses have one in common, or both have none."""
    return old == new or bool(old & new)


class Places:
    """What one upstream's answers are kept under: a name for its addresses that lists which share one have in common.

    A list that comes back, as when a change is taken back, has the name that it had.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, urls: Sequence[str]) -> str:
        """The name of these addresses."""
        return next((self._names[url] for url in urls if url in self._names), "") or secrets.token_hex(8)

    def serve(self, urls: Sequence[str], name: str) -> None:
        """These addresses serve under this name now."""
        self._names.update(dict.fromkeys(urls, name))


def _paths(iam: IamSettings) -> tuple[str | None, ...]:
    match iam.api:
        case IamApi.OPA:
            return (iam.opa_path,)
        case IamApi.JSON | IamApi.AUTHZEN:
            return (iam.batch_path, iam.single_path)
    return ()
