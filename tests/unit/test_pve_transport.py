"""The wire: TLS, connections, repeats, limits, what must never be sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pvemcp.errors import Misconfigured, Rejected, Unavailable, Uncertain
from pvemcp.pve import transport
from pvemcp.pve.client import PveClient
from pvemcp.pve.transport import Address, Lanes, parse_fingerprint
from tests.unit.pve_server import (
    Last,
    Request,
    Server,
    allow,
    answer,
    client_of,
    listening,
    new_call,
    raw,
)

GUEST = "/nodes/pve1/qemu/100"


async def fine(request: Request) -> bytes | None:
    return answer({"ok": 1})


async def test_a_kept_connection_serves_many_requests() -> None:
    async with client_of(fine) as (client, server):
        pve = client.bind(new_call())
        for _ in range(5):
            assert await pve.get("/version") == {"ok": 1}
        assert server.connections == 1


async def test_the_credential_goes_with_each_request_and_nothing_else_does() -> None:
    async with client_of(fine) as (client, server):
        await client.bind(new_call()).get("/version")
        description, request = server.requests
        assert "authorization" not in description.headers
        assert request.headers["authorization"].startswith("PVEAPIToken=ops@pve!mcp=1111")
        for name in ("cookie", "accept-encoding", "csrfpreventiontoken"):
            assert name not in request.headers


async def test_cookies_that_pve_sets_are_not_stored() -> None:
    async def handler(request: Request) -> bytes:
        return answer(1, headers="Set-Cookie: PVEAuthCookie=evil; Path=/\r\n")

    async with client_of(handler) as (client, server):
        await client.bind(new_call()).get("/version")
        await client.bind(new_call()).get("/nodes")
        assert all("cookie" not in request.headers for request in server.requests)


async def test_a_redirect_is_not_followed() -> None:
    async def handler(request: Request) -> bytes:
        return raw(b"", status=301, reason="Moved", headers="Location: http://evil.test/\r\n")

    async with client_of(handler) as (client, server):
        with pytest.raises(Misconfigured, match="redirect"):
            await client.bind(new_call()).get("/version")
        assert server.asked == ["GET /api2/json/version"]


@asynccontextmanager
async def dropping(times: int) -> AsyncIterator[tuple[PveClient, Server]]:
    """Yield a client with a warm connection, to a server that then drops some requests."""
    left = 0

    async def handler(request: Request) -> bytes | None:
        nonlocal left
        if left > 0:
            left -= 1
            return None
        return answer("UPID")

    async with client_of(handler) as (client, server):
        await client.bind(new_call()).get("/version")
        left = times
        server.requests.clear()
        yield client, server


async def test_a_read_on_a_closed_connection_is_repeated_once() -> None:
    async with dropping(1) as (client, server):
        assert await client.bind(new_call()).get("/nodes") == "UPID"
        assert server.asked == ["GET /api2/json/nodes"] * 2


async def test_a_read_that_stays_without_answer_is_unavailable() -> None:
    async with dropping(9) as (client, server):
        with pytest.raises(Unavailable, match="connection was closed"):
            await client.bind(new_call()).get("/nodes")
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("verb", "path", "params"),
    [
        ("POST", f"{GUEST}/status/start", {}),
        ("PUT", f"{GUEST}/config", {"name": "x"}),
        ("DELETE", GUEST, {}),
    ],
)
async def test_a_write_without_answer_is_uncertain_and_never_repeated(
    verb: str, path: str, params: dict[str, str]
) -> None:
    async with dropping(9) as (client, server):
        call = new_call()
        with pytest.raises(Uncertain, match="may or may not have happened") as caught:
            await client.bind(call).request(verb, path, params)
        assert "/cluster/tasks" in caught.value.hint
        assert server.asked == [f"{verb} /api2/json{path}"]
        assert [step.status for step in call.steps] == [0]


@pytest.mark.parametrize(
    "text",
    [
        b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 two OK\r\n\r\n", b"\x00\xff" * 100, b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_not_http_is_a_fault_of_its_kind(text: bytes) -> None:
    async def handler(request: Request) -> bytes:
        return Last(text)

    async with client_of(handler) as (client, _):
        with pytest.raises(Unavailable):
            await client.bind(new_call()).get("/version")
        with pytest.raises(Uncertain):
            await client.bind(new_call()).post(f"{GUEST}/status/start")


async def test_an_answer_that_is_too_large_is_refused() -> None:
    bomb = gzip.compress(b"0" * (transport.LARGEST_ANSWER + 1))

    async def handler(request: Request) -> bytes:
        if request.target.endswith("/nodes"):
            return b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
        return raw(bomb, headers="Content-Encoding: gzip\r\n")

    async with client_of(handler) as (client, _):
        for path in ("/nodes", "/version"):
            with pytest.raises(Unavailable, match="larger than 32 MiB"):
                await client.bind(new_call()).get(path)


async def test_an_answer_that_is_compressed_unasked_is_read() -> None:
    body = gzip.compress(b'{"data":["line"]}')

    async def handler(request: Request) -> bytes:
        return raw(body, headers="Content-Encoding: gzip\r\n")

    async with client_of(handler) as (client, _):
        assert await client.bind(new_call()).get("/nodes") == ["line"]


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"data":', b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_is_not_json_is_rejected(body: bytes) -> None:
    async def handler(request: Request) -> bytes:
        return raw(body)

    async with client_of(handler) as (client, _):
        call = new_call()
        with pytest.raises(Rejected, match="not JSON"):
            await client.bind(call).get("/version")
        assert [step.status for step in call.steps] == [200]


async def test_a_silent_pve_is_given_up_in_time() -> None:
    async def handler(request: Request) -> bytes | None:
        await asyncio.Event().wait()
        return None

    async with client_of(handler, timeout=0.2) as (client, _):
        pve = client.bind(new_call())
        with pytest.raises(Unavailable, match="time-out"):
            await pve.get("/version")
        with pytest.raises(Uncertain, match="time-out"):
            await pve.post(f"{GUEST}/status/start")


async def test_a_socket_that_is_not_there_says_that_nothing_was_sent() -> None:
    client = PveClient("http://localhost", socket="/nonexistent/pve.sock", permit=allow)
    async with client:
        with pytest.raises(Unavailable, match="cannot be reached") as caught:
            await client.description()
        assert "Nothing was sent" in caught.value.hint


async def test_a_hanging_node_leaves_other_nodes_alone() -> None:
    release = asyncio.Event()

    async def handler(request: Request) -> bytes:
        if "/slow/" in request.target:
            await release.wait()
        return answer("x")

    async with client_of(handler) as (client, _):
        pve = client.bind(new_call())
        hung = [
            asyncio.create_task(pve.get(f"/nodes/slow/qemu/{vmid}/config"))
            for vmid in range(100, 160)
        ]
        async with asyncio.timeout(5):
            for _ in range(20):
                assert await pve.get(f"{GUEST}/config") == "x"
        assert not any(task.done() for task in hung)
        release.set()
        assert set(await asyncio.gather(*hung)) == {"x"}


async def test_requests_to_one_node_are_bounded_and_an_idle_lane_is_forgotten() -> None:
    lanes = Lanes(2, patience=0.05)
    async with lanes.slot("pve1"), lanes.slot("pve1"):
        with pytest.raises(Unavailable, match="too many requests wait for node pve1"):
            async with lanes.slot("pve1"):
                pass
        async with lanes.slot("pve2"), lanes.slot("pve1 slow", 4):
            pass
    assert len(lanes._pool) == 0
    async with lanes.slot("pve1"), lanes.slot("pve1"):
        pass


async def test_one_holder_cannot_take_all_slots_of_a_node_or_of_all_nodes() -> None:
    lanes = Lanes(8, patience=0.05)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(7):
            await held.enter_async_context(lanes.slot("pve1", holder="greedy"))
        with pytest.raises(Unavailable):
            await held.enter_async_context(lanes.slot("pve1", holder="greedy"))
        await held.enter_async_context(lanes.slot("pve1", holder="modest"))
        for node in range(2, 5):
            for _ in range(7):
                await held.enter_async_context(lanes.slot(f"pve{node}", holder="greedy"))
        with pytest.raises(Unavailable):
            await held.enter_async_context(lanes.slot("pve9", holder="greedy"))
        await held.enter_async_context(lanes.slot("pve9", holder="modest"))
    assert len(lanes._pool) == 0


@pytest.mark.parametrize(
    "url",
    ["", "pve1", "ftp://pve1", "https://", "https://u:p@pve1", "https://pve1/x", "https://pve1?a",
     "http://pve1:8006", "https://pve1:99999", "http://[::1", "https://pve1#x"],
)  # fmt: skip
def test_a_url_that_is_not_a_safe_pve_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Address.parse(url)
    assert "p@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://pve1", "https://pve1:8006"),
        ("https://pve1:443/", "https://pve1:443"),
        ("https://[2001:db8::1]:8006/api2/json", "https://[2001:db8::1]:8006"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_a_url_is_read(url: str, base: str) -> None:
    assert Address.parse(url).base == base


@pytest.mark.parametrize("text", ["x", "AB:CD", "ab" * 20, "ab" * 33])
def test_a_fingerprint_that_is_not_sha256_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_fingerprint(text)
    assert len(parse_fingerprint("AB:" * 31 + "AB")) == 32


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pve1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def fingerprint_of(file: Path) -> str:
    der = ssl.PEM_cert_to_DER_cert(file.read_text())
    return hashlib.sha256(der).digest().hex(":").upper()


@asynccontextmanager
async def over_tls(certificate: tuple[Path, Path], **settings: Any) -> AsyncIterator[PveClient]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with listening(fine, tls=context) as (_, url):
        client = PveClient(url, permit=allow, **settings)
        async with client:
            yield client


async def test_a_ca_file_or_a_pinned_fingerprint_is_trusted(certificate: tuple[Path, Path]) -> None:
    trusted = ({"ca_file": certificate[0]}, {"fingerprint": fingerprint_of(certificate[0])})
    for settings in trusted:
        async with over_tls(certificate, **settings) as client:
            assert await client.bind(new_call()).get("/version") == {"ok": 1}


async def test_an_unknown_certificate_is_refused_and_its_fingerprint_told(
    certificate: tuple[Path, Path],
) -> None:
    async with over_tls(certificate) as client:
        with pytest.raises(Unavailable, match="not trusted") as caught:
            await client.description()
        assert f"PVEMCP_PVE_FINGERPRINT={fingerprint_of(certificate[0])}" in caught.value.hint
        assert "PVEMCP_PVE_CA_FILE" in caught.value.hint


async def test_another_certificate_than_the_pinned_one_is_refused(
    certificate: tuple[Path, Path],
) -> None:
    async with over_tls(certificate, fingerprint="AB" * 32) as client:
        with pytest.raises(Unavailable, match="another certificate") as caught:
            await client.description()
        assert fingerprint_of(certificate[0]) in caught.value.message


async def test_two_ways_of_trust_at_once_and_a_bad_ca_file_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("not a certificate")
    for settings in (
        {"ca_file": bad},
        {"ca_file": tmp_path / "none.pem"},
        {"ca_file": bad, "fingerprint": "AB" * 32},
    ):
        with pytest.raises(Misconfigured):
            PveClient("https://pve1", permit=allow, **settings)
