"""Matches: against a naive reading of the rules, and what the route then says of method and oddities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.request import Target
from gateway.model.route import Access, AccessKind, Cors, ProxyAction, Route, Segment
from gateway.routing import Router, method_not_allowed, parse_target
from tests.support.properties import examples

GET = frozenset({"GET"})


def route(path: str, *, methods: frozenset[str] = GET, **keys: Any) -> Route:
    return Route(
        id=path,
        path=path,
        segments=tuple(segment_of(part) for part in path.strip("/").split("/") if part),
        action=ProxyAction(upstream="u"),
        methods=methods,
        access=dict.fromkeys(methods, Access(AccessKind.PUBLIC)),
        on_iam_failure={},
        on_upstream_failure={},
        **keys,
    )


def segment_of(part: str) -> Segment:
    if part == "*":
        return Segment(rest=True)
    return Segment(param=part[1:-1]) if part.startswith("{") else Segment(literal=part)


def matched(routes: list[Route], path: str, host: str = "a.test", method: str = "GET") -> str:
    try:
        return Router(routes).match(method, parse_target(path.encode()), host).route.id
    except GatewayError as error:
        return error.code


def naive(routes: list[Route], segments: tuple[str, ...], host: str) -> Route | None:
    """Every route that fits, ranked as the contract says: per segment literal, `{x}`, `*`; then with host first."""
    ranked = []
    for candidate in routes:
        rank = naive_rank(candidate.segments, segments)
        if rank is not None and candidate.host in (None, host):
            ranked.append((rank, candidate.host is None, candidate))
    return min(ranked, key=lambda entry: entry[:2])[2] if ranked else None


def naive_rank(pattern: tuple[Segment, ...], segments: tuple[str, ...]) -> tuple[int, ...] | None:
    if not pattern:
        return () if not segments else None
    first = pattern[0]
    if first.rest:
        return (2,)
    if not segments or (first.literal is not None and first.literal != segments[0]):
        return None
    rest = naive_rank(pattern[1:], segments[1:])
    return None if rest is None else (0 if first.literal is not None else 1, *rest)


parts = st.sampled_from(["a", "b", "{x}", "{y}"])
paths = st.builds(
    lambda inner, rest: "/" + "/".join(inner + rest), st.lists(parts, max_size=4), st.sampled_from([[], ["*"]])
)
hosts = st.sampled_from([None, "a.test", "b.test"])


@given(
    st.lists(st.tuples(paths, hosts), max_size=12),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=5),
    st.sampled_from(["a.test", "b.test", "c.test"]),
)
@examples(300)
def test_the_trie_agrees_with_the_naive_reading(
    given_routes: list[tuple[str, str | None]], segments: list[str], host: str
) -> None:
    distinct = {(path.replace("{y}", "{x}"), host): (path, host) for path, host in given_routes}
    routes = [route(path, host=host) for path, host in distinct.values()]
    expected = naive(routes, tuple(segments), host)
    target = Target(b"", b"", b"", tuple(segments))
    if expected is None:
        with pytest.raises(GatewayError):
            Router(routes).match("GET", target, host)
        return
    match = Router(routes).match("GET", target, host)
    assert match.route is expected
    names = {part.param: segments[i] for i, part in enumerate(expected.segments) if part.param}
    assert match.params == names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/inventory", "/inventory/*"),
        ("/inventory/", "/inventory/*"),
        ("/inventory/a/b", "/inventory/*"),
        ("/inventory/switches", "/inventory/*"),
        ("/inventory/switches/7", "/inventory/switches/{switch}"),
        ("/inventory/switches/7/", "/inventory/switches/{switch}"),
        ("/inventory/switches/7/ports", "/inventory/*"),
        ("/inventory/switches/all", "/inventory/switches/all"),
        ("/inventory/switches/%61ll", "/inventory/switches/all"),
        ("/Inventory/a", "route_not_found"),
        ("/inventory.json", "route_not_found"),
        ("/inventoryx", "route_not_found"),
        ("/", "route_not_found"),
        ("/inventory//a", "bad_request"),
        ("/nothing;here", "bad_request"),
    ],
)
def test_the_contracts_examples(path: str, expected: str) -> None:
    routes = [route("/inventory/*"), route("/inventory/switches/{switch}"), route("/inventory/switches/all")]
    assert matched(routes, path) == expected
    assert matched(routes[::-1], path) == expected


def test_literal_before_parameter_before_rest_from_left_to_right_with_backtracking() -> None:
    routes = [route("/a/b/c"), route("/a/{x}/d"), route("/{x}/b/e"), route("/a/*")]
    assert matched(routes, "/a/b/c") == "/a/b/c"
    assert matched(routes, "/a/b/d") == "/a/{x}/d"
    assert matched(routes, "/a/b/e") == "/a/*"
    assert matched(routes, "/z/b/e") == "/{x}/b/e"


@pytest.mark.parametrize("host", ["a.test", "A.TEST", "a.test:8080", "a.test.", "a.test.:80"])
def test_a_host_is_compared_without_case_port_and_trailing_dot(host: str) -> None:
    routes = [route("/x", host="A.test"), route("/x")]
    assert Router(routes).match("GET", parse_target(b"/x"), host).route.host == "A.test"
    assert Router(routes).match("GET", parse_target(b"/x"), "b.test").route.host is None


def test_an_ipv6_host() -> None:
    assert Router([route("/x", host="[::1]")]).match("GET", parse_target(b"/x"), "[::1]:80").route.id == "/x"


def test_the_path_chooses_and_then_the_method_is_looked_at() -> None:
    routes = [route("/a/b", methods=frozenset({"POST"})), route("/a/*", methods=frozenset({"GET", "PUT"}))]
    with pytest.raises(GatewayError) as raised:
        Router(routes).match("GET", parse_target(b"/a/b"), "")
    assert raised.value.code == "method_not_allowed"
    assert raised.value.headers == ((b"allow", b"POST"),)
    with pytest.raises(GatewayError) as raised:
        Router(routes).match("DELETE", parse_target(b"/a/c"), "")
    assert raised.value.headers == method_not_allowed(routes[1]).headers == ((b"allow", b"GET, HEAD, PUT"),)


def test_head_goes_where_get_goes() -> None:
    assert matched([route("/a")], "/a", method="HEAD") == "/a"
    assert matched([route("/a", methods=frozenset({"POST"}))], "/a", method="HEAD") == "method_not_allowed"


def test_a_preflight_finds_its_route() -> None:
    cors = Cors(origins=frozenset({"https://app.example"}))
    assert matched([route("/a", cors=cors)], "/a", method="OPTIONS") == "/a"
    assert matched([route("/a")], "/a", method="OPTIONS") == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        ("/a/b%2fc", "allow_encoded_slashes"),
        ("/a/b%5Cc", "allow_encoded_slashes"),
        ("/a//c", "allow_empty_segments"),
        ("/a/b;c", "allow_path_parameters"),
    ],
)
def test_an_oddity_is_admitted_by_the_route_that_says_so(path: str, flag: str) -> None:
    assert matched([route("/a/*")], path) == "bad_request"
    assert matched([route("/a/*", **{flag: True})], path) == "/a/*"
    others = {"allow_encoded_slashes", "allow_empty_segments", "allow_path_parameters"} - {flag}
    assert matched([route("/a/*", **dict.fromkeys(others, True))], path) == "bad_request"


def test_one_admitted_oddity_admits_no_other() -> None:
    assert matched([route("/*", allow_encoded_slashes=True)], "/a;x/b%2fc") == "bad_request"


def test_a_way_that_failed_leaves_no_parameters_behind() -> None:
    routes = [route("/a/{x}/c"), route("/{y}/{z}/d")]
    assert Router(routes).match("GET", parse_target(b"/a/1/d"), "").params == {"y": "a", "z": "1"}


def test_a_parameter_is_never_empty() -> None:
    assert matched([route("/a/{x}/c", allow_empty_segments=True)], "/a//c") == "bad_request"


def test_parameters_are_decoded_once_and_named_by_the_matching_route() -> None:
    routes = [route("/u/{name}/a"), route("/u/{id}/b")]
    match = Router(routes).match("GET", parse_target(b"/u/john%2edoe%40x/b"), "")
    assert match.params == {"id": "john.doe@x"}


def test_the_root() -> None:
    assert matched([route("/")], "/") == "/"
    assert matched([route("/*")], "/") == "/*"
    assert matched([route("/*"), route("/")], "/") == "/"
