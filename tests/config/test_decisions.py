"""`server.decisions` and routes without upstream: what goes together, and what does not."""

from __future__ import annotations

import pytest

from gateway.model.route import DecideAction
from gateway.model.settings import Address

TOP = """version: 1
server: {%s}
iam: {url: http://127.0.0.1:8181}
identity: {%s}
routes:
  - {id: orders, path: /orders/*, authorize: ["read system:orders"]%s}
"""
LISTENING = "trusted_proxies: [10.0.0.0/8], decisions: {listen: 127.0.0.1:8082}"


def test_a_route_without_upstream_is_decided_for_another_proxy(load_text) -> None:
    configuration = load_text(TOP % (LISTENING, "opaque: {}", ""))
    assert configuration.server.decisions == Address("127.0.0.1", 8082)
    assert isinstance(configuration.routes[0].action, DecideAction)


@pytest.mark.parametrize(
    ("server", "identity", "route", "id_"),
    [
        ("", "opaque: {}", "", "one-kind"),
        ("decisions: {listen: 127.0.0.1:8082}", "opaque: {}", "", "decisions-need-proxies"),
        (LISTENING, "header: {name: X-User}", "", "misplaced-identity"),
        (f"{LISTENING}, listen: 127.0.0.1:8082", "opaque: {}", "", "same-address"),
        (f"{LISTENING}, admin: 127.0.0.1:8082", "opaque: {}", "", "same-address"),
        ("trusted_proxies: [10.0.0.0/8], decisions: {listen: nowhere}", "opaque: {}", "", "bad-address"),
        (LISTENING, "opaque: {}", ", strip_prefix: /orders", "misplaced-key"),
        (LISTENING, "opaque: {}", ", timeout: {read: 1s}", "misplaced-key"),
        (
            LISTENING,
            "opaque: {}",
            ", on_iam_failure: {degrade: fallback, response: {status: 200}}",
            "misplaced-rule",
        ),
    ],
)
def test_what_does_not_go_with_it_is_a_mistake(mistakes, server, identity, route, id_) -> None:
    assert [each.id for each in mistakes(TOP % (server, identity, route))] == [id_]
