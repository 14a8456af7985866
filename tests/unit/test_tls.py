"""The service's own certificate: read, and refused in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pvemcp.errors import Misconfigured
from pvemcp.tls import own_certificate, server_context, validity
from tests.unit.certificates import certificate


@pytest.mark.parametrize("days", [-50, 90, 36500])
def test_the_validity_of_a_certificate_is_read(tmp_path: Path, days: int) -> None:
    cert, _ = certificate(tmp_path, days=days)
    start, end = validity(own_certificate(cert))
    now = datetime.now(UTC)
    assert abs(start - now - timedelta(days=-100)) < timedelta(minutes=5)
    assert abs(end - now - timedelta(days=days)) < timedelta(minutes=5)


def test_a_pair_that_fits_is_loaded(tmp_path: Path) -> None:
    assert server_context(*certificate(tmp_path, days=1))


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, days=1)
    other = tmp_path / "other"
    locked = tmp_path / "locked"
    junk = tmp_path / "junk.pem"
    other.mkdir()
    locked.mkdir()
    junk.write_text("-----BEGIN CERTIFICATE-----\n!!\n")
    cases = [
        (cert, certificate(other, days=1)[1], "the key was not made for this certificate"),
        (*certificate(locked, days=1, password=b"x"), "the key has a password"),
        (junk, key, "junk.pem holds no certificate"),
        (cert, junk, "not readable as PEM"),
        (tmp_path, key, "Is a directory"),
        (cert, tmp_path / "nowhere", "No such file"),
    ]
    for first, second, said in cases:
        with pytest.raises(Misconfigured, match=said) as caught:
            server_context(first, second)
        assert str(first) in caught.value.message
        assert "PEM files" in caught.value.hint


def test_what_is_no_certificate_has_no_validity() -> None:
    with pytest.raises(ValueError, match="asn1"):
        validity(b"junk")
