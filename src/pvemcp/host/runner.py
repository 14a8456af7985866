"""Commands for a call: checked against the policy, run by the executor, noted as a Step."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pvemcp.call import Call, Effect, Intent, Permit, PlanEnds, Principal, Step, Unplanned, Verdict
from pvemcp.errors import Conflict, Denied, Fault, Misconfigured, NotPlanned, Unavailable
from pvemcp.host.ended import Ended, ended_of
from pvemcp.host.ending import end_job
from pvemcp.host.executor import Executor
from pvemcp.host.frames import Link
from pvemcp.host.outputs import Outputs
from pvemcp.host.shells import Shells
from pvemcp.host.transcript import Mask, Transcript, Unmasked
from pvemcp.slots import Slots

ROOT = "host/root"
"""The label of a command as root."""
AT_ONCE = 40
"""Commands that run at once, shells and jobs aside; more wait for their turn."""
PROGRESS_EVERY = 1.0
SLACK = 20.0
"""Seconds beyond a command's own time that its sandbox has to answer."""

Guard = Callable[[Call, Effect, str], Awaitable[None]]
"""`(call, effect, node)`: raises Denied when PVE would not let this token do such a thing."""

Elsewhere = Callable[[str], Executor]
"""Returns what runs commands on another node. Raises a Fault."""


def no_cluster(node: str) -> Executor:
    """Refuse: this service knows no other nodes. Raises Conflict."""
    raise Conflict(
        f"this pvemcp runs no commands on {node}: it is not in a cluster with that node",
        hint=f"Use the pvemcp of {node}.",
    )


class Stopped(Denied):
    """What ran already was ended: its client is frozen, or may do less now."""


@dataclass(slots=True)
class Runner:
    """Runs commands for all calls."""

    executor: Executor
    permit: Permit
    guard: Guard
    mask: Callable[[], Mask]
    elsewhere: Elsewhere = no_cluster
    shells: Shells = field(default_factory=Shells)
    outputs: Outputs = field(default_factory=Outputs)
    slots: Slots = field(default_factory=lambda: Slots(AT_ONCE))
    stops: Callable[[Principal, Effect], str] = lambda _who, _effect: ""
    """Says why what runs already may not go on, or nothing."""
    _starting: Counter[str] = field(default_factory=Counter)
    _running: dict[asyncio.Task[Any], tuple[Principal, Effect]] = field(default_factory=dict)
    _cut: dict[asyncio.Task[Any], str] = field(default_factory=dict)
    _allowed: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)

    def bind(self, call: Call) -> Host:
        """Return the host as this call's principal may use it."""
        return Host(self, call, self.executor)

    async def close(self) -> None:
        """End all shells, and close what the executor keeps open."""
        await self.shells.close_all()
        await self.executor.close()

    async def cut(self) -> None:
        """End commands and shells that may not go on. A command ends with its call."""
        for task, (who, effect) in list(self._running.items()):
            if task not in self._cut and (why := self.stops(who, effect)):
                self._cut[task] = why
                task.cancel()
        await self.shells.cut(self.stops)

    @contextlib.contextmanager
    def starting(self, owner: str, most: int) -> Iterator[int]:
        """Yield how many jobs the owner's other calls start now. Raises Conflict at `most`."""
        if (others := self._starting[owner]) >= most:
            raise Conflict(f"{others} of your jobs are being started", hint="Wait for them.")
        self._starting[owner] += 1
        try:
            yield others
        finally:
            self._starting[owner] -= 1

    async def allowed(self, executor: Executor) -> dict[str, Any]:
        """Return a node's exec.toml, looked at again after a minute. Raises Unavailable."""
        read_at, found = self._allowed.get(executor.place, (0.0, {}))
        if not found or time.monotonic() - read_at > 60:
            try:
                found = tomllib.loads(await executor.allowed())
            except ValueError as error:
                raise Misconfigured(f"exec.toml: {error}", hint="Repair it on the host.") from None
            self._allowed[executor.place] = (time.monotonic(), found)
        return found


class Host:
    """The host for one call. Every command leaves a Step in it."""

    def __init__(self, runner: Runner, call: Call, executor: Executor) -> None:
        self.runner = runner
        self.call = call
        self._executor = executor

    async def at(self, node: str) -> Host:
        """Return the host of another node, or this one. Raises the Fault of what is in the way."""
        if not node or node == self.node:
            return self
        await self.runner.executor.ready()
        if node == self.runner.executor.node:
            return Host(self.runner, self.call, self.runner.executor)
        executor = self.runner.elsewhere(node)
        if not self.call.principal.grant:
            raise Denied(
                f"{self.call.principal.name} is known here alone, so it runs no commands on {node}",
                hint="Use a client of the whole cluster, over HTTPS: pvemcp client add NAME.",
            )
        return Host(self.runner, self.call, executor)

    @property
    def place(self) -> str:
        """Where commands run."""
        return self._executor.place

    @property
    def node(self) -> str:
        """The node on which they run, or empty while it is unknown."""
        return self._executor.node

    @property
    def is_remote(self) -> bool:
        """Whether they run on another node than this service."""
        return self._executor is not self.runner.executor

    async def allowed(self) -> dict[str, Any]:
        """Return what exec.toml allows there. Raises Unavailable."""
        return await self.runner.allowed(self._executor)

    async def run(
        self,
        request: Mapping[str, Any],
        *,
        effect: Effect,
        label: str,
        stdin: bytes = b"",
        guarded: bool = True,
        raw: bool = False,
    ) -> Ended:
        """Run a command to its end and return what it wrote.

        `request` is one of helper.py's; `label` names it in the audit. Cancelling kills the
        command. With guarded=False the caller has asked PVE already. With raw=True the output
        is not masked: it is not text, or the caller masks it. Raises Denied, and the Fault of
        whatever refuses it.
        """
        await self.ask(effect, label, request, guarded=guarded)
        mask = Unmasked if raw else self.runner.mask
        started, note = time.perf_counter(), "not started"
        try:
            with self.stoppable(effect):
                async with self._slot():
                    ended = await self._run(request, stdin, mask)
            note = ended.note
        except asyncio.CancelledError:
            note = "cancelled"
            raise
        finally:
            self.note(label, effect, Verdict.ALLOW, started, note)
        return ended

    def automatic(self) -> Host:
        """Return this host for what the service itself must end: no freeze stands in its way."""
        call = replace(self.call, automatic=True, license=Unplanned())
        return Host(self.runner, call, self._executor)

    def _slot(self) -> contextlib.AbstractAsyncContextManager[None]:
        automatic, owner = self.call.automatic, self.who()["owner"]
        return contextlib.nullcontext() if automatic else self.runner.slots.hold(owner)

    @contextlib.contextmanager
    def stoppable(self, effect: Effect) -> Iterator[None]:
        """Let `Runner.cut` end what is awaited in the block. Raises Stopped then."""
        if self.call.automatic:
            yield
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a command runs in a task")
        running, cut = self.runner._running, self.runner._cut  # noqa: SLF001
        running[task] = (self.call.principal, effect)
        try:
            yield
        except asyncio.CancelledError:
            if (why := cut.get(task)) is None:
                raise
            task.uncancel()
            raise Stopped(
                f"the command was ended: {why}", hint="Only a person lets it go on."
            ) from None
        finally:
            running.pop(task, None)
            cut.pop(task, None)

    async def _run(
        self, request: Mapping[str, Any], stdin: bytes, mask: Callable[[], Mask]
    ) -> Ended:
        seconds = float(request.get("timeout", 60))
        link = await self._open(request)
        try:
            async with asyncio.timeout(seconds + SLACK):
                return await self._follow(link, stdin, seconds, mask)
        except TimeoutError:
            raise Unavailable(
                f"the helper of {self.place} did not end the command in time",
                hint="On the host: journalctl -u pvemcp-helper.",
            ) from None
        finally:
            link.close()

    async def operation(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: int = 60,
        effect: Effect = Effect.READ,
        raw: bool = False,
    ) -> Ended:
        """Run one of exec.toml's operations. See `run`."""
        request = {"do": "operation", "name": name, "params": dict(params or {})}
        label = f"host/{name}"
        return await self.run(request | {"timeout": timeout}, effect=effect, label=label, raw=raw)

    async def as_root(self, request: Mapping[str, Any], *, timeout: int) -> Ended:
        """Run what a person has approved on this host: `request` has shell, cwd, env.

        The helper is told the approval only; it knows the command from the person. See `run`.
        """
        operation = {"do": "operation", "name": "root-run", "timeout": timeout}
        approval = {"params": {"approval": self.call.approval}}
        await self.ask(Effect.DESTROY, ROOT, {**request, "timeout": timeout})
        self.call.license = Unplanned()  # the same command, under the name of its approval
        return await self.run(operation | approval, effect=Effect.DESTROY, label=ROOT)

    async def ask(
        self,
        effect: Effect,
        label: str,
        request: Mapping[str, Any] | None = None,
        *,
        guarded: bool = True,
    ) -> None:
        """Ask the policy, then PVE; a plan of the call ends here. Raises Denied.

        `request` is what will be run, as far as the caller can say.
        """
        try:
            verdict = self.runner.permit(self.call, "RUN", label, effect)
            if verdict is not Verdict.ALLOW:
                raise Denied(f"the policy does not allow {label}")
            if guarded:
                await self._executor.ready()
                await self.runner.guard(self.call, effect, self.node)
            self._licensed(effect, label, request or {})
        except Fault:
            self.note(label, effect, Verdict.DENY, time.perf_counter(), "")
            raise

    def _licensed(self, effect: Effect, label: str, request: Mapping[str, Any]) -> None:
        if effect is Effect.READ:
            return
        intent = Intent("RUN", label, effect, params=request, node=self.node)
        if self.call.planning is not None:
            self.call.planning.append(intent)
            raise PlanEnds
        if not self.call.license.take(intent):
            raise NotPlanned(
                f"{label} is not in the plan of this call, and was not run",
                hint="Something changed since it was planned. Repeat the call.",
            )

    async def end_stopped(self, effect: Effect, job: str) -> None:
        """End a job that was just started, if a freeze came meanwhile. Raises Denied then.

        Who ends jobs after a freeze sees none that has not begun.
        """
        if not self.is_remote and (why := self.runner.stops(self.call.principal, effect)):
            await end_job(self._executor, job)
            raise Denied(f"the job was ended: {why}", hint="Only a person lets it go on.")

    async def open(
        self, request: Mapping[str, Any], *, effect: Effect, label: str, guarded: bool = True
    ) -> Link:
        """Start what lasts longer than the call (a shell, a job); the caller closes the link."""
        await self.ask(effect, label, request, guarded=guarded)
        started, note = time.perf_counter(), "not started"
        try:
            link = await self._open(request)
            note = "started"
            return link
        finally:
            self.note(label, effect, Verdict.ALLOW, started, note)

    async def _open(self, request: Mapping[str, Any]) -> Link:
        return await self._executor.open({**request, **self.who()})

    def who(self) -> dict[str, str]:
        """Return who asks, for the helper's journal."""
        return {
            "owner": self.call.principal.owner,
            "call": self.call.id,
        }

    def note(self, label: str, effect: Effect, verdict: Verdict, started: float, note: str) -> None:
        """Leave a Step in the call."""
        label = f"nodes/{self.node}/{label}" if self.is_remote else label
        ms = (time.perf_counter() - started) * 1000
        self.call.steps.append(Step("RUN", label, effect, verdict, 0, ms, note=note))

    async def _follow(
        self, link: Link, stdin: bytes, total: float, mask: Callable[[], Mask]
    ) -> Ended:
        transcript = Transcript(mask)
        sending = asyncio.create_task(
            link.send_all(stdin)
        )  # it waits while nobody takes the output
        reporting = asyncio.create_task(self._report(transcript, total))
        try:
            while frame := await link.receive():
                match frame.kind:
                    case "O":
                        transcript.add("stdout", frame.payload)
                    case "e":
                        transcript.add("stderr", frame.payload)
                    case "X":
                        transcript.settle()
                        return ended_of(frame.payload, transcript)
                    case _:
                        pass
        finally:
            sending.cancel()
            reporting.cancel()
        transcript.settle()
        return Ended(transcript, why="vanished")

    async def _report(self, transcript: Transcript, total: float) -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_EVERY)
            elapsed = time.monotonic() - started
            line = transcript.last_line() or f"{transcript.end} bytes so far"
            await self.call.progress(min(elapsed, total), total, line[:200])
