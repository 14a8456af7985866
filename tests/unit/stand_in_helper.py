"""Who serves the helper's socket in unit tests: commands run as the user of the tests, unboxed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pvemcp.host.frames import HEADER
from tests.scenarios.unboxed import EXEC, FOLDER

INSIDE = ("/usr/bin/python3", "-I", "-S", str(FOLDER / "inside.py"))
DESCRIBE = "describe"
Process = asyncio.subprocess.Process


@asynccontextmanager
async def serving(
    path: Path, instead: Mapping[str, str] | None = None
) -> AsyncIterator[list[Process]]:
    """Serve the socket as the root helper would; `instead` maps a command to another.

    Gives the processes that it has started. At the end they have ended too.
    """
    shells = {DESCRIBE: f"cat {EXEC}", **(instead or {})}
    started: list[Process] = []
    serving_now: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving_now.add(task)
        try:
            _, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            request = json.loads(await reader.readexactly(size))
            asked = request.get("name") or request["shell"]
            await _carry_out(shells.get(asked, asked), reader, writer, started)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield started
        server.close()
        await asyncio.gather(*serving_now)


async def _carry_out(
    shell: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, started: list[Process]
) -> None:
    process = await asyncio.create_subprocess_exec(*INSIDE, stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    started.append(process)
    spec = json.dumps({"timeout": 20, "output": 1 << 20, "env": {}, "shell": shell}).encode()
    process.stdin.write(HEADER.pack(b"R", len(spec)) + spec)
    up = asyncio.create_task(_pump(reader, process.stdin))
    await _pump(process.stdout, writer)  # until inside.py has ended, or its caller has gone
    up.cancel()
    process.stdin.close()
    await process.wait()


async def _pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            to.write(data)
    except OSError:
        pass
    finally:
        to.close()


def node() -> str:
    """Return this host's name, as PVE would call the node."""
    return socket.gethostname().partition(".")[0]
