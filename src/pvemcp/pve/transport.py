"""HTTP to one PVE: connections, TLS, time-outs, limits. Knows nothing of methods or parameters."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.pve.outages import outage
from pvemcp.slots import Names, Pool, part

API_PORT = 8006
IDLE = 4.0
"""Seconds that an unused connection is kept: pveproxy closes it after 5."""
CONNECT = 5.0
"""Seconds for TCP and TLS."""
TOTAL = 35.0
"""Seconds for a whole request: pveproxy gives up on another node after 30 (then answers 596)."""
LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes, after decompression."""
ALL_LANES = 4
"""The requests in flight in all, as a multiple of those to one node."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `reason` is the raw reason phrase, where PVE puts its error text."""

    status: int
    reason: str
    body: bytes = field(repr=False)
    content_type: str = ""
    date: str = ""
    """PVE's own time, as it stands in the header."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where PVE is: a base URL without a trailing slash, and perhaps a Unix socket."""

    base: str
    host: str
    port: int
    secure: bool
    socket: str | None = None

    @property
    def near(self) -> bool:
        """The traffic stays on this machine: compressing it would only cost time."""
        return self.socket is not None or self.host in _LOOPBACK

    @classmethod
    def parse(cls, url: str, socket: str | None = None) -> Address:
        """Read a URL such as `https://pve1:8006`. Raises Misconfigured for any other kind.

        A Unix socket always speaks plain HTTP; the URL then only names the host.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise _bad_url(url) from None
        extra = parts.username or parts.password or parts.query or parts.fragment
        if parts.scheme not in {"http", "https"} or not host or extra:
            raise _bad_url(url)
        if parts.path.rstrip("/") not in {"", "/api2/json"}:
            raise _bad_url(url)
        secure = parts.scheme == "https" and socket is None
        if not secure and socket is None and host not in _LOOPBACK:
            raise Misconfigured(
                f"{url} is plain HTTP to another machine",
                hint="Use https://; the API token would travel readable otherwise.",
            )
        port = port or (API_PORT if secure else 80)
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if secure else "http"
        return cls(f"{scheme}://{shown}:{port}", host, port, secure, socket)


def _bad_url(url: str) -> Misconfigured:
    shown = url.rpartition("@")[2][:100]
    return Misconfigured(f"{shown!r} is not the URL of a PVE", hint="Example: https://pve1:8006")


def parse_fingerprint(text: str) -> bytes:
    """Return the 32 bytes of a SHA-256 fingerprint such as `AB:CD:…`, or b"" for none."""
    try:
        digest = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        digest = b"?"
    if digest and len(digest) != 32:
        raise Misconfigured(
            "the PVE fingerprint is not a SHA-256 fingerprint",
            hint="It has 64 hex digits; on the node: pvenode cert info (for pveproxy-ssl.pem, "
            "or pve-ssl.pem if that does not exist).",
        )
    return digest


class Lanes:
    """Slots for requests: a few for each lane (a node), and a bound over all.

    A node that hangs fills its own lane only, and no holder (a grant) fills a lane alone. What is
    empty is forgotten.
    """

    def __init__(self, each: int, *, patience: float) -> None:
        self._each = each
        self._patience = patience
        self._pool = Pool()
        self._all: Names = ((("",), each * ALL_LANES),)

    @contextlib.asynccontextmanager
    async def slot(self, lane: str, share: int = 1, holder: str = "") -> AsyncIterator[None]:
        """Hold a slot of the lane, which has a `share`-th of the usual slots.

        Raises Unavailable when none becomes free in time.
        """
        each = max(1, self._each // share)
        names: Names = ((lane, each), *self._all)
        if holder:
            whole = part(self._each * ALL_LANES)
            names = (((lane, holder), part(each)), ((holder,), whole), *names)
        if not self._pool.take(names):
            await self._wait(names, lane)
        try:
            yield
        finally:
            self._pool.give(names)

    async def _wait(self, names: Names, lane: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._pool.wait(names)
        except TimeoutError:
            where = f"node {lane}" if lane else "PVE"
            raise Unavailable(
                f"too many requests wait for {where}, which answers slowly",
                hint="Nothing was sent. Try again later, or look at another node meanwhile.",
            ) from None


class Transport:
    """Connections to one PVE, shared by all principals: the credential goes with each request."""

    def __init__(
        self,
        address: Address,
        *,
        ca_file: Path | None = None,
        fingerprint: bytes = b"",
        concurrency: int = 8,
        timeout: float = TOTAL,
    ) -> None:
        self.address = address
        self._tls = _tls(address, ca_file, fingerprint)
        self._lanes = Lanes(concurrency, patience=timeout)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        verb: str,
        target: str,
        *,
        headers: dict[str, str],
        body: bytes | None = None,
        lane: tuple[str, int] = ("", 1),
        holder: str = "",
    ) -> Reply:
        """Send one request and read its whole answer, whatever its status.

        A GET is sent once more when the connection turns out to be closed; nothing else is ever
        repeated. Raises Unavailable when nothing can have happened, Uncertain when a write's
        answer was lost.
        """
        async with self._lanes.slot(*lane, holder):
            started = time.time()
            try:
                try:
                    return await self._once(verb, target, headers, body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if verb != "GET" or isinstance(error, aiohttp.ClientConnectorError):
                        raise
                    return await self._once(verb, target, headers, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                seen = await self._certificate(error)
                place = self.address.socket or self.address.base
                raise outage(error, verb, place=place, started=started, seen=seen) from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _once(
        self, verb: str, target: str, headers: dict[str, str], body: bytes | None
    ) -> Reply:
        session = self._session or self._open()
        url = URL(self.address.base + target, encoded=True)
        async with session.request(
            verb, url, headers=headers, data=body, allow_redirects=False
        ) as response:
            return Reply(
                status=response.status,
                reason=_text(response.reason or ""),
                body=await _read(response),
                content_type=response.headers.get("Content-Type", ""),
                date=response.headers.get("Date", ""),
            )

    def _open(self) -> aiohttp.ClientSession:
        address = self.address
        connector: aiohttp.BaseConnector
        if address.socket is not None:
            connector = aiohttp.UnixConnector(address.socket, limit=0, keepalive_timeout=IDLE)
        else:
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=0, keepalive_timeout=IDLE)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=CONNECT),
            skip_auto_headers=("Accept-Encoding",) if address.near else (),
            headers={"User-Agent": "pvemcp", "Accept": "application/json"},
        )
        # aiohttp repeats PUT and DELETE by itself on a closed connection, and has no public switch.
        session._retry_connection = False  # noqa: SLF001
        self._session = session
        return session

    async def _certificate(self, error: BaseException) -> str:
        """Return the fingerprint that PVE shows, when its certificate is the trouble."""
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            return _colons(error.got)
        if not isinstance(error, aiohttp.ClientConnectorCertificateError):
            return ""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # nothing is sent: only the certificate is read
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT):
                _, writer = await asyncio.open_connection(
                    self.address.host, self.address.port, ssl=context
                )
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            return _colons(hashlib.sha256(certificate).digest())
        return ""


def _tls(
    address: Address, ca_file: Path | None, fingerprint: bytes
) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    if ca_file is not None and fingerprint:
        raise Misconfigured(
            "both a CA file and a fingerprint are set for PVE",
            hint="Keep one: PVEMCP_PVE_CA_FILE or PVEMCP_PVE_FINGERPRINT.",
        )
    if not address.secure:
        return True
    return aiohttp.Fingerprint(fingerprint) if fingerprint else verifying(ca_file)


def verifying(ca_file: Path | None) -> ssl.SSLContext:
    """Return what verifies PVE's certificate: by a CA file, or by the system's authorities."""
    if ca_file is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"the CA file {ca_file} cannot be read as PEM certificates: {error}",
            hint="PVE's own CA is /etc/pve/pve-root-ca.pem; set PVEMCP_PVE_CA_FILE to a copy.",
        ) from error
    # PVE's own CA lacks extensions that Python 3.13 asks for; the chain itself is still verified.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def _read(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length > LARGEST_ANSWER:
        raise _too_large()
    if length is not None and "Content-Encoding" not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LARGEST_ANSWER:
            raise _too_large()
        parts.append(piece)
    return b"".join(parts)


def _too_large() -> aiohttp.ClientPayloadError:
    return aiohttp.ClientPayloadError(f"the answer is larger than {LARGEST_ANSWER >> 20} MiB")


def _text(reason: str) -> str:
    """Undo the parser's surrogates: a reason phrase may hold any bytes."""
    return reason.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()
