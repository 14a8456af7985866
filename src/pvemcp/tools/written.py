"""Files in guests that our tools write: one change each, with the content before it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from difflib import unified_diff
from hashlib import sha256
from typing import Any

from pvemcp.call import Effect, Intent
from pvemcp.errors import Fault, Missing, Rejected
from pvemcp.host.runner import Host
from pvemcp.journal.change import Change, Recipe, Request, State, never
from pvemcp.journal.changes import Changes
from pvemcp.journal.files import CONTENT
from pvemcp.journal.subject import Facts, Subject
from pvemcp.legible import legible
from pvemcp.pve.client import Pve
from pvemcp.tools.agent import Vm
from pvemcp.tools.container import READING, WRITING, Container
from pvemcp.tools.guest_exec import running
from pvemcp.tools.guests import Guest
from pvemcp.tools.transfer import (
    New,
    Part,
    Written,
    by_method,
    from_container,
    into_container,
    into_vm,
    remove,
)
from pvemcp.tools.untrusted import flat

WRITE = "WRITE"
"""The verb of a change to a file in a guest; its path is `lxc/105 /etc/hosts`."""
KEPT = 180_000
"""Bytes of a file's former content that are kept."""
SHOWN = 60
"""Lines of a difference that a plan shows."""
LINE = 2000
"""Characters of one of them."""
LOOKED_AT = 700_000
"""Bytes of a file that are read to tell whether it is still the same."""
WHOLE = (
    f"change_undo writes the former content back, of up to {KEPT // 1000} kB, or removes a file "
    "that is new"
)


async def written(pve: Pve, host: Host, changes: Changes, guest: Guest, new: New) -> Written:
    """Write a file as one change."""
    params = {"file": new.path, "mode": new.mode, "append": new.append}
    async with _journaled(pve, host, changes, guest, params, new):
        if guest.type == "lxc":
            return await into_container(await _container(pve, host, guest), new)
        return await into_vm(Vm(pve, host, guest, raw=True), new)


async def put_back(pve: Pve, host: Host, changes: Changes, request: Request) -> None:
    """Write a file's former content, or remove a file that was not there: one change, too."""
    file, content = request.params["file"], request.params.get("content")
    guest = await running(pve, request.params["vmid"])
    if content is not None:
        await written(pve, host, changes, guest, New(file, base64.b64decode(content)))
        return
    async with _journaled(pve, host, changes, guest, {"file": file}, None):
        lxc = guest.type == "lxc"
        place = await _container(pve, host, guest) if lxc else Vm(pve, host, guest, raw=True)
        await remove(place, file)


async def state_now(pve: Pve, host: Host, change: Change) -> State:
    """Return the state of a file that a change wrote. Raises a Fault when it cannot be read."""
    guest = await running(pve, change.params["vmid"])
    return await _state(pve, host, guest, change.params["file"])


@contextlib.asynccontextmanager
async def _journaled(
    pve: Pve, host: Host, changes: Changes, guest: Guest, params: dict[str, Any], new: New | None
) -> AsyncIterator[None]:
    """Journal what the block does to a file as one change; in a plan, say how it differs."""
    file, id_ = params["file"], f"{guest.type}/{guest.vmid}"
    pve.call.whole = WHOLE
    if pve.call.planning is not None:
        pve.call.told += await _told(pve, host, guest, file, new)
        pve.call.told_by = f"{id_} file"
        yield
        return
    params = {"vmid": guest.vmid, **{name: value for name, value in params.items() if value}}
    intent = Intent(WRITE, f"{id_} {flat(file)}", Effect.DESTROY, params=params, node=guest.node)
    subject = Subject("guest", intent.path, lambda pve: _state(pve, host, guest, file), _undo)
    async with changes.around(pve, intent, subject):
        yield


async def _container(pve: Pve, host: Host, guest: Guest) -> Container:
    container = Container(pve, await host.at(guest.node), guest)
    await container.require(WRITING)
    return container


async def _state(pve: Pve, host: Host, guest: Guest, file: str) -> State:
    """Return size, digest and, if it is small, content of a file; {} when it is not there."""
    try:
        part = await _part(pve, host, guest, file)
    except Missing:
        return {}
    except Rejected as fault:  # what the guest agent says of a file that it cannot open
        if "No such file" in fault.message or "cannot find" in fault.message:
            return {}
        raise
    if part.more:
        return {"bytes": part.size or f"more than {LOOKED_AT}"}
    state = {"bytes": len(part.data), "sha256": sha256(part.data).hexdigest()}
    small = len(part.data) <= KEPT
    return state | ({CONTENT: base64.b64encode(part.data).decode()} if small else {})


async def _part(pve: Pve, host: Host, guest: Guest, file: str) -> Part:
    if guest.type == "lxc":
        container = Container(pve, await host.at(guest.node), guest)
        await container.require(READING)
        return await from_container(container, file, 0, LOOKED_AT)
    found = None
    if file.isascii():
        found = await by_method(Vm(pve, host, guest, raw=True), file, 0, LOOKED_AT)
    if found is None:
        raise Rejected(f"PVE cannot read {file} in {guest}")
    return found


async def _told(pve: Pve, host: Host, guest: Guest, file: str, new: New | None) -> list[str]:
    """Say what a file is now, and what becomes of it; its lines are text of others."""
    named = flat(file)
    try:
        state = await _state(pve, host, guest, file)
    except Fault as fault:
        return [f"not seen: what {named} is now: {flat(fault.message)}"]
    if not state:
        return [f"{named} is not there yet"]
    size = state["bytes"]
    if new is None:
        return [f"{named}, of {size} bytes, is removed"]
    if new.append:
        return [f"{named} has {size} bytes now; {len(new.data)} are added"]
    return [f"{named}: {size} bytes -> {len(new.data)} bytes", *_lines(state, new)]


def _lines(state: State, new: New) -> list[str]:
    if CONTENT not in state:
        return []
    try:
        before, after = base64.b64decode(state[CONTENT]).decode(), new.data.decode()
    except UnicodeDecodeError:
        return []
    told = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1))[2:]
    shown = [f"  {each[:1]} {legible(flat(each[1:], LINE))}" for each in told[:SHOWN]]
    more = [f"  … {len(told) - SHOWN} more lines"] if len(told) > SHOWN else []
    return [*shown, *more] or ["  nothing changes in it"]


def _undo(facts: Facts) -> Recipe:
    file = {"vmid": facts.params["vmid"], "file": facts.text("file")}
    keys = ("bytes", "sha256")
    if not facts.before:
        return Recipe((Request(WRITE, facts.path, file),), keys=keys)
    if CONTENT not in facts.before:
        return never(f"the former content, of {facts.before['bytes']} bytes, was not kept")
    lost = (f"its mode from before {mode}",) if (mode := facts.text("mode")) else ()
    request = Request(WRITE, facts.path, file | {"content": facts.before[CONTENT]})
    return Recipe((request,), lost, keys=keys)
