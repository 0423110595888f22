"""Several tokens in one request: the one that was decided on is the only one that an upstream can act on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.identity.credentials import Challenge, PlacedTokens
from gateway.model.request import Request
from gateway.model.route import Route
from gateway.model.settings import TokenIn, TokenPlace
from tests.identity.conftest import request

COOKIE, HEADER = TokenPlace(TokenIn.COOKIE, "session"), TokenPlace(TokenIn.HEADER)
BOTH = [(b"cookie", b"session=alice; x=1")]


def placed(asked: Request, *places: TokenPlace, public: bool = False, forward_token: bool = False) -> Request:
    """The request as it goes on."""
    tokens = PlacedTokens(places, challenge=Challenge("edge"), max_token=1000)
    tokens.take_out(asked)
    route = cast("Route", SimpleNamespace(forward_token=forward_token, cors=None))
    tokens.settle(asked, route, public=public)
    return asked


def sent(asked: Request) -> dict[bytes, bytes]:
    return dict(asked.headers)


@pytest.mark.parametrize("forward_token", [False, True])
def test_a_bearer_token_that_was_not_decided_on_does_not_go_on(forward_token: bool):
    asked = placed(request(b"Bearer bob", headers=BOTH), COOKIE, HEADER, forward_token=forward_token)
    assert asked.taken is not None
    assert asked.taken.token == b"alice"
    assert b"authorization" not in sent(asked)


def test_the_one_that_was_decided_on_goes_on():
    asked = placed(request(b"Bearer bob", headers=BOTH), HEADER, COOKIE)
    assert sent(asked) == {b"authorization": b"Bearer bob", b"cookie": b"x=1"}


@pytest.mark.parametrize(
    ("field", "options", "places"),
    [
        (b"Basic eDp5", {}, (COOKIE, HEADER)),
        (b"Bearer bob", {"public": True}, (COOKIE, HEADER)),
        (b"Bearer bob", {}, (COOKIE,)),
    ],
    ids=["no bearer token", "nothing is decided", "the header is no place of tokens"],
)
def test_authorization_that_is_none_of_our_tokens_goes_on_as_it_came(
    field: bytes, options: dict[str, Any], places: tuple[TokenPlace, ...]
):
    asked = placed(request(field, headers=BOTH), *places, **options)
    assert sent(asked)[b"authorization"] == field
