"""Every example of docs/identity.md loads as it stands, and means what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.model.settings import IntrospectionIdentity, JwtIdentity
from tests.config.texts import whole

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(identity:.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_loads_without_a_warning(load_text, text) -> None:
    configuration = load_text(whole(identity=text), INTROSPECTION_SECRET="s3cret")
    assert configuration.warnings == ()
    assert isinstance(configuration.identity, JwtIdentity | IntrospectionIdentity)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 7


def test_every_key_of_identity_is_on_the_page() -> None:
    for key in ("jwt", "introspection", "opaque", "header", "token", "subject", "claims", "headers", "required", "tls",
                "audience", "algorithms", "jwks_url", "jwks_file", "leeway", "jwks_refresh", "cache", "auth",
                "forward_token"):  # fmt: skip
        assert f"`{key}" in PAGE or f"{key}:" in PAGE, key
