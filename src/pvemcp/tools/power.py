"""Guests: power on, off and between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.call import Effect, no_progress
from pvemcp.errors import Conflict, Fault, Invalid, TaskFailed
from pvemcp.pve.client import Pve
from pvemcp.pve.tasks import Upid, follow_ha, run_task
from pvemcp.tools.guests import Guest, GuestName, locate
from pvemcp.tools.tasks import Wait, ending, finish
from pvemcp.tools.tool import Started, tool

Action = Literal["start", "shutdown", "stop", "reboot", "reset", "suspend", "resume"]

AT_ONCE = 4
"""Guests worked on at the same time: a node's API has three single-threaded workers."""

_DONE: Mapping[Action, str] = {
    "start": "running",
    "resume": "running",
    "stop": "stopped",
    "shutdown": "stopped",
}


@tool(effect=Effect.CHANGE, reach=Effect.DESTROY, privileges=("VM.PowerMgmt",))
async def guest_power(
    pve: Pve,
    guests: GuestName | list[GuestName],
    action: Action,
    wait: Wait = 120,
    timeout: Annotated[
        int | None, Field(ge=1, le=3600, description="seconds to shut down in")
    ] = None,
) -> str | Started:
    """Start, shutdown, reboot, suspend or resume guests; stop and reset lose unsaved data."""
    if timeout is not None and action not in ("shutdown", "reboot"):
        raise Invalid(f"timeout does not go with {action}", hint="Leave it out.")
    names = guests if isinstance(guests, list) else [guests]
    if not names:
        raise Invalid("guests is empty", hint="Name at least one guest.")
    try:
        found = list(dict.fromkeys([await locate(pve, name) for name in names]))
    except Fault as fault:
        fault.hint = f"{fault.hint} Nothing was done.".lstrip()
        raise
    if len(found) == 1:
        return await _power(pve, found[0], action, wait=wait, timeout=timeout, alone=True)
    return await _all(pve, found, action, wait=wait, timeout=timeout)


async def _all(
    pve: Pve, guests: list[Guest], action: Action, *, wait: int, timeout: int | None
) -> str:
    slots = asyncio.Semaphore(AT_ONCE)
    ended = 0
    # One count for all: the percentages of single tasks would run into each other.
    report, pve.call.progress = pve.call.progress, no_progress

    async def one(guest: Guest) -> str | Fault:
        nonlocal ended
        async with slots:
            try:
                result = await _power(pve, guest, action, wait=wait, timeout=timeout, alone=False)
            except Fault as fault:
                return fault
            finally:
                ended += 1
                await report(ended, len(guests), f"{action} {guest}")
            return str(result)

    results = dict(zip(guests, await asyncio.gather(*map(one, guests)), strict=True))
    good = [f"{guest}: {text}" for guest, text in results.items() if isinstance(text, str)]
    bad = {str(guest): str(f) for guest, f in results.items() if isinstance(f, Fault)}
    if bad:
        done = "\nDone:\n" + "\n".join(good) if good else ""
        raise TaskFailed(f"{action} failed for {len(bad)} of {len(guests)}{done}", detail=bad)
    return "\n".join(good)


async def _power(
    pve: Pve, guest: Guest, action: Action, *, wait: int, timeout: int | None, alone: bool
) -> str | Started:
    if action == "reset" and guest.type == "lxc":
        raise Invalid(f"{guest} is a container: it has no reset", hint="Use reboot or stop.")
    before = await pve.get(f"{guest.path}/status/current")
    if answer := _nothing_to_do(guest, action, before):
        return answer
    asked = {"timeout": timeout} if timeout is not None else {}
    upid = await pve.post(f"{guest.path}/status/{action}", **asked)
    if (before.get("ha") or {}).get("managed") and action in _DONE:
        return await _ha(pve, guest, action, upid, wait=wait)
    if alone:
        return await finish(pve, upid, wait=wait)
    return ending(await run_task(pve, upid, wait=wait))


async def _ha(pve: Pve, guest: Guest, action: Action, upid: str, *, wait: int) -> str:
    """Follow what the HA manager does: its own task ends as soon as the request is queued."""
    end = await follow_ha(pve, upid, guest_path=guest.path, state=_DONE[action], wait=wait)
    if end.status == "running" and Upid.parse(end.upid).type.startswith("ha"):
        return (
            f"HA-managed: {action} is asked for, and the HA manager has not done it yet; it takes "
            f'about 10 s. See guest_get(guest="{guest.vmid}", parts=[]).'
        )
    return f"HA-managed, {ending(end)}"


def _nothing_to_do(guest: Guest, action: Action, before: Mapping[str, Any]) -> str:
    """Return the answer when the guest is there already; raise Conflict when it cannot be."""
    if before.get("template"):
        raise Conflict(f"{guest} is a template: it has no power state", hint="Clone it first.")
    state = str(before.get("status"))
    paused = before.get("qmpstatus") in ("paused", "suspended", "prelaunch") or (
        before.get("lock") == "suspended"
    )
    if state == _DONE.get(action) and not paused:
        return f"{guest} is {state} already"
    if state == "stopped" and not paused and action in ("reboot", "reset", "suspend", "resume"):
        raise Conflict(f"{guest} is stopped: cannot {action}", hint="Start it instead.")
    return ""
