"""The audit at a remote syslog: RFC 5424 messages over TLS (RFC 5425), TCP (RFC 6587), or UDP.

Lines wait in memory while the other side is away, the newest ones; no call ever waits for them.
Nobody acknowledges a syslog message: what was sent as a connection broke may be lost. The next
anchor of the audit covers all before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

PORTS = {"tls": 6514, "tcp": 601, "udp": 514}
PRIORITY = 13 * 8 + 6
"""Facility "log audit", severity "informational"."""
WAITING = 10_000
"""Lines that wait at most; the oldest are dropped for newer ones."""
PATIENCE = 10.0
"""Seconds for a connection, and for each write."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the next attempt: the first, and at most."""
_HOST = "".join(char for char in socket.gethostname() if 32 < ord(char) < 127)[:255] or "-"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go. `ca`: PEM file of the authority of its certificate; None: the system's."""

    scheme: str
    host: str
    port: int
    ca: Path | None = None

    @classmethod
    def parse(cls, url: str, ca: Path | None) -> Receiver:
        """Read `tls://HOST[:PORT]`, `tcp://…` or `udp://…`, which the settings have checked."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme], ca)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect over TCP or TLS. Raises OSError, TimeoutError."""
        context = ssl.create_default_context(cafile=self.ca) if self.scheme == "tls" else None
        async with asyncio.timeout(PATIENCE):
            return await asyncio.open_connection(self.host, self.port, ssl=context)


class Syslog:
    """Sends lines to one receiver. `trouble` says why they do not arrive; empty when they do."""

    def __init__(self, receiver: Receiver, *, pause: float = PAUSE) -> None:
        """`pause`: seconds before the second attempt to connect."""
        self.receiver = receiver
        self.trouble = "not connected yet"
        self.lost = 0
        """Lines that were dropped because too many waited."""
        self._pause = pause
        self._lines: deque[bytes] = deque()
        self._news = asyncio.Event()

    def send(self, line: str) -> None:
        """Take one line. Never waits."""
        if len(self._lines) >= WAITING:
            self._lines.popleft()
            self.lost += 1
        self._lines.append(message(line, datetime.now(UTC)))
        self._news.set()

    @property
    def waiting(self) -> int:
        """Lines that are still to be sent."""
        return len(self._lines)

    async def run(self) -> None:
        """Send what comes, for ever."""
        pause = self._pause
        while True:
            try:
                await (self._datagrams() if self.receiver.scheme == "udp" else self._stream())
            except (OSError, TimeoutError) as error:
                if not self.trouble:
                    pause = self._pause
                self._say(str(error) or "no answer in time")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _stream(self) -> None:
        """Send over one connection until it ends."""
        reader, writer = await self.receiver.connect()
        ended = asyncio.create_task(reader.read(1))
        try:
            while not ended.done():
                self._say("")
                await self._some(ended)
                while self._lines and not ended.done():
                    line = self._lines[0]
                    writer.write(b"%d %s" % (len(line), line))
                    async with asyncio.timeout(PATIENCE):
                        await writer.drain()
                    self._sent(line)
            raise ConnectionResetError("the other side closed the connection")
        finally:
            ended.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await ended
            writer.close()

    async def _some(self, ended: asyncio.Task[bytes]) -> None:
        """Wait for a line, or for the end of the connection."""
        self._news.clear()
        if self._lines:
            return
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait((news, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _datagrams(self) -> None:
        """Send without a connection, until the system refuses to."""
        loop = asyncio.get_running_loop()
        address = (self.receiver.host, self.receiver.port)
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=address
        )
        try:
            self._say("")
            while not transport.is_closing():
                self._news.clear()
                while self._lines:
                    transport.sendto(self._lines[0])
                    self._sent(self._lines[0])
                await self._news.wait()
        finally:
            transport.close()

    def _sent(self, line: bytes) -> None:
        if self._lines and self._lines[0] is line:  # else it was dropped in the meantime
            self._lines.popleft()

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("the audit does not reach %s: %s", self.receiver, trouble)
        elif self.trouble and not trouble:
            log.info("the audit reaches %s", self.receiver)
        self.trouble = trouble


def message(line: str, moment: datetime) -> bytes:
    """Return a message of RFC 5424 with a line as its text."""
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{PRIORITY}>1 {stamp} {_HOST} pvemcp {os.getpid()} audit - "
    return (head + line).encode("utf-8", "replace")
