"""What a reload keeps: for every setting there is, only what depends on it is dropped when it changes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.app.composition import Composition, compose
from gateway.app.shared import Parts, Places, decider_of, same_decider
from gateway.config import load
from gateway.model.settings import BearerAuth, Configuration, IamApi
from gateway.telemetry.observer import Observer

TEXT = """
version: 1
iam: {url: "https://iam.example", token: one, discovery: false}
identity: {opaque: {}}
upstreams:
  store: {urls: ["https://a.example", "https://b.example"], health: {path: /health}}
  plain: {url: "http://c.example"}
routes:
  - {id: one, path: /one/*, upstream: store, authorize: ["read item:1"], on_upstream_failure: {degrade: stale}}
  - {id: two, path: /two/*, upstream: plain, authorize: ["read item:2"], circuit_breaker: {failure_threshold: 3}}
  - id: both
    path: /both
    authorize: ["read item:3"]
    aggregate: {systems: {A: {upstream: store, path: /a}, B: {upstream: plain, path: /b}}}
"""
STORE = {"breaker one", "breaker both.A", "origin store https://a.example", "origin store https://b.example"}
DROPS: dict[str, set[str]] = {
    "iam.api": {"permits"},
    "iam.batch_path": {"permits"},
    "iam.single_path": {"permits"},
    "iam.tls.server_name": {"origin iam https://iam.example"},
    "iam.tls.verify": {"origin iam https://iam.example"},
    "upstreams.store.tls.server_name": {name for name in STORE if name.startswith("origin")},
    "upstreams.store.tls.verify": {name for name in STORE if name.startswith("origin")},
}
"""What depends on a setting. Whatever is not named here drops nothing."""

LISTS = {"urls", "files", "origins", "trusted_proxies", "access_texts", "upstream"}  # changed by tests of their own
IDENTITIES = {"id", "name", "path", "location", "fingerprint", "mode", "kind", "api", "host", "ca_file", "cert_file"}


def the_configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "routes.yaml").write_text(TEXT)
    return load(tmp_path / "routes.yaml", {})


def other(value: Any) -> Any:
    """Another value of the same kind; the value itself where none is known."""
    if isinstance(value, enum.Enum) or value is None:
        return value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + "x" if isinstance(value, str) else value


def changes_of(holder: Any, path: str, put: Callable[[Any], Configuration]) -> Iterator[tuple[str, Configuration]]:
    """Every configuration in which one setting below `holder` is another."""
    for field in fields(holder):
        value, name = getattr(holder, field.name), f"{path}.{field.name}"

        def with_(new: Any, holder: Any = holder, name: str = field.name) -> Configuration:
            return put(replace(holder, **{name: new}))

        if is_dataclass(value):
            yield from changes_of(value, name, with_)
        elif field.name == "server_name":
            yield name, with_("other.example")
        elif field.name not in LISTS | IDENTITIES and (new := other(value)) != value:
            yield name, with_(new)


def all_changes(base: Configuration) -> Iterator[tuple[str, Configuration]]:
    yield from changes_of(base.server, "server", lambda new: replace(base, server=new))
    yield from changes_of(base.iam, "iam", lambda new: replace(base, iam=new))
    yield "iam.api", replace(base, iam=replace(base.iam, api=IamApi.JSON))
    for name, settings in base.upstreams.items():
        yield from changes_of(
            settings, f"upstreams.{name}", lambda new, name=name: replace(base, upstreams={**base.upstreams, name: new})
        )
    for index, route in enumerate(base.routes):
        yield from changes_of(
            route,
            f"routes.{route.id}",
            lambda new, index=index: replace(base, routes=(*base.routes[:index], new, *base.routes[index + 1 :])),
        )
    yield "routes", replace(base, routes=(replace(base.routes[1], id="new", path="/new"), *base.routes))
    yield "hash", replace(base, hash="other")


def stores(composition: Composition) -> dict[str, object]:
    """Everything that was learned, by name."""
    found: dict[str, object] = {"permits": composition.cache, "copies": composition.copies}
    for key, held in composition.parts.held.items():
        if isinstance(key, tuple) and key[0] in ("breaker", "origin", "limit", "budget"):
            found[" ".join(str(part) for part in key)] = held.part
    return found


def reloaded(before: Configuration, after: Configuration) -> tuple[Composition, Composition]:
    first = compose(before, Observer(), Parts())
    first.parts.settle()
    second = compose(after, Observer(), Parts(first.parts))
    second.parts.settle()
    return first, second


async def dropped(first: Composition, after: Configuration) -> set[str]:
    """The names of all stores that a reload would begin anew; it is not carried out."""
    parts = Parts(first.parts)
    before, found = stores(first), stores(compose(after, Observer(), parts))
    await parts.release()
    return {name for name, part in found.items() if name not in before or before[name] is not part}


async def test_a_changed_setting_drops_only_what_depends_on_it(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    first = compose(base, Observer(), Parts())
    seen = dict(all_changes(base))
    assert len(seen) > 100
    assert seen.keys() >= DROPS.keys()
    for name, changed in seen.items():
        new = {"breaker new", "budget new", "limit ('route', 'new')"} if name == "routes" else set()
        assert await dropped(first, changed) == DROPS.get(name, set()) | new, name


async def test_an_address_more_or_less_drops_nothing_and_others_drop_what_was_learned_there(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    first = compose(base, Observer(), Parts())

    def at(*urls: str) -> Configuration:
        return replace(base, upstreams={**base.upstreams, "store": replace(base.upstreams["store"], urls=urls)})

    assert await dropped(first, at("https://b.example")) == set()
    assert await dropped(first, at("https://c.example", "https://a.example")) == {"origin store https://c.example"}
    assert await dropped(first, at("https://c.example")) == {
        "breaker one",
        "breaker both.A",
        "origin store https://c.example",
    }


async def test_what_is_known_of_iam_stays_while_one_url_does(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    a, b, c = "https://iam.example", "https://iam-b.example", "https://iam-c.example"

    def at(*urls: str, **more: Any) -> Configuration:
        return replace(base, iam=replace(base.iam, urls=urls, **more))

    first = compose(at(a, b), Observer(), Parts())
    assert await dropped(first, at(a, b, hedge_s=0.1, auth=BearerAuth("other"))) == set()
    assert await dropped(first, at(b, a)) == set()
    assert await dropped(first, at(b, c)) == {f"origin iam {c}"}
    assert await dropped(first, at(c)) == {"permits", "breaker iam", f"origin iam {c}"}


async def test_addresses_may_move_one_by_one(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    composition = compose(base, Observer(), Parts())
    composition.parts.settle()
    breaker = composition.breakers["one"]
    for urls in (("https://b.example", "https://c.example"), ("https://c.example", "https://d.example")):
        moved = replace(base, upstreams={**base.upstreams, "store": replace(base.upstreams["store"], urls=urls)})
        composition = compose(moved, Observer(), Parts(composition.parts))
        composition.parts.settle()
        assert composition.breakers["one"] is breaker


async def test_what_an_operator_forced_stays_in_force_at_another_address(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    first = compose(base, Observer(), Parts())
    first.parts.settle()
    first.breakers["two"].force_open()
    plain = replace(base.upstreams["plain"], urls=("http://d.example",))
    second = compose(replace(base, upstreams={**base.upstreams, "plain": plain}), Observer(), Parts(first.parts))
    second.parts.settle()
    assert second.breakers["two"] is not first.breakers["two"]
    assert (second.breakers["two"].state, second.breakers["two"].forced) == ("open", "open")


async def test_new_limits_hold_for_what_was_kept(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    plain = replace(base.upstreams["plain"], max_connections=7, idle_timeout_s=9.0)
    cache = replace(base.iam.cache, ttl_s=8.0)
    changed = replace(base, upstreams={**base.upstreams, "plain": plain}, iam=replace(base.iam, cache=cache))
    first, second = reloaded(base, changed)
    (member,) = second.upstreams["plain"].members
    assert member is first.upstreams["plain"].members[0]
    assert (member.pool._max_connections, member.pool._idle_timeout_s) == (7, 9.0)
    assert second.cache.serves


async def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    base = the_configuration(tmp_path)
    first = compose(base, Observer(), Parts())
    first.parts.settle()
    made_from = {key: held.made_from for key, held in first.parts.held.items()}
    store = replace(base.upstreams["store"], urls=("https://a.example", "https://c.example"), max_connections=7)
    plain = replace(base.upstreams["plain"], urls=("ftp://no.example",))
    parts = Parts(first.parts)
    with pytest.raises(ValueError, match="ftp"):
        compose(replace(base, upstreams={"store": store, "plain": plain}), Observer(), parts)
    await parts.release()
    assert {key: held.made_from for key, held in first.parts.held.items()} == made_from
    assert first.upstreams["store"].members[0].pool._max_connections == 256
    assert not first.upstreams["store"].members[0].pool._closed


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({"urls": ("http://a",)}, {"urls": ("http://a",)}, True),
        ({"urls": ("http://a",)}, {"urls": ("http://b",)}, False),
        ({"urls": ("http://a", "http://b")}, {"urls": ("http://c", "http://b")}, True),
        ({"urls": ("http://a", "http://b")}, {"urls": ("http://c", "http://d")}, False),
        ({"urls": ("http://a/tenant1",)}, {"urls": ("http://a/tenant2",)}, False),
        (
            {"urls": ("http://a",), "api": IamApi.OPA, "opa_path": "x"},
            {"urls": ("http://a",), "api": IamApi.OPA},
            False,
        ),
        ({"urls": ("http://a",), "opa_path": "x"}, {"urls": ("http://a",)}, True),
        ({"api": IamApi.JSON}, {"api": IamApi.JSON, "batch_path": None}, True),
        ({"api": IamApi.JSON}, {"api": IamApi.JSON, "single_path": "/other"}, False),
        ({"headers": (("x-tenant", "a"),)}, {"headers": (("x-tenant", "b"),)}, False),
        ({"api": IamApi.EMBEDDED}, {"api": IamApi.AUTHZEN}, False),
    ],
)
def test_who_decides(tmp_path: Path, before: dict[str, Any], after: dict[str, Any], *, same: bool) -> None:
    base = the_configuration(tmp_path)
    old, new = (decider_of(replace(base, iam=replace(base.iam, **over))) for over in (before, after))
    assert same_decider(old, new) is same


def test_embedded_policies_decide_by_what_they_say(tmp_path: Path) -> None:
    base = replace(the_configuration(tmp_path), access_texts=(("a.cedar", b"permit"),))
    changed = replace(base, access_texts=(("a.cedar", b"forbid"),))
    assert same_decider(decider_of(base), decider_of(changed))
    base, changed = (replace(each, iam=replace(each.iam, api=IamApi.EMBEDDED)) for each in (base, changed))
    assert not same_decider(decider_of(base), decider_of(changed))
    assert same_decider(decider_of(base), decider_of(replace(base, hash="other")))


def test_copies_are_kept_under_a_name_that_addresses_share() -> None:
    places = Places()
    first = places.of(["a", "b"])
    places.serve(["a", "b"], first)
    assert places.of(["b", "c"]) == first
    other = places.of(["c"])
    assert other != first
    places.serve(["c"], other)
    assert (places.of(["a"]), places.of(["c"])) == (first, other)
