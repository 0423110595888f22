"""Who is behind a request, where failures and shares are told apart."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.model.permit import Permit
from tests.forward.conftest import ALICE, a_request, a_route


def of_client(address: str) -> str:
    request = dataclasses.replace(a_request(), client=address)
    return Permit(request=request, route=a_route(), subject=None, outcome="allow", source="public").share_key


def test_a_subject_is_itself_whatever_its_address() -> None:
    permit = Permit(request=a_request(), route=a_route(), subject=ALICE, outcome="allow", source="iam")
    assert permit.share_key == ALICE.key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "", True),
        ("not an address", "192.0.2.1", False),
    ],
)
def test_without_a_subject_it_is_the_address_and_of_ipv6_the_64(one: str, other: str, same: bool) -> None:
    assert (of_client(one) == of_client(other)) is same
