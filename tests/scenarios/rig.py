"""What a scenario stands on: a simulated PVE, the service, and MCP clients of it.

Everything runs in one event loop; the seams are the real ones: a Unix socket to PVE, and MCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from mcp import Client
from mcp_types import TextContent

from pvemcp.access.approvals import Approvals
from pvemcp.access.held import held
from pvemcp.access.policy import Open, Policy, permit
from pvemcp.approving import Gate
from pvemcp.audit import Audit, Entry
from pvemcp.call import ApiToken, Effect, Principal
from pvemcp.host.executor import Executor, Nowhere
from pvemcp.host.runner import Runner
from pvemcp.journal.book import Book
from pvemcp.journal.changes import Changes
from pvemcp.journal.commits import Commits
from pvemcp.masking import Masker
from pvemcp.pve.client import PveClient
from pvemcp.running import Rights
from pvemcp.server import Service, build
from pvemcp.sim.http import serve
from pvemcp.sim.world import World, WorldName, make_world
from pvemcp.store import Store
from tests.scenarios.unboxed import Unboxed

ERAS = ("2025-11-25", "2026-07-28")
Progress = Literal["immediate", "manual", "timed"]


def journaled(store: Store) -> Changes:
    """Return a journal in which nothing must be confirmed."""
    return Changes(
        Book(store), Commits(store, Nowhere("these tests run none", "")), Audit(store, None)
    )


class ToolFault(AssertionError):
    """A tool answered with isError; the text is what the model would read."""


def unmarked(text: str) -> str:
    """Take away the marks around text that others wrote."""
    return re.sub(r"(?m)^<<<[0-9a-f]{8} .*\n|\n>>>[0-9a-f]{8}$", "", text)


@dataclass(frozen=True)
class Caller:
    """An MCP client that calls tools and reads text."""

    mcp: Client
    reports: list[tuple[float, float | None, str]] = field(default_factory=list)
    """Progress as it was reported: (progress, total, message)."""

    async def raw(self, tool: str, **arguments: Any) -> Any:
        """Call a tool and return the MCP result."""

        async def note(progress: float, total: float | None, message: str | None) -> None:
            self.reports.append((progress, total, message or ""))

        return await self.mcp.call_tool(tool, arguments, progress_callback=note)

    async def call(self, tool: str, **arguments: Any) -> str:
        """Call a tool and return its text. Raises ToolFault for an error result."""
        result = await self.raw(tool, **arguments)
        (content,) = result.content
        assert isinstance(content, TextContent)
        assert result.structured_content is None
        if result.is_error:
            raise ToolFault(content.text)
        return content.text

    async def data(self, tool: str, **arguments: Any) -> Any:
        """Call a tool with format=json and return the decoded answer."""
        return json.loads(await self.call(tool, format="json", **arguments))


@dataclass
class Rig:
    """A running world and service."""

    world: World
    pve: PveClient
    store: Store
    journal: StringIO
    executor: Executor
    grant: str = "g1"
    """Of every client; empty for one that came without, over stdio."""
    patience: float = 10.0
    """Seconds that a call waits for a person."""
    page: str = ""
    """Address of the approval page."""
    confirm_seconds: int = 0
    """Seconds in which what can lock people out must be confirmed; 0: nothing must be."""
    helper: bool = False
    """The executor stands for the root helper."""

    @property
    def approvals(self) -> Approvals:
        """The questions, as the host's command line sees them."""
        return Approvals(self.store)

    def principal(
        self, ceiling: Effect = Effect.DESTROY, token: tuple[str, str] | None = None
    ) -> Principal:
        """Return a caller that works with the given PVE token; root's by default."""
        return Principal(
            "tester", ceiling, ApiToken(*(token or self.world.token())), grant=self.grant
        )

    @asynccontextmanager
    async def client(
        self,
        *,
        ceiling: Effect = Effect.DESTROY,
        token: tuple[str, str] | None = None,
        era: str = ERAS[-1],
        policy: Policy | None = None,
        elicit: Any = None,
    ) -> AsyncIterator[Caller]:
        """Connect an MCP client whose grant has this ceiling and PVE token.

        Unless there is a `policy`, nobody is asked. `elicit` answers dialogs, as the SDK's client
        has it.
        """
        principal = self.principal(ceiling, token)
        secrets = held(self.store, principal.token.secret)
        audit = Audit(self.store, self.journal, secrets.known)
        host = Runner(self.executor, permit, Rights(self.pve).require, lambda: Masker(secrets))
        commits = Commits(
            self.store, self.executor, seconds=self.confirm_seconds, helper=self.helper
        )
        changes = Changes(Book(self.store, secrets.known), commits, audit)
        self.pve.watch = changes.watch
        gate = Gate(
            policy or Open(), self.approvals, b"k" * 32, changes,
            page=self.page, patience=self.patience,
        )  # fmt: skip
        service = Service(
            self.pve, host, audit, lambda _: principal, secrets.answer, gate, b"s" * 32
        )
        server, _ = build(service)
        mode = "legacy" if era == ERAS[0] else era
        try:
            async with Client(server, mode=mode, elicitation_callback=elicit) as mcp:
                yield Caller(mcp)
        finally:
            await changes.close()
            await host.shells.close_all()

    def audit(self) -> list[Entry]:
        """Return the audit, newest first."""
        return Audit(self.store, None).rows(limit=1000)

    async def until_running(self) -> str:
        """Wait until PVE runs a task, and return its UPID."""
        while not (upids := self.running()):
            await asyncio.sleep(0)
        return upids[0]

    def running(self) -> list[str]:
        """Return the UPIDs of the tasks that PVE runs."""
        return [task.upid for task in self.world.tasks if task.running]

    def asked(self) -> int:
        """Return how many requests PVE has had, its description aside."""
        return sum(self.world.requests.values())


@asynccontextmanager
async def rig(
    world: WorldName | World = "homelab", *, progress: Progress = "immediate"
) -> AsyncIterator[Rig]:
    """Start a simulated PVE on a Unix socket and a service that works it."""
    made = make_world(world, progress=progress) if isinstance(world, str) else world
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pvemcp-test-")))
        uds = str(folder / "pve.sock")
        await stack.enter_async_context(serve(made, uds=uds, tls=False))
        store = stack.enter_context(Store(folder / "state"))
        pve = await stack.enter_async_context(
            PveClient(
                "https://localhost:8006", socket=uds, permit=permit, cache_dir=folder / "state"
            )
        )
        unboxed = Unboxed(next(iter(made.nodes)))
        stack.push_async_callback(unboxed.close)
        yield Rig(made, pve, store, StringIO(), unboxed)
