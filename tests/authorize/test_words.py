"""What a denied caller is told: a challenge where stronger authentication helps, IAM's words in its own language."""

import pytest

from gateway.errors import GatewayError
from gateway.model.permit import DENY, Decision, Outcome

STEP_UP = Decision(Outcome.DENY, step_up='acr_values="mfa"')
REASONS = (("en-403", "No."), ("de", "Nein."), ("fr-ch", "Non."))


async def refusal(bench, kit, answers, **request):
    bench.iam.answers = answers
    with pytest.raises(GatewayError) as error:
        await bench.ask(kit.route(kit.checks(*answers)), kit.request(**request))
    return error.value


async def test_a_denial_that_asks_for_stronger_authentication_is_a_challenge(bench, kit):
    error = await refusal(bench, kit, {"read system:a": STEP_UP})
    assert (error.code, error.kind.status) == ("step_up_required", 401)
    challenge = b'Bearer error="insufficient_user_authentication", acr_values="mfa"'
    assert error.headers == ((b"www-authenticate", challenge),)
    assert bench.record.authz_outcome == "deny"


async def test_where_another_check_says_no_a_challenge_would_not_help(bench, kit):
    error = await refusal(bench, kit, {"read system:a": STEP_UP, "read system:b": DENY})
    assert error.code == "iam_denied"


@pytest.mark.parametrize(
    ("accept", "told"),
    [
        (None, "No."),
        (b"de-AT, en", "Nein."),
        (b"fr;q=0.9", "Non."),
        (b"it", "No."),
        (b"*", "No."),
        (b"\xff;;,,", "No."),
    ],
)
async def test_reasons_are_told_in_the_callers_language(bench, kit, accept, told):
    headers = [] if accept is None else [(b"accept-language", accept)]
    denied = Decision(Outcome.DENY, reason_user=REASONS)
    error = await refusal(bench, kit, {"read system:a": denied}, headers=headers)
    assert (error.code, error.detail) == ("iam_denied", told)
