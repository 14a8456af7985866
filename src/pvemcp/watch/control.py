"""The control socket: how `pvemcp` on the command line asks the service that is running.

A Unix socket in the state folder (0600, in a folder of 0700): only root and the service's own user
can connect. One line of JSON goes in, one comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pvemcp.errors import Fault
from pvemcp.watch.asking import FILE, LINE, SECONDS

logger = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")

Order = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes a request; returns what JSON can hold, or raises a Fault."""


@contextlib.asynccontextmanager
async def serve(folder: Path, orders: Mapping[str, Order]) -> AsyncIterator[None]:
    """Answer requests until the end of the block.

    Without a socket (a full disk, a path that is too long) the service goes on and says so.
    """
    path = folder / FILE
    try:
        server = await asyncio.start_unix_server(
            lambda reader, writer: _answer(reader, writer, orders), sock=_bind(path), limit=LINE
        )
    except OSError as error:
        logger.warning("no control socket at %s: %s; pvemcp sessions cannot ask", path, error)
        yield
        return
    try:
        async with server:
            yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _bind(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of a process that was killed
        bound.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, orders: Mapping[str, Order]
) -> None:
    try:
        answer = await _done(reader, writer, orders)
    except (OSError, ValueError, TimeoutError):
        answer = {"fault": "this is not a request"}
    with contextlib.suppress(OSError):
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def _done(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, orders: Mapping[str, Order]
) -> dict[str, Any]:
    if _peer(writer) not in (0, os.geteuid()):
        return {"fault": "this socket is not for you"}
    async with asyncio.timeout(SECONDS):
        request = json.loads(await reader.readline())
    order = orders.get(str(request.get("do"))) if isinstance(request, dict) else None
    if order is None:
        return {"fault": "this service does not know that request", "hint": "Restart it."}
    try:
        return {"answer": await order(request)}
    except Fault as fault:
        return {"fault": fault.message, "hint": fault.hint, "code": fault.code}
    except Exception:
        logger.exception("control socket: %s failed", request.get("do"))
        return {"fault": "the service failed; its journal says why"}


def _peer(writer: asyncio.StreamWriter) -> int:
    found = writer.get_extra_info("socket")
    raw = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])
