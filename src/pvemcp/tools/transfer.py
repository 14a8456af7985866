"""Files of guests, byte for byte: how a part of one comes out, and how a new one gets in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Denied, Fault, Missing, Rejected, Unavailable
from pvemcp.host.ended import Ended
from pvemcp.tools import posix
from pvemcp.tools.agent import INPUT_LIMIT, Vm, in_background, latin
from pvemcp.tools.container import Container

ONE_WRITE = 45_000
"""Bytes that PVE's own file-write takes at once, in base64."""
PIECE = INPUT_LIMIT // 4 * 3
SECONDS = 60.0
_PAGED = frozenset({"count", "decode", "offset"})
"""What file-read learned in PVE 9.1: before, it always reads a whole file, up to 16 MiB."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file. `size` is the file's, if it is known."""

    data: bytes
    more: bool
    size: int | None = None


@dataclass(frozen=True, slots=True)
class New:
    """What is to be written."""

    path: str
    data: bytes
    mode: str = ""
    append: bool = False

    @property
    def sha256(self) -> str:
        """Its digest, as hex digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Written:
    """How writing ended. `size` is that of the whole file, if the guest said it."""

    checked: bool
    """The guest has, or gave back, the same SHA-256."""
    size: int | None = None


async def from_vm(vm: Vm, path: str, offset: int, limit: int) -> Part:
    """Read by PVE's own method; what it cannot give, by a command, if the grant may run one."""
    why = "has characters that PVE cannot send"
    if path.isascii():
        found = await by_method(vm, path, offset, limit)
        if found is not None:
            return found
        why = "is larger than PVE reads"
    if max(vm.pve.call.principal.ceiling, vm.pve.call.ceiling) < Effect.DESTROY:
        raise Denied(
            f"{path} {why}, and a command in the guest needs the effect destroy",
            hint="Use a grant with that ceiling, or copy the file inside the guest.",
        )
    speaks = await vm.speaks()
    argv = speaks.read(path, offset, limit, call=vm.pve.call.id)
    ended = await vm.run(argv, timeout=SECONDS, speaks=speaks)
    return _part(ended, path, offset, limit)


async def by_method(vm: Vm, path: str, offset: int, limit: int) -> Part | None:
    """Read by PVE's own method; None for what lies beyond its reach."""
    url = f"{vm.path}/file-read"
    if await _is_paged(vm):
        # One byte more: PVE calls a file cut that ends exactly where it stopped to read.
        count = limit + 1
        answer = await vm.pve.get(url, file=path, offset=offset, count=count, decode=False)
        data = base64.b64decode(answer.get("content") or "")
        more = len(data) > limit
        known = None if more or (offset and not data) else offset + len(data)
        return Part(data[:limit], more, known)
    try:
        answer = await vm.pve.get(url, file=path)
    except Unavailable:  # 16 MiB of control characters are larger than an answer may be
        return None
    whole, cut = latin(answer.get("content")), bool(answer.get("truncated"))
    if cut and offset + limit > len(whole):
        return None
    data = whole[offset : offset + limit]
    return Part(data, offset + len(data) < len(whole), None if cut else len(whole))


async def _is_paged(vm: Vm) -> bool:
    description = await vm.pve.description()
    method = description.method("GET", "/nodes/{node}/qemu/{vmid}/agent/file-read")
    return method is not None and {each.name for each in method.parameters} >= _PAGED


async def from_container(container: Container, path: str, offset: int, limit: int) -> Part:
    """Read by a command of ours, whose effect is to read."""
    argv = posix.read(path, offset, limit, call=container.pve.call.id)
    part = (path, offset, limit)
    ended = await container.run(argv, timeout=SECONDS, effect=Effect.READ, raw=True, reads=part)
    return _part(ended, path, offset, limit)


def _part(ended: Ended, path: str, offset: int, limit: int) -> Part:
    """Understand what `read` of posix.py and windows.py writes."""
    _raise_for(ended, _READING, path)
    first, _, encoded = _stdout(ended).partition(b"\n")
    try:
        data, size = base64.b64decode(encoded), int(first)
    except (ValueError, binascii.Error):
        raise Rejected(f"{path} could not be read in the guest", hint="Try guest_exec.") from None
    size = max(size, offset + len(data)) if data else size  # of files in /proc nobody knows it
    return Part(data, len(data) == limit and offset + limit < size, size)


async def into_vm(vm: Vm, new: New) -> Written:
    """Write a small file by PVE's own method, any other piece by piece beside the old one."""
    plain = new.path.isascii() and not new.append and not new.mode
    if plain and len(new.data) <= ONE_WRITE:
        content = base64.b64encode(new.data).decode()
        await vm.pve.post(f"{vm.path}/file-write", file=new.path, content=content, encode=False)
        if vm.pve.call.planning is not None:
            return Written(checked=False)
        return await _read_back(vm, new)
    speaks = await vm.speaks()
    try:
        return await _in_pieces(vm, new, speaks)
    except (Fault, asyncio.CancelledError):
        argv = speaks.drop(new.path, call=vm.pve.call.id)
        work = vm.run(argv, timeout=SECONDS, speaks=speaks)
        in_background(_quietly(work), vm.pve.call.id)
        raise


async def _read_back(vm: Vm, new: New) -> Written:
    try:
        part = await by_method(vm, new.path, 0, len(new.data) + 1)
    except Fault:  # perhaps the token may write files and not read them
        return Written(checked=False)
    if part is None:
        return Written(checked=False)
    if part.data != new.data:
        raise Rejected(
            f"{new.path} holds other bytes than were written",
            hint="Something else writes it, too, or it is no plain file. Read it.",
        )
    return Written(checked=True, size=part.size)


async def _in_pieces(vm: Vm, new: New, speaks: ModuleType) -> Written:
    options = _options(new, vm.pve.call.id)
    starts = range(0, max(len(new.data), 1), PIECE)
    for start in starts:
        argv = speaks.write(**options, first=start == 0, last=start == starts[-1], encoded=True)
        piece = base64.b64encode(new.data[start : start + PIECE])
        ended = await vm.run(argv, stdin=piece, timeout=SECONDS, speaks=speaks)
        _raise_for(ended, _WRITING, new.path)
        total = len(new.data)
        await vm.pve.call.progress(min(start + PIECE, total), total, f"writes {new.path}"[:200])
    return _written(ended)


async def _quietly(work: Awaitable[object]) -> None:
    with contextlib.suppress(Fault):
        await work


async def remove(vm: Vm | Container, path: str) -> None:
    """Remove a file in a guest."""
    call = vm.pve.call.id
    if isinstance(vm, Vm):
        speaks = await vm.speaks()
        ended = await vm.run(speaks.remove(path, call=call), timeout=SECONDS, speaks=speaks)
    else:
        argv = posix.remove(path, call=call)
        ended = await vm.run(argv, timeout=SECONDS, effect=Effect.DESTROY, raw=True)
    _raise_for(ended, _WRITING, path)


async def into_container(container: Container, new: New) -> Written:
    """Write a file by a command, beside the old one at first."""
    argv = posix.write(**_options(new, container.pve.call.id), first=True, last=True, encoded=False)
    options: dict[str, Any] = {"timeout": SECONDS, "effect": Effect.DESTROY, "raw": True}
    try:
        ended = await container.run(argv, stdin=new.data, **options)
    except (Fault, asyncio.CancelledError):
        dropping = container.run(posix.drop(new.path, call=container.pve.call.id), **options)
        in_background(_quietly(dropping), container.pve.call.id)
        raise
    _raise_for(ended, _WRITING, new.path)
    return _written(ended)


def _options(new: New, call: str) -> dict[str, Any]:
    given = {"path": new.path, "mode": new.mode, "append": new.append}
    return given | {"call": call, "size": len(new.data), "sha256": new.sha256}


def _written(ended: Ended) -> Written:
    size, _, digest = _stdout(ended).strip().partition(b"\n")
    return Written(checked=len(digest.strip()) == 64, size=int(size) if size.isdigit() else None)


def _stdout(ended: Ended) -> bytes:
    pieces = ended.transcript.since(0, 1 << 20)
    return b"".join(piece.data for piece in pieces if piece.stream == "stdout")


_READING: Mapping[int, tuple[type[Fault], str, str]] = {
    20: (Missing, "does not exist in the guest", "Look with guest_exec: ls."),
    21: (Conflict, "is a folder", "Name a file in it."),
    22: (Denied, "cannot be read in the guest", ""),
    25: (Conflict, "is no plain file", "Read it with guest_exec."),
}
_WRITING: Mapping[int, tuple[type[Fault], str, str]] = {
    20: (Missing, "is in a folder that is not there", "Make it first: guest_exec, mkdir -p."),
    21: (Conflict, "is a folder", "Name a file in it."),
    23: (Rejected, "could not be written", "Its old content is still there."),
    24: (Rejected, "could not get its owner or mode", "Look at it with guest_exec: ls -l."),
    25: (Conflict, "is no plain file", "Write it with guest_exec."),
    26: (Rejected, "arrived with other bytes", "Nothing was changed; try again."),
}


def _raise_for(ended: Ended, faults: Mapping[int, tuple[type[Fault], str, str]], path: str) -> None:
    if ended.ok:
        return
    pieces = ended.transcript.since(0, 600)
    complaint = b" ".join(piece.data for piece in pieces if piece.stream == "stderr")
    said = " ".join(complaint.decode("utf-8", "replace").split())
    kind, what, hint = faults.get(ended.code or 0, (Rejected, f"failed: {ended.note}", ""))
    raise kind(f"{path} {what}{f' ({said})' if said else ''}", hint=hint)
