"""TLS of the service: what it accepts, renewal while clients stay, clients with certificates."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pvemcp.errors import Misconfigured
from pvemcp.listener import bind
from pvemcp.settings import Settings
from pvemcp.setup.certificate import self_signed
from pvemcp.sim.tls import Certificates, make_certificates
from pvemcp.tls import Certificate, server_context
from pvemcp.trust import trust_of
from tests.scenarios.hellos import TLS10, TLS11, TLS12, chosen
from tests.scenarios.rig import ERAS
from tests.scenarios.test_http import Web, web
from tests.unit.certificates import certificate

GOOD = 0xC02B  # ECDHE-ECDSA-AES128-GCM-SHA256
REFUSED = {
    "NULL": (0x0001, 0x0002, 0x003B, 0xC006, 0xC010),
    "anonymous": (0x0018, 0x0034, 0x006D, 0xC018),
    "RC4": (0x0004, 0x0005, 0xC007, 0xC011),
    "3DES": (0x000A, 0x0016, 0xC008, 0xC012),
    "CBC with SHA-1": (0x002F, 0x0035, 0xC009, 0xC00A, 0xC013, 0xC014),
    "CBC with SHA-2": (0xC023, 0xC024, 0xC027, 0xC028),
    "no forward secrecy": (0x009C, 0x009D, 0x003C),
}


def made(folder: Path) -> Certificates:
    folder.mkdir(exist_ok=True)
    return make_certificates(folder, names=["pve1"])


def port_of(w: Web) -> int:
    return urlsplit(w.url).port or 0


async def shown(w: Web) -> bytes:
    """Return the certificate (DER) that a new connection is shown."""
    open_to_all = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    open_to_all.check_hostname, open_to_all.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(w), ssl=open_to_all)
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return der


def der_of(file: Path) -> bytes:
    loaded = x509.load_pem_x509_certificate(file.read_bytes())
    return loaded.public_bytes(serialization.Encoding.DER)


async def until_shown(w: Web, file: Path) -> None:
    async with asyncio.timeout(15):
        while await shown(w) != der_of(file):
            await asyncio.sleep(0.05)


async def test_only_tls_1_2_and_newer_with_sound_ciphers_is_spoken(tmp_path: Path) -> None:
    own = made(tmp_path)
    async with web(tls_cert=own.chain_file, tls_key=own.key_file) as w:
        port = port_of(w)
        assert await chosen(port, TLS12, GOOD) == GOOD
        everything = [cipher for ciphers in REFUSED.values() for cipher in ciphers]
        assert await chosen(port, TLS12, *everything, GOOD) == GOOD
        for name, ciphers in REFUSED.items():
            assert await chosen(port, TLS12, *ciphers) is None, name
        for version in (TLS10, TLS11):
            assert await chosen(port, version, *everything, GOOD) is None


async def test_a_renewed_certificate_is_shown_and_nobody_is_cut_off(tmp_path: Path) -> None:
    first, second = made(tmp_path / "1"), made(tmp_path / "2")
    trust = ssl.create_default_context(cadata=first.ca_pem)
    either = ssl.create_default_context(cadata=first.ca_pem + second.ca_pem)
    async with web(tls_cert=first.chain_file, tls_key=first.key_file) as w:
        reader, writer = await asyncio.open_connection("localhost", port_of(w), ssl=trust)
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        async with w.client(era=ERAS[0], verify=either) as client:
            assert "12 guests" in await client.call("inventory_find")
            shutil.copy(second.key_file, first.key_file)
            shutil.copy(second.chain_file, first.chain_file)
            await until_shown(w, second.chain_file)
            # The session goes on, and so does the connection from before.
            assert "12 guests" in await client.call("inventory_find")
        writer.write(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()
        assert before != der_of(second.chain_file)


def _truncated(cert: Path, key: Path, other: Certificates) -> None:
    cert.write_bytes(cert.read_bytes()[:200])


def _gone(cert: Path, key: Path, other: Certificates) -> None:
    cert.unlink()


def _of_another(cert: Path, key: Path, other: Certificates) -> None:
    shutil.copy(other.chain_file, cert)


@pytest.mark.parametrize("damage", [_truncated, _gone, _of_another])
def test_a_broken_new_certificate_is_reported_and_the_old_one_stays(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, Path, Certificates], None],
) -> None:
    first, second = made(tmp_path / "1"), made(tmp_path / "2")
    watched = Certificate(first.chain_file, first.key_file)
    before = watched.context
    damage(first.chain_file, first.key_file, second)
    for _ in range(4):
        watched.look()
        assert watched.context is before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "stays as it was" in caplog.text
    shutil.copy(second.chain_file, first.chain_file)
    shutil.copy(second.key_file, first.key_file)
    watched.look()
    assert watched.context is not before


def test_two_files_that_are_replaced_one_after_the_other_are_no_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, second = made(tmp_path / "1"), made(tmp_path / "2")
    watched = Certificate(first.chain_file, first.key_file)
    before = watched.context
    shutil.copy(second.chain_file, first.chain_file)
    watched.look()
    assert watched.context is before
    shutil.copy(second.key_file, first.key_file)
    watched.look()
    assert watched.context is not before
    assert caplog.text == ""


async def test_with_a_client_authority_only_its_clients_get_through(tmp_path: Path) -> None:
    own = made(tmp_path)
    for name in ("known", "stranger"):
        (tmp_path / name).mkdir()
    known, stranger = (certificate(tmp_path / name, days=1) for name in ("known", "stranger"))
    async with web(tls_cert=own.chain_file, tls_key=own.key_file, tls_client_ca=known[0]) as w:
        trust = ssl.create_default_context(cadata=own.ca_pem)
        trust.load_cert_chain(*known)
        async with w.client(verify=trust) as client:
            assert "12 guests" in await client.call("inventory_find")
        for shown_to_it, alert in ((None, "CERTIFICATE_REQUIRED"), (stranger, "UNKNOWN_CA")):
            refused = ssl.create_default_context(cadata=own.ca_pem)
            if shown_to_it:
                refused.load_cert_chain(*shown_to_it)
            reader, writer = await asyncio.open_connection("localhost", port_of(w), ssl=refused)
            writer.write(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(ssl.SSLError, match=alert):
                await reader.read()
            writer.close()


async def test_plain_http_is_told_to_use_https(tmp_path: Path) -> None:
    own = made(tmp_path)
    async with web(tls_cert=own.chain_file, tls_key=own.key_file) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(w))
        writer.write(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await reader.readuntil(b"https://")
        assert answer.startswith(b"HTTP/1.1 400 ")
        writer.close()


def test_a_client_authority_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    own, junk = made(tmp_path), tmp_path / "junk"
    junk.write_text("junk")
    for path in (junk, tmp_path / "missing"):
        with pytest.raises(Misconfigured, match=f"tls_client_ca: {path}"):
            server_context(own.chain_file, own.key_file, path)


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
async def test_one_socket_serves_both_families(target: str) -> None:
    with bind(Settings(listen="[::]:0")) as bound:
        _, writer = await asyncio.open_connection(target, bound.getsockname()[1])
        writer.close()


_NODE = """
fetch(process.argv[1]).then(
    (answer) => console.log(answer.status),
    (error) => console.log(error.cause.code),
);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="asks Node, as Claude Code runs on it")
@pytest.mark.parametrize("ours", [True, False], ids=["self-signed", "authority"])
async def test_node_trusts_what_connect_gives_it_and_nothing_before(
    tmp_path: Path, ours: bool
) -> None:
    cert, key = tmp_path / "c.pem", tmp_path / "k.pem"
    if ours:
        for path, content in zip((cert, key), self_signed(["localhost", "127.0.0.1"]), strict=True):
            path.write_bytes(content)
    else:
        signed = made(tmp_path)
        cert, key = signed.chain_file, signed.key_file
    given = tmp_path / "given.pem"
    given.write_text(trust_of(cert, []).authority)
    async with web(tls_cert=cert, tls_key=key) as w:
        for env, answer in (({}, "LEAF|SELF_SIGNED"), ({"NODE_EXTRA_CA_CERTS": str(given)}, "401")):
            asking = await asyncio.create_subprocess_exec(
                *("node", "-e", _NODE, w.url), env={**os.environ, **env}, stdout=subprocess.PIPE
            )
            said, _ = await asking.communicate()
            assert re.search(answer, said.decode())
