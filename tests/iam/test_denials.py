"""What a denial says beside its no: a challenge, words for the caller, and never more than was asked for."""

import pytest

from gateway.iam.protocols import denial
from gateway.model.permit import DENY
from tests.iam.conftest import allowed, answer, question


@pytest.mark.parametrize(
    ("context", "challenge"),
    [
        ({"acr_values": "urn:mfa"}, 'acr_values="urn:mfa"'),
        ({"acr_values": ["a", "b"]}, 'acr_values="a b"'),
        ({"max_age": 300}, 'max_age="300"'),
        ({"acr_values": "a", "max_age": 0}, 'acr_values="a", max_age="0"'),
        ({"acr_values": 'a", error="x'}, ""),
        ({"acr_values": "a\r\nSet-Cookie: x"}, ""),
        ({"acr_values": "a\\"}, ""),
        ({"acr_values": ["a", 1]}, ""),
        ({"acr_values": "x" * 2000}, ""),
        ({"acr_values": "ü"}, ""),
        ({"max_age": True}, ""),
        ({"max_age": -1}, ""),
        ({"max_age": "300"}, ""),
        ("acr_values", ""),
        (None, ""),
    ],
)
def test_a_challenge_is_made_of_what_can_stand_in_one(context, challenge):
    assert denial(context, reasons=True).step_up == challenge


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Ask your manager.", (("", "Ask your manager."),)),
        ({"en-403": "No.", "de": "Nein."}, (("en-403", "No."), ("de", "Nein."))),
        ({"en": 7, "de": "Nein."}, (("de", "Nein."),)),
        ("a\nb", ()),
        ("x" * 2000, ()),
        (["No."], ()),
    ],
)
def test_reasons_are_text_by_language(reason, told):
    context = {"reason_user": reason, "reason_admin": {"en": "secret"}}
    assert denial(context, reasons=True).reason_user == told
    assert denial(context, reasons=False) is DENY


@pytest.mark.parametrize("reasons", [True, False])
async def test_a_denial_in_a_reply_has_its_words_where_they_are_wanted(make_bench, reasons):
    bench = make_bench(deny_reasons=reasons)
    item = {"decision": False, "context": {"max_age": 60, "reason_user": {"en": "No."}}}
    bench.transport.reply = lambda items: answer(200, {"evaluations": [item]})
    (decision,) = await bench.decide(question())
    assert decision.step_up == 'max_age="60"'
    assert decision.reason_user == ((("en", "No."),) if reasons else ())


async def test_headers_go_with_every_call(make_bench):
    bench = make_bench(headers=(("x-tenant", "acme"),))
    assert allowed(await bench.decide(question()))
    assert bench.transport.requests[0].headers["x-tenant"] == "acme"
