"""The audit at a syslog on another machine: it arrives, it waits, it slows nobody down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pvemcp import syslog
from pvemcp.audit import Audit
from pvemcp.chain import Chain
from pvemcp.errors import Misconfigured
from pvemcp.health.syslog import check_syslog
from pvemcp.retention import anchoring
from pvemcp.settings import Settings
from pvemcp.sim.tls import make_certificates
from pvemcp.syslog import Receiver, Syslog
from pvemcp.verifying import anchors_in, verify
from tests.scenarios.browsing import site
from tests.scenarios.test_monitoring import checks

MESSAGE = re.compile(r"<110>1 \d{4}-\d\d-\d\dT[\d:.]+Z \S+ pvemcp \d+ audit - (\{.*\})")


class Log:
    """A syslog on loopback that keeps what comes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.seen: list[str] = []
        self.connections: list[asyncio.StreamWriter] = []

    async def took(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read messages with their lengths before them (RFC 6587), until the end."""
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = int(await reader.readuntil(b" "))
                self.lines.put_nowait((await reader.readexactly(length)).decode())
        writer.close()

    async def until(self, word: str) -> str:
        """Return the next line with a word in it."""
        async with asyncio.timeout(20):
            while word not in (line := await self.lines.get()):
                self.seen.append(line)
        return line


@asynccontextmanager
async def log(port: int = 0, context: ssl.SSLContext | None = None) -> AsyncIterator[Log]:
    """Run a syslog."""
    made = Log(port)
    server = await asyncio.start_server(made.took, "127.0.0.1", port, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in made.connections:
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def sending(url: str, ca: Path | None = None) -> AsyncIterator[Syslog]:
    """Run what sends."""
    made = Syslog(Receiver.parse(url, ca), pause=0.01)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_every_record_arrives_over_tls_and_says_what_the_audit_says(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, names=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.chain_file, made.key_file)
    async with log(context=context) as there:
        url = f"tls://localhost:{there.port}"
        async with (
            site(audit_syslog=url, audit_syslog_rows=True, audit_syslog_ca=made.ca_file) as s,
            s.web.client() as client,
        ):
            await client.call("api_read", path="/version")
            found = MESSAGE.fullmatch(await there.until('"tool":"api_read"'))
            assert found is not None
            (row,) = [e for e in Audit(s.rig.store, None).rows() if e.tool == "api_read"]
            assert json.loads(found[1])["id"] == row.id
            await s.web.post({"Authorization": "Bearer pvemcp_wrong"})
            assert '"reason":"invalid_token"' in await there.until('"event":"refused"')
            assert (await checks(s.web))["syslog"]["state"] == "ok"


async def test_without_rows_only_anchors_go_and_the_audit_is_verified_with_them() -> None:
    async with log() as there, site(audit_syslog=f"tcp://127.0.0.1:{there.port}") as s:
        async with s.web.client() as client:
            await client.call("api_read", path="/version")
        audit = Audit(s.rig.store, None)
        async with sending(f"tcp://127.0.0.1:{there.port}") as sender:
            task = asyncio.create_task(anchoring(audit, None, tell=sender.send, every=0.01))
            await asyncio.sleep(0)  # it looks at the head from which it goes on
            audit.event("freeze", {"client": "x"})
            line = await there.until("audit anchor")
            task.cancel()
        assert there.seen == []
        anchors = anchors_in([line])
        assert len(anchors) == 1
        assert verify(Chain(s.rig.store), anchors) == ""
        s.rig.store.write("DELETE FROM chain WHERE number = ?", (anchors[0].number,))
        assert "missing" in verify(Chain(s.rig.store), anchors)


async def test_a_wrong_certificate_gets_nothing_and_is_told(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, names=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.chain_file, made.key_file)
    async with log(context=context) as there:
        url = f"tls://localhost:{there.port}"
        async with site(audit_syslog=url, audit_syslog_rows=True) as s, s.web.client() as client:
            await client.call("api_read", path="/version")
            async with asyncio.timeout(20):
                while "certificate" not in (found := (await checks(s.web))["syslog"])["reason"]:
                    await asyncio.sleep(0.05)
        assert found["state"] == "warn"
        assert "lines wait" in found["reason"]
        assert there.lines.empty()


async def test_lines_wait_while_it_is_away_and_arrive_in_their_order() -> None:
    async with log() as first:
        port = first.port
    async with sending(f"tcp://127.0.0.1:{port}") as sender:
        for number in range(100):
            sender.send(f'{{"line":{number}}}')
        while not sender.trouble.startswith("[Errno"):
            await asyncio.sleep(0)
        async with log(port) as again:
            lines = [await again.until("line") for _ in range(100)]
        assert [int(line.rpartition(":")[2][:-1]) for line in lines] == list(range(100))


async def test_a_connection_that_ends_is_made_anew() -> None:
    async with log() as there, sending(f"tcp://127.0.0.1:{there.port}") as sender:
        sender.send('{"line":1}')
        await there.until("line")
        there.connections[0].transport.abort()
        while "closed" not in sender.trouble and len(there.connections) < 2:
            await asyncio.sleep(0)
        sender.send('{"line":2}')
        assert '"line":2' in await there.until("line")


async def test_who_does_not_read_costs_the_oldest_lines_and_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(syslog, "WAITING", 50)
    sender = Syslog(Receiver.parse("tcp://127.0.0.1:9", None))
    for number in range(200):
        sender.send(str(number))
    assert (sender.waiting, sender.lost) == (50, 150)


async def test_datagrams_arrive() -> None:
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    class Receives(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
            lines.put_nowait(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Receives, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    async with sending(f"udp://127.0.0.1:{port}") as sender:
        sender.send('{"line":1}')
        found = MESSAGE.fullmatch((await lines.get()).decode())
        assert found is not None
        assert found[1] == '{"line":1}'
    transport.close()


async def test_doctor_connects_to_it(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, names=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.chain_file, made.key_file)
    async with log(context=context) as there:
        url = f"tls://localhost:{there.port}"
        good = Settings(audit_syslog=url, audit_syslog_ca=made.ca_file)
        assert [check.ok for check in await check_syslog(good)] == [True]
        (wrong,) = await check_syslog(Settings(audit_syslog=url))
        assert "certificate verify failed" in wrong.message
    (gone,) = await check_syslog(good)
    assert not gone.ok
    assert await check_syslog(Settings()) == []


@pytest.mark.parametrize("url", ["log.example", "http://log", "tls://", "tcp://log:0", "tls://a/b"])
def test_a_wrong_address_says_how_to_write_it(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"is no syslog[\s\S]*tls://log.example.org:6514"):
        Settings.load(None, {"PVEMCP_AUDIT_SYSLOG": url})
