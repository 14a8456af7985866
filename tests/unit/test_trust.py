"""What clients are told about the certificate, and the one that set-up makes."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pvemcp.setup.certificate import CertificateStep, self_signed
from pvemcp.sim.tls import Certificates, make_certificates
from pvemcp.tls import own_certificate, server_context, validity
from pvemcp.trust import Signer, notes, trust_of
from tests.unit.certificates import certificate

NAMES = ("pve1.example.org", "192.0.2.1", "2001:db8::1")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path, names=["pve1"])


def leaf_of(made: Certificates) -> Path:
    """Return a file with the service's certificate alone, as PVE's pve-ssl.pem is."""
    leaf = made.chain_file.with_name("leaf.pem")
    leaf.write_text(ssl.DER_cert_to_PEM_cert(own_certificate(made.chain_file)))
    return leaf


def test_the_clusters_authority_is_found_beside_the_certificate(made: Certificates) -> None:
    trust = trust_of(leaf_of(made), [made.chain_file.with_name("none"), made.ca_file])
    assert (trust.signer, trust.authority) == (Signer.PRIVATE, made.ca_pem)
    assert trust.fingerprint != made.fingerprint
    assert len(trust.fingerprint) == 95


def test_an_authority_in_the_chain_needs_no_other_file(made: Certificates) -> None:
    trust = trust_of(made.chain_file, [])
    assert (trust.signer, trust.authority) == (Signer.PRIVATE, made.ca_pem)


def test_an_authority_that_is_not_here_is_not_made_up(made: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other", names=["pve1"])  # of the same name
    trust = trust_of(leaf_of(made), [other.ca_file])
    assert (trust.signer, trust.authority) == (Signer.UNKNOWN, "")
    assert "not on this host" in notes(trust, "pve1")[0]


@pytest.mark.parametrize("whole", [False, True])
def test_a_public_certificate_needs_nothing(
    made: Certificates, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    trust = trust_of(made.chain_file if whole else leaf_of(made), [made.ca_file])
    assert (trust.signer, trust.authority) == (Signer.PUBLIC, "")
    assert notes(trust, "pve1") == (
        "Clients trust the certificate: it is signed by CN=pvemcp simulator CA.",
    )


def test_a_self_signed_one_is_its_own_authority_and_the_key_is_not_told(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, days=1)
    both = tmp_path / "both.pem"
    both.write_text(key.read_text() + cert.read_text())
    trust = trust_of(both, [])
    assert (trust.signer, trust.authority) == (Signer.ITSELF, cert.read_text())


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("pve1.example.org", True),
        ("PVE1.example.org", True),
        ("a.wild.example.org", True),
        ("a.b.wild.example.org", False),
        ("wild.example.org", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8::1", True),
    ],
)
def test_names_are_compared_as_clients_do(tmp_path: Path, host: str, covered: bool) -> None:
    cert, _ = self_signed([*NAMES, "*.wild.example.org"])
    (tmp_path / "cert.pem").write_bytes(cert)
    trust = trust_of(tmp_path / "cert.pem", [])
    assert trust.covers(host) == covered
    assert any("not made for" in note for note in notes(trust, host)) != covered


def test_the_notes_say_how_to_fetch_the_authority_and_how_to_check_it(made: Certificates) -> None:
    trust = trust_of(made.chain_file, [])
    said = "\n".join(notes(trust, "pve1", claude=True))
    assert "ssh root@pve1 pvemcp connect json --ca-out - > pvemcp-ca.pem" in said
    assert "NODE_EXTRA_CA_CERTS" in said
    assert trust.fingerprint in said
    assert "/root/ca.pem: copy it" in "\n".join(notes(trust, "pve1", file="/root/ca.pem"))


# The step of set-up ----------------------------------------------------------------------------


def step(tmp_path: Path) -> CertificateStep:
    (tmp_path / "pve").mkdir(exist_ok=True)
    return CertificateStep(NAMES, tmp_path / "pve", tmp_path / "kept")


def test_a_host_without_a_certificate_gets_one_once_and_loses_it_again(tmp_path: Path) -> None:
    [line] = step(tmp_path).plan()
    assert "pve1.example.org, 192.0.2.1" in line
    record = json.loads(json.dumps(step(tmp_path).apply()))
    kept = tmp_path / "kept" / "self-signed.pem"
    assert server_context(kept, kept.with_suffix(".key"))
    assert [path.stat().st_mode & 0o077 for path in kept.parent.iterdir()] == [0, 0]
    assert step(tmp_path).plan() == step(tmp_path).warnings() == []
    assert step(tmp_path).undo(step(tmp_path).apply()) == []
    assert step(tmp_path).undo(record) == [f"removed {kept} and its key"]
    assert not kept.parent.exists()
    assert step(tmp_path).undo(record) == []


@pytest.mark.parametrize(("name", "warned"), [("pve1.example.org", 0), ("pve1", 1)])
def test_the_nodes_own_certificate_is_left_alone_and_its_names_are_judged(
    tmp_path: Path, name: str, warned: int
) -> None:
    made = step(tmp_path)
    cert, key = self_signed([name])
    (tmp_path / "pve" / "pve-ssl.pem").write_bytes(cert)
    (tmp_path / "pve" / "pve-ssl.key").write_bytes(key)
    assert made.plan() == []
    assert made.apply() == {"made": False}
    said = made.warnings()
    assert len(said) == warned
    assert all("was not made for pve1.example.org" in line for line in said)


def test_one_that_ends_soon_is_renewed_when_it_is_ours_and_told_when_not(tmp_path: Path) -> None:
    made = step(tmp_path)
    (tmp_path / "kept").mkdir()
    cert, key = certificate(tmp_path, days=5)
    ours = tmp_path / "kept" / "self-signed.pem"
    cert.rename(ours)
    key.rename(ours.with_suffix(".key"))
    assert len(made.plan()) == 1
    made.apply()
    _, end = validity(own_certificate(ours))
    assert end > datetime.now(UTC) + timedelta(days=3000)
    cert, key = certificate(tmp_path, days=5)
    cert.rename(tmp_path / "pve" / "pve-ssl.pem")
    key.rename(tmp_path / "pve" / "pve-ssl.key")
    assert made.plan() == []
    assert "renew it" in made.warnings()[0]
