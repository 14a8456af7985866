"""A real guest agent behind a simulated guest, in the dialect of PVE.

A command comes after a guest-ping, as with PVE, but both in one connection, which saves the agent's
pause after each. QEMU serves one connection at a time. What PVE 9.2 does to characters beyond ASCII
is done to them here too.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pvemcp.sim.declare import Ask
from pvemcp.sim.refusal import Refusal, failed
from pvemcp.sim.world import Guest

SECONDS, PING_SECONDS = 5.0, 3.0
_READ_LIMIT, _READ_SIZE = 16 << 20, 1 << 20
_LINE = 64 << 20
"""Bytes of an answer at most."""
_ABSENT = "QEMU guest agent is not running"
_ids = itertools.count(1000)


class AgentFault(Exception):  # noqa: N818
    """The agent answered with an error, or (`silent`) not in time."""

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


async def command(path: str, execute: str, /, *, seconds: float = SECONDS, **arguments: Any) -> Any:
    """Let the agent behind a Unix socket execute one command. Raises AgentFault, OSError."""
    async with _connection(path, seconds) as connection:
        return await connection.ask(execute, arguments, seconds)


@asynccontextmanager
async def _connection(path: str, seconds: float) -> AsyncIterator[_Connection]:
    try:
        async with asyncio.timeout(seconds):
            sock = await _connected(path)
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LINE)
    except TimeoutError:
        raise AgentFault("got timeout", silent=True) from None
    try:
        yield _Connection(reader, writer)
    finally:
        writer.transport.abort()


async def _connected(path: str) -> socket.socket:
    """Connect; while QEMU serves somebody else and another waits, that is refused."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # noqa: FBT003
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(0.1)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


@dataclass(frozen=True, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, execute: str, arguments: Mapping[str, Any], seconds: float) -> Any:
        """Execute a command. Raises AgentFault, OSError."""
        try:
            async with asyncio.timeout(seconds):
                return await self._asked(execute, arguments)
        except TimeoutError:
            raise AgentFault("got timeout", silent=True) from None
        except asyncio.IncompleteReadError:
            raise ConnectionError("client closed connection") from None

    async def _asked(self, execute: str, arguments: Mapping[str, Any]) -> Any:
        mark = next(_ids)
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        lines = (
            {"execute": "guest-sync-delimited", "arguments": {"id": mark}},
            {"execute": execute, "arguments": given},
        )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # PVE counts characters and writes as many bytes: what has more bytes loses its end.
        self.writer.write(text.encode("utf-8", "surrogatepass")[: len(text)])
        while True:  # what was for an earlier connection comes first
            await self.reader.readuntil(b"\xff")
            if json.loads(await self.reader.readline()).get("return") == mark:
                break
        answer = json.loads(await self.reader.readline())
        if "error" in answer:
            raise AgentFault(str(answer["error"].get("desc", "")))
        return answer["return"]


async def bridge(ask: Ask, guest: Guest, endpoint: str) -> Any:
    """Answer an endpoint below `agent` by the agent behind the guest's socket. Raises Refusal."""
    try:
        async with _connection(guest.agent_socket, PING_SECONDS) as connection:
            real = _Real(guest.vmid, connection)
            if (handler := _HANDLERS.get(endpoint)) is not None:
                return await handler(real, ask.args)
            return {"result": await real.checked(f"guest-{endpoint}")}
    except (AgentFault, OSError):
        raise failed(_ABSENT) from None


@dataclass(frozen=True, slots=True)
class _Real:
    """The agent of one guest; its faults are told as PVE tells them."""

    vmid: int
    connection: _Connection

    async def checked(self, execute: str, **arguments: Any) -> Any:
        """Execute a command if the agent answers a ping."""
        try:
            await self.connection.ask("guest-ping", {}, PING_SECONDS)
        except (AgentFault, OSError):
            raise failed(_ABSENT) from None
        return await self.execute(execute, **arguments)

    async def execute(self, execute: str, **arguments: Any) -> Any:
        """Execute a command."""
        about = f"VM {self.vmid} qga command '{execute}' failed"
        try:
            return await self.connection.ask(execute, arguments, SECONDS)
        except AgentFault as fault:
            if fault.silent:
                raise failed(f"{about} - {fault}") from None
            if any(ord(character) > 255 for character in str(fault)):
                # The agent's “quotes” kill pvedaemon.
                raise Refusal(596, "Broken pipe", body="none") from None
            raise failed(f"Agent error: {fault}") from None
        except OSError:
            raise failed(f"{about} - client closed connection") from None


async def _exec(real: _Real, args: Mapping[str, Any]) -> dict[str, Any]:
    program, *rest = args["command"] or [""]
    given = {}
    if "input-data" in args:
        given["input_data"] = base64.b64encode(_bytes(args["input-data"])).decode()
    answer = await real.checked("guest-exec", path=program, arg=rest, capture_output=True, **given)
    return {"pid": answer["pid"]}


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise failed(
            "Wide character in subroutine entry at "
            "/usr/share/perl5/PVE/QemuServer/Agent.pm line 135."
        ) from None


async def _exec_status(real: _Real, args: Mapping[str, Any]) -> dict[str, Any]:
    answer = await real.checked("guest-exec-status", pid=args["pid"])
    return {name: _shown(name, value) for name, value in answer.items()}


def _shown(name: str, value: Any) -> Any:
    if name in {"out-data", "err-data"}:
        return base64.b64decode(value).decode("latin-1")
    return int(value) if isinstance(value, bool) else value


async def _file_read(real: _Real, args: Mapping[str, Any]) -> dict[str, Any]:
    handle = await real.checked("guest-file-open", path=args["file"])
    if offset := args.get("offset", 0):
        await real.execute("guest-file-seek", handle=handle, offset=offset, whence="set")
    most, count, ended = args.get("count", _READ_LIMIT), 0, False
    content = ""
    while count < most and not ended:
        size = min(_READ_SIZE, most - count)
        piece = await real.execute("guest-file-read", handle=handle, count=size)
        data = piece["buf-b64"]
        content += base64.b64decode(data).decode("latin-1") if args.get("decode", True) else data
        count, ended = count + piece["count"], bool(piece.get("eof"))
    await real.execute("guest-file-close", handle=handle)
    cut = {} if ended else {"truncated": 1}
    return {"content": content, "bytes-read": count, **cut}


async def _file_write(real: _Real, args: Mapping[str, Any]) -> None:
    content = str(args["content"])
    if args.get("encode", True):
        content = base64.b64encode(_bytes(content)).decode()
    handle = await real.checked("guest-file-open", path=args["file"], mode="wb")
    await real.checked("guest-file-write", handle=handle, buf_b64=content)
    await real.checked("guest-file-close", handle=handle)


_HANDLERS: Mapping[str, Callable[[_Real, Mapping[str, Any]], Awaitable[Any]]] = {
    "exec": _exec,
    "exec-status": _exec_status,
    "file-read": _file_read,
    "file-write": _file_write,
}
