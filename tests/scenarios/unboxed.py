"""Runs commands without a sandbox, as the user of the tests: for harmless ones only.

What it leaves out is the root helper and systemd; the process that starts the command and all that
the service does are the real ones. Sandboxes are tested in tests/host.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pvemcp.host
from pvemcp.host import helper
from pvemcp.host.frames import HEADER, Link, fault_of

FOLDER = Path(pvemcp.host.__file__).parent
EXEC = FOLDER / "exec.toml"


class Unboxed:
    """An executor that starts inside.py as a plain process."""

    place = "here"

    def __init__(self, node: str) -> None:
        self.node = node
        self.asked: list[Mapping[str, Any]] = []
        self.running: list[asyncio.subprocess.Process] = []
        self.config = EXEC.read_text("utf-8")
        self.became = "waiting"
        """What commit.py says of every change."""
        self.enter: tuple[str, ...] = ()
        """What comes before a container's command; without it the command runs as it is."""

    async def ready(self) -> None:
        """Do nothing: the node is known."""

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Start a command as the helper would, but for the unit."""
        self.asked.append(request)
        config = helper.parsed(self.config)
        try:
            spec = self._spec(config, dict(request))
        except helper.Refused as refused:
            raise fault_of(refused.frame[HEADER.size :]) from None
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", FOLDER / "inside.py", stdin=-1, stdout=-1
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.running.append(process)
        link = Link(process.stdout, process.stdin)
        await link.send("R", json.dumps(spec).encode())
        return link

    def _spec(self, config: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        argv = None
        if request["do"] == "operation":
            found = config["operations"].get(request["name"], {})
            helper.need(found, "there is no such operation")
            profile = helper.profile_of(config, found["profile"])
            if request["name"] == "root-run":  # approved.py would be root's
                found = {**found, "argv": ["true"]}
            if request["name"].startswith("commit-"):  # commit.py would be root's
                found = {**found, "argv": ["echo", self.became]}
            if request["name"] == "guest-exec":  # guest.py needs Proxmox VE
                found = {**found, "argv": [*self.enter, "{argv}"]}
            argv = helper.command_of(found, request["params"])
        else:
            profile = helper.profile_of(config, request["profile"])
        profile["cwd"] = "/"
        return helper.spec_of(request, profile, argv)

    async def allowed(self) -> str:
        """Return the exec.toml of the package."""
        return self.config

    def allow_root(self) -> None:
        """Switch the profile of root on."""
        self.config = self.config.replace("enabled = false", "enabled = true")

    async def close(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
