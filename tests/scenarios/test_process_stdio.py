"""`pvemcp stdio` as a process that a client starts, and how it ends."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from pvemcp.sim.world import make_world
from tests.scenarios.rig import ERAS, Caller
from tests.scenarios.test_process import META, names, simulated


@pytest.mark.parametrize("era", ERAS)
async def test_stdio_serves_one_client_up_to_its_ceiling(tmp_path: Path, era: str) -> None:
    async with simulated(make_world("homelab")) as env:
        del env["PVEMCP_LISTEN"]
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        command = StdioServerParameters(
            command=sys.executable,
            args=["-m", "pvemcp", "stdio", "--ceiling", "change"],
            env=env,
        )
        with (tmp_path / "stderr").open("w") as stderr:
            mode = "legacy" if era == ERAS[0] else era
            async with Client(stdio_client(command, errlog=stderr), mode=mode) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert "api_change" in names
                assert "api_destroy" not in names
                caller = Caller(client)
                assert "12 guests" in await caller.call("inventory_find")
        said = (tmp_path / "stderr").read_text()
        assert '"tool":"inventory_find"' in said
        assert env["PVEMCP_PVE_TOKEN_SECRET"] not in said


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
async def test_a_signal_ends_stdio_while_its_stdin_is_open(
    tmp_path: Path, how: signal.Signals, code: int, terminal: bool
) -> None:
    ours, theirs = pty.openpty() if terminal else reversed(os.pipe())
    async with simulated(make_world("homelab")) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pvemcp", "stdio"),
            env=env,
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
        )
        os.close(theirs)
        assert process.stdout is not None
        try:
            os.write(ours, json.dumps(INITIALIZE).encode() + b"\n")
            assert "serverInfo" in (await process.stdout.readline()).decode()
            process.send_signal(how)
            async with asyncio.timeout(10):
                assert await process.wait() == code
        finally:
            os.close(ours)
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert names(tmp_path) == ["audit.key", "pvemcp.db"]


async def test_a_client_that_reads_no_answers_cannot_keep_stdio_from_ending(
    tmp_path: Path,
) -> None:
    answers, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)  # the list of the tools is longer
    listed = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"_meta": META}}
    async with simulated(make_world("homelab")) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pvemcp", "stdio"),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=theirs,
        )
        os.close(theirs)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(listed).encode() + b"\n")
            assert await asyncio.to_thread(os.read, answers, 1)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await process.wait() == 0
        finally:
            os.close(answers)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_stdio_reads_a_regular_file_to_its_end(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.write_text(json.dumps(INITIALIZE))  # without a line end
    async with simulated(make_world("homelab")) as env:
        env["PVEMCP_STATE_DIR"] = str(tmp_path / "state")
        with asked.open() as stdin:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pvemcp", "stdio"),
                env=env,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
            )
        said, _ = await process.communicate()
    assert process.returncode == 0
    assert "serverInfo" in said.decode()
