"""Attacks that must keep failing: on the ceiling, the door, the audit, and from PVE's side."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Fault
from pvemcp.redaction import redact
from tests.scenarios.rig import Rig, ToolFault, rig
from tests.scenarios.test_guests import a_guest
from tests.scenarios.test_http import DISCOVER, HEADERS, Web, opened_session, web
from tests.unit.pve_server import Handler, Last, Request, answer, client_of, new_call, raw

TASKS = "io.modelcontextprotocol/tasks"
CONFIG = "/nodes/pve1/qemu/100/config"
HASTY = 10.0
"""Seconds after which an answer counts as a hang."""


def written(r: Rig) -> list[tuple[str, str]]:
    """Return what PVE was asked to do, reads aside."""
    return [key for key in r.world.requests if key[0] != "GET"]


# The ceiling


DESTRUCTIVE: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("PUT", CONFIG, {"delete": text})
        for text in (
            "scsi0", "net0,scsi0", "net0;scsi0", "net0 scsi0", "net0\tscsi0", "net0\nscsi0",
            "net0\r\nscsi0", " scsi0 ", ",scsi0", "scsi0\n", "scsi00", ["net0", "scsi0"],
            "net0\x00scsi0", "net0\xa0scsi0", "net0\u2028scsi0", "unused0", "efidisk0",
        )
    ),
    *(("PUT", CONFIG, {"delete": "net0", "force": yes}) for yes in (1, "1", True)),
    ("POST", CONFIG, {"delete": "scsi0"}),
    ("PUT", CONFIG, {"delete[]": "scsi0"}),
    ("PUT", CONFIG, {"Delete": "scsi0"}),
    ("PUT", CONFIG, {"node": "pve1", "vmid": 101, "name": "x"}),
    ("PUT", CONFIG, {"name": "x&delete=scsi0"}),
    ("POST", "/nodes/pve1/qemu/100/status/stop", {}),
    ("POST", "//nodes/pve1/qemu/100/status/stop", {}),
    ("POST", "/api2/json/nodes/pve1/qemu/100/status/stop", {}),
    ("POST", "/nodes/pve1/qemu/100/status/%73top", {}),
    ("POST", "/nodes/pve1/qemu/100/%73tatus%2fstop", {}),
    ("POST", "/nodes/pve1/qemu/100/status/{x}", {"x": "stop"}),
    ("POST", "/nodes/pve1/qemu/{x}", {"x": "100/status/stop"}),
    ("POST", "/nodes/pve1/qemu/100/status/start/../stop", {}),
    ("POST", "/nodes/pve1/qemu/100/status/start/%2e%2e/stop", {}),
    ("POST", "/nodes/pve1/qemu/100/status/stop?x=1", {}),
    *(
        ("POST", "/nodes/pve1/qemu/100/status/shutdown", {"forceStop": yes})
        for yes in (1, "1", True)
    ),
    ("POST", "/nodes/pve1/vzdump", {"vmid": "100", "prune-backups": "keep-last=1"}),
    ("POST", "/nodes/pve1/qemu", {"vmid": 100, "archive": "local:backup/x", "force": True}),
    ("PUT", "/access/acl", {"path": "/", "roles": "Administrator", "users": "root@pam"}),
    ("PUT", "/%61ccess/acl", {"path": "/", "roles": "Administrator", "users": "root@pam"}),
    ("POST", "/nodes/pve1/{x}", {"x": "execute", "commands": "[]"}),
]  # fmt: skip


async def test_a_grant_to_change_destroys_nothing() -> None:
    async with rig() as r, r.client(ceiling=Effect.CHANGE) as client:
        for method, path, params in DESTRUCTIVE:
            for tool in ("api_change", "api_destroy"):
                with pytest.raises(ToolFault):
                    await client.call(tool, method=method, path=path, params=params, wait=0)
            assert written(r) == [], (method, path, params)


@pytest.mark.parametrize("verb", ["POST", "post", "PoSt"])
@pytest.mark.parametrize("path", ["/nodes/pve1/qemu/106/status/start", "/nodes/pve1/vzdump"])
async def test_a_grant_to_read_changes_nothing_whatever_the_tools_forget(
    verb: str, path: str
) -> None:
    async with rig() as r:
        call = new_call(ApiToken(*r.world.token()), Effect.READ)
        with pytest.raises(Fault, match=r"ceiling|effect|denied"):
            await r.pve.bind(call).request(verb, path, {})
        assert written(r) == []


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("api_change", {"method": "POST", "path": "/nodes/pve1/qemu/106/status/start"}),
        ("api_destroy", {"path": "/nodes/pve1/qemu/106"}),
        ("guest_power", {"guests": "106", "action": "start"}),
        ("task_stop", {"upid": "UPID:pve1:0000A1B2:00C3D4E5:65F00000:qmstart:100:root@pam:"}),
    ],
)
async def test_a_tool_that_is_not_listed_is_refused(tool: str, arguments: dict[str, Any]) -> None:
    async with rig() as r, r.client(ceiling=Effect.READ) as client:
        assert tool not in [listed.name for listed in (await client.mcp.list_tools()).tools]
        before = r.asked()
        with pytest.raises(ToolFault, match=r"^denied: .*ceiling is read"):
            await client.call(tool, **arguments)
        assert r.asked() == before
        assert r.audit()[-1].outcome == "denied"


@pytest.mark.parametrize("name", ["__class__", "__proto__", "constructor", "pve", "verb"])
async def test_names_of_the_program_are_no_arguments(name: str) -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="unknown argument"):
            await client.call("api_read", path="/version", **{name: 1})
        with pytest.raises(ToolFault, match="unknown parameter"):
            await client.call("api_read", path="/version", params={name: 1})
        assert written(r) == []


# Tasks of others


async def about_a_task(w: Web, method: str, upid: str, secret: str) -> tuple[int, str]:
    meta = dict(DISCOVER["params"]["_meta"])
    meta["io.modelcontextprotocol/clientCapabilities"] = {"extensions": {TASKS: {}}}
    headers = {"Mcp-Method": method, "Mcp-Name": upid, "Authorization": f"Bearer {secret}"}
    params = {"taskId": upid, "_meta": meta}
    status, _, text = await w.post(headers, json={**DISCOVER, "method": method, "params": params})
    return status, text


@pytest.mark.parametrize("ceiling", [Effect.READ, Effect.CHANGE])
async def test_a_lower_ceiling_cancels_no_task(ceiling: Effect) -> None:
    async with web() as w:
        _, secret = w.grants.create("other", ceiling)
        upid = await started_task(w)
        status, text = await about_a_task(w, "tasks/cancel", upid, secret)
        assert (status, "ceiling" in text) == (400, True)
        assert w.rig.running() == [upid]


async def test_a_token_without_rights_learns_nothing_of_another_ones_task() -> None:
    async with web() as w:
        weak = w.rig.world.token("root@pam", "weak", privsep=True)
        _, secret = w.grants.create("weak", Effect.DESTROY, token=ApiToken(*weak))
        upid = await started_task(w)
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            status, text = await about_a_task(w, method, upid, secret)
            assert (status, "lacks" in text) == (400, True)
        assert w.rig.running() == [upid]


async def test_a_client_with_the_same_pve_token_cancels_no_task_of_another() -> None:
    async with web() as w:
        _, secret = w.grants.create("other", Effect.DESTROY)
        vmid = a_guest(w.rig, running=False)
        async with w.client() as client:
            await client.call("guest_power", guests=vmid, action="start", wait=0)
        (upid,) = w.rig.running()
        status, text = await about_a_task(w, "tasks/cancel", upid, secret)
        assert (status, "not started by this client" in text) == (400, True)
        assert w.rig.running() == [upid]
        status, text = await about_a_task(w, "tasks/cancel", upid, w.secret)
        assert (status, w.rig.running()) == (200, [])


async def test_a_session_of_the_old_era_cannot_reach_the_methods_of_tasks() -> None:
    async with web() as w:
        upid = await started_task(w)
        headers = {
            "MCP-Protocol-Version": "2025-11-25",
            "Mcp-Method": "",
            "Mcp-Session-Id": await opened_session(w),
        }
        message = {**DISCOVER, "method": "tasks/cancel", "params": {"taskId": upid}}
        assert '"error"' in (await w.post(headers, json=message))[2]
        assert w.rig.running() == [upid]


async def started_task(w: Web) -> str:
    """Start a guest whose task does not end; return the UPID."""
    call = new_call(ApiToken(*w.rig.world.token()))
    path = f"/nodes/pve1/qemu/{a_guest(w.rig, running=False)}/status/start"
    return str(await w.rig.pve.bind(call).post(path))


async def test_a_client_that_hangs_up_ends_its_call_and_the_audit_says_so() -> None:
    async with web() as w:
        arguments = {"guests": a_guest(w.rig, running=False), "action": "start", "wait": 600}
        params = {**DISCOVER["params"], "name": "guest_power", "arguments": arguments}
        message = json.dumps({**DISCOVER, "method": "tools/call", "params": params}).encode()
        names = {**HEADERS, "Mcp-Method": "tools/call", "Mcp-Name": "guest_power"}
        async with connected(w) as (_, writer):
            writer.write(request(w, message, names))
            await w.rig.until_running()
            writer.transport.abort()
        async with asyncio.timeout(HASTY):
            while w.rig.audit()[-1].outcome != "cancelled":
                await asyncio.sleep(0)


# The door


@asynccontextmanager
async def connected(w: Web) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = w.url.removeprefix("http://").removesuffix("/mcp").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(
    w: Web, body: bytes, headers: dict[str, str], *lines: bytes, first: bytes = b"POST /mcp"
) -> bytes:
    """Write a request with the right secret; without a Host among `lines` it has the usual one."""
    head = [first + b" HTTP/1.1", b"Connection: close", b"Content-Length: %d" % len(body)]
    head += [b"Authorization: Bearer " + w.secret.encode(), b"Content-Type: application/json"]
    head += [f"{name}: {value}".encode() for name, value in headers.items()]
    named = any(line.lower().startswith(b"host:") for line in lines)
    head += [*lines] if named else [b"Host: localhost", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def status_of(w: Web, *lines: bytes, first: bytes = b"POST /mcp") -> int:
    """Send a list of tools with these header lines; return the status."""
    async with connected(w) as (reader, writer), asyncio.timeout(HASTY):
        writer.write(request(w, json.dumps(DISCOVER).encode(), HEADERS, *lines, first=first))
        return int((await reader.read(65536)).split(b" ", 2)[1])


FOREIGN_HOSTS = [
    b"localhost.", b"127.1", b"2130706433", b"0x7f.1", b"0.0.0.0", b"[::ffff:127.0.0.1]",
    b"localhost@evil.example", b"evil.example#@localhost", b"evil.example/localhost",
    b"evil.example/@localhost", b"localhost,evil.example", b"[::1", b"", b"\xff",
    b"127.0.0.1%00", b"localhost.evil.example",
]  # fmt: skip


async def test_a_host_that_is_not_ours_is_misdirected() -> None:
    async with web() as w:
        for host in FOREIGN_HOSTS:
            assert await status_of(w, b"Host: " + host) == 421, host


@pytest.mark.parametrize(
    "lines",
    [
        (b"Host: localhost", b"Host: evil.example"),
        (b"Host: evil.example", b"Host: localhost"),
        (b"Authorization: Bearer x",),
    ],
)
async def test_a_header_that_decides_must_come_once(lines: tuple[bytes, ...]) -> None:
    async with web() as w:
        assert await status_of(w, *lines) == 400


FOREIGN_ORIGINS = [
    b"null", b"file://", b"localhost", b"http://localhost.evil.example",
    b"http://localhost@evil.example", b"http://localhost,http://evil.example",
    b"chrome-extension://abc",
]  # fmt: skip


async def test_a_page_of_another_origin_is_refused() -> None:
    async with web() as w:
        for origin in FOREIGN_ORIGINS:
            assert await status_of(w, b"Origin: " + origin) == 403, origin


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_page_may_send_without_asking_is_no_message(kind: str) -> None:
    async with web() as w:
        body = json.dumps(DISCOVER).encode()
        assert 400 <= (await w.post({"Content-Type": kind}, data=body))[0] < 500


# PVE's side


def always(said: bytes | None) -> Handler:
    async def handle(_: Request) -> bytes | None:
        return said

    return handle


def bomb(mebibytes: int) -> bytes:
    """Return gzip that unpacks to that much."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize(
    "said",
    [
        Last(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
        Last(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
        Last(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),
        Last(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        Last(b"SSH-2.0-OpenSSH_9.9\r\n"),
        Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b'{"data":' + b"[" * 200_000),
        raw(b'{"data":' + b'{"a":' * 200_000),
        raw(b'{"data":' + b"9" * 10_000 + b"}"),
        raw(b"\xff\xfe\x00"),
        raw(b"", status=200),
        answer(status=500, reason="x\x1b[2J" + "y" * 3000),
        answer(status=400, reason="x", errors={"\x1b[2J": ["a"], "b": {"c": 1}}),
        answer(status=400, reason="x", errors=["a"]),
        None,
    ],
)
async def test_no_answer_of_pve_is_more_than_a_fault(said: bytes | None) -> None:
    async with client_of(always(said)) as (client, server), asyncio.timeout(HASTY):
        with pytest.raises(Fault):
            await client.bind(new_call()).get("/version")
        assert len(server.asked) <= 2  # a closed connection is tried once more


async def test_a_small_answer_that_unpacks_to_gigabytes_is_refused() -> None:
    packed = raw(bomb(64), headers="Content-Encoding: gzip\r\n")
    async with client_of(always(packed)) as (client, _), asyncio.timeout(HASTY):
        with pytest.raises(Fault, match="larger than 32 MiB"):
            await client.bind(new_call()).get("/version")


async def test_a_redirect_carries_the_token_nowhere() -> None:
    away = Last(b"HTTP/1.1 307 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with client_of(always(away)) as (client, server):
        with pytest.raises(Fault, match="redirect"):
            await client.bind(new_call()).get("/version")
        assert all("elsewhere" not in target for target in server.asked)


# What is written down


SECRETS: list[dict[str, Any]] = [
    {"params": {"cipassword": "S3cret-Value"}},
    {"params": {"PASSWORD": "S3cret-Value"}},
    {"params": {"confirmation-password": "S3cret-Value"}},
    {"params": {"userPassword": "S3cret-Value"}},
    {"params": {"eab-hmac-key": "S3cret-Value"}},
    {"params": {"encryption-key": "S3cret-Value"}},
    {"params": {"api_key": "S3cret-Value"}},
    {"params": {"secret": ["name=x,value=S3cret-Value"]}},
    {"params": {"token": {"nested": ["S3cret-Value"]}}},
    {"params": {"otel-headers": "Authorization=Bearer S3cret-Value"}},
    {"params": {"command": ["x", "--password", "S3cret-Value"]}},
    {"params": {"command": ["x", "--password=S3cret-Value"]}},
    {"params": {"command": 'curl -H "Authorization: Bearer S3cret-Value"'}},
    {"params": {"url": "https://user:S3cret-Value@host/"}},
    {"params": {"url": "https://host/?token=S3cret-Value&x=1"}},
    {"params": {"content": "#cloud-config\npassword: S3cret-Value\n"}},
    {"params": {"env": "DB_PASSWORD=S3cret-Value"}},
    {"params": {"data": '{"apiToken":"S3cret-Value"}'}},
    {"params": {"x": "-----BEGIN PRIVATE KEY-----\nS3cret-Value"}},
    {"params": {"x": "PVEAuthCookie=PVE%3Aroot@pam%3A65F00000%3A%3AS3cret-Value"}},
    {"params": {"name": "password", "value": "S3cret-Value"}},
    {"params": {"password=S3cret-Value": 1}},
    {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"password": "S3cret-Value"}}}}}}}}}},
]


async def test_a_secret_reaches_neither_audit_nor_journal() -> None:
    async with rig() as r, r.client() as client:
        for arguments in SECRETS:
            assert "S3cret-Value" not in json.dumps(redact(arguments)), arguments
            with pytest.raises(ToolFault):
                await client.call("api_change", method="PUT", path="/no/such", **arguments)
        assert "S3cret-Value" not in repr(r.audit()) + r.journal.getvalue()
        assert stored(r, "S3cret-Value") == []


def stored(r: Rig, text: str) -> list[str]:
    """Return the files of the state folder that hold the text."""
    folder = r.store.path.parent
    files = (path for path in folder.iterdir() if path.is_file())  # beside them is a socket
    return [path.name for path in files if text.encode() in path.read_bytes()]


async def test_the_secret_of_a_grant_and_of_pve_is_written_nowhere() -> None:
    async with web() as w, w.client() as client:
        await client.call("api_read", path="/version")
        with pytest.raises(ToolFault):
            await client.call("api_read", path=f"/x/{w.secret}", params={"a": w.secret})
        pve_secret = w.rig.world.token()[1]
        assert stored(w.rig, w.secret) == []
        assert stored(w.rig, pve_secret) == []
        assert w.secret not in repr(w.rig.audit()) + repr(w.grants.list())
