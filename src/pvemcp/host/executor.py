"""Where commands run: by the root helper of this host, or nowhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pvemcp.errors import Invalid, Unavailable
from pvemcp.host.frames import Link

INSTALL = "apt install pvemcp on that host; then: systemctl enable --now pvemcp-helper.socket"


class Executor(Protocol):
    """A way to run commands. `place` says in a few words where they run."""

    @property
    def place(self) -> str:
        """Where commands run, in a few words."""

    @property
    def node(self) -> str:
        """The host's name; PVE calls the node by it. Empty while it is unknown."""

    async def ready(self) -> None:
        """Learn the node's name, if it is not known. Raises a Fault."""

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Send a request (see helper.py) and return its connection. Raises a Fault."""

    async def allowed(self) -> str:
        """Return the text of exec.toml. Raises a Fault."""

    async def close(self) -> None:
        """Close what is kept open."""


class Helper:
    """The root helper, through its socket."""

    def __init__(self, path: Path, allowed: Path) -> None:
        self._path = path
        self._allowed = allowed
        self.node = socket.gethostname().partition(".")[0]
        self.place = self.node

    async def ready(self) -> None:
        """Do nothing: the node is this host."""

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Connect and send the request."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError as error:
            raise Unavailable(
                f"the helper does not answer at {self._path}: {error.strerror}",
                hint="On the host: systemctl status pvemcp-helper.socket.",
            ) from None
        link = Link(reader, writer)
        await link.send_object("R", request)
        return link

    async def alive(self) -> None:
        """Ask what the helper must refuse. Raises Unavailable when no answer comes."""
        link = await self.open({"do": "nothing"})
        try:
            if await link.receive() is None:
                raise Unavailable("the helper closed the connection without an answer")
        except Invalid:
            return
        finally:
            link.close()

    async def allowed(self) -> str:
        """Read exec.toml; everybody may."""
        try:
            return self._allowed.read_text("utf-8")
        except OSError as error:
            raise Unavailable(
                f"{self._allowed} cannot be read: {error.strerror}", hint="Install the package."
            ) from None

    async def close(self) -> None:
        """Nothing is kept open."""


class Nowhere:
    """No way to run commands, and why."""

    place = "nowhere"
    node = ""

    def __init__(self, reason: str, hint: str) -> None:
        self.reason = reason
        self._fault = Unavailable(f"commands cannot be run: {reason}", hint=hint)

    async def ready(self) -> None:
        """Raise the reason."""
        raise self._fault

    async def open(self, request: Mapping[str, Any]) -> Link:  # noqa: ARG002 - an Executor
        """Raise the reason."""
        raise self._fault

    async def allowed(self) -> str:
        """Raise the reason."""
        raise self._fault

    async def close(self) -> None:
        """Nothing is kept open."""
