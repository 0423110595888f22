"""Who gets the metrics compressed."""

from __future__ import annotations

import gzip

import pytest

from gateway.admin.app import compressed, takes_gzip


@pytest.mark.parametrize(
    "accepted", ["gzip", "GZIP", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8", "*", "deflate,gzip;q=1"]
)
def test_gzip_is_sent_to_who_asks(accepted: str) -> None:
    assert takes_gzip(accepted)


@pytest.mark.parametrize(
    "accepted", ["", "identity", "br", "gzip;q=0", "gzip;q=0.0, *", "*;q=0", "gzip;q=x", "gzipped"]
)
def test_and_to_nobody_else(accepted: str) -> None:
    assert not takes_gzip(accepted)


async def test_it_is_the_same_content() -> None:
    content = b'gateway_authz_decisions_total{route="inventory"} 1.0\n' * 5000
    packed = await compressed(content)
    assert gzip.decompress(packed) == content
    assert len(packed) < len(content) / 20
