"""Fixture tools that become MCP tasks, and the tasks/* methods for them.

A job's state follows from the clock and from what the client said; nothing runs in the background.
Task ids that are not a job's are UPIDs and stay the product's.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

from pvemcp.opening import TASKS, Context
from pvemcp.server import TaskParams
from tests.conformance.fixture import Fixture, Params, Result, Run, declares_tasks, text
from tests.conformance.rounds import answered, elicitation, field_of, question

_FAILURE = {"code": -32603, "message": "The job broke the protocol"}


class UpdateParams(TaskParams):
    """Parameters of tasks/update."""

    input_responses: dict[str, Any] | None = None


@dataclass(slots=True)
class Job:
    """A task; `seconds` of work begin when nothing is `pending` any more."""

    seconds: float = 0
    result: Result = field(default_factory=dict)
    broken: bool = False
    pending: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    born: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> str:
        """Return the task's status at this moment."""
        if self.cancelled:
            return "cancelled"
        if self.pending:
            return "input_required"
        if time.monotonic() < self.born + self.seconds:
            return "working"
        return "failed" if self.broken else "completed"

    def envelope(self) -> Result:
        """Return the fields that every task has."""
        now = datetime.now(UTC).isoformat()
        times = {"createdAt": now, "lastUpdatedAt": now, "ttlMs": None, "pollIntervalMs": 100}
        return {"taskId": self.id, "status": self.status, **times}

    def detailed(self) -> Result:
        """Return the answer to tasks/get."""
        ends = {
            "completed": {"result": self.result},
            "failed": {"error": _FAILURE},
            "input_required": {"inputRequests": self.pending},
        }
        return {**self.envelope(), **ends.get(self.status, {})}


class Jobs:
    """The jobs of one server."""

    def __init__(self) -> None:
        self._by_id: dict[str, Job] = {}

    def start(self, job: Job) -> Result:
        """Keep a job and return the answer that creates its task."""
        self._by_id[job.id] = job
        return {"resultType": "task", **job.envelope()}

    def install(self, server: Server[Any]) -> None:
        """Serve tasks/* for jobs; every other task id goes to the product's handler."""
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            self._wrap(server, method)

    def _wrap(self, server: Server[Any], method: str) -> None:
        product = server.get_request_handler(method)
        assert product is not None, f"the product does not serve {method}"

        async def serve(ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> Any:
            job = self._by_id.get(params.task_id) if declares_tasks(ctx) else None
            if job is None:
                return await product.handler(ctx, params)
            return _act(job, method, params)

        server.add_request_handler(method, UpdateParams, serve)

    def tools(self) -> tuple[Fixture, ...]:
        """Return the tools that start jobs."""
        return (
            Fixture("greet", _greet),
            Fixture("slow_compute", self._slow),
            Fixture("failing_job", self._always(_failing)),
            Fixture("protocol_error_job", self._always(lambda: Job(broken=True))),
            Fixture("confirm_delete", self._always(lambda: _asking(1))),
            Fixture("multi_input", self._always(lambda: _asking(2))),
            Fixture("test_tool_with_task", self._after_a_question),
        )

    async def _slow(self, ctx: Context, params: Params) -> Result:
        seconds = float((params.arguments or {}).get("seconds", 0))
        result = {"content": [text(f"Computed for {seconds} s")]}
        if declares_tasks(ctx):
            return self.start(Job(seconds, result))
        await asyncio.sleep(seconds)
        return result

    def _always(self, make: Callable[[], Job]) -> Run:
        async def run(ctx: Context, _: Params) -> Result:
            _require_tasks(ctx)
            return self.start(make())

        return run

    async def _after_a_question(self, ctx: Context, params: Params) -> Result:
        _require_tasks(ctx)
        if not answered(params, "user_name"):
            return question({"user_name": elicitation("What is your name?", "name")}, state="named")
        name = field_of(params, "user_name", "name")
        return self.start(Job(result={"content": [text(f"Done for {name}")]}))


def _act(job: Job, method: str, params: UpdateParams) -> Result:
    match method:
        case "tasks/get":
            return job.detailed()
        case "tasks/update":
            for key in params.input_responses or {}:
                job.pending.pop(key, None)
        case "tasks/cancel" if job.status in {"working", "input_required"}:
            job.cancelled = True
    return {}


def _require_tasks(ctx: Context) -> None:
    if not declares_tasks(ctx):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "Missing required client capability",
            {"requiredCapabilities": {"extensions": {TASKS: {}}}},
        )


async def _greet(_: Context, params: Params) -> Result:
    return {"content": [text(f"Hello, {(params.arguments or {}).get('name', 'you')}!")]}


def _failing() -> Job:
    return Job(1, {"content": [text("The job failed")], "isError": True})


def _asking(forms: int) -> Job:
    pending = {
        f"form{n}": elicitation(f"Really? ({n})", "confirm", kind="boolean") for n in range(forms)
    }
    return Job(result={"content": [text("All forms answered")]}, pending=pending)
