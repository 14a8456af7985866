"""Files inside guests: read in pages, written whole or piece by piece, byte for byte."""

from __future__ import annotations

import base64
import binascii
import hashlib
import shlex
from typing import Annotated, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Missing, Rejected, Unavailable
from pvemcp.host.ended import Ended
from pvemcp.host.runner import Host
from pvemcp.pve.client import Pve
from pvemcp.redaction import MASK
from pvemcp.tools.agent import INPUT_LIMIT, Vm, marked, raw
from pvemcp.tools.container import EVERYTHING, READING, Container
from pvemcp.tools.guest_exec import running
from pvemcp.tools.guests import GuestName
from pvemcp.tools.tool import tool

Encoding = Literal["text", "base64"]
API_LIMIT = 16 << 20
"""Bytes that PVE reads of a file."""
PAGE, MOST = 24_000, 72_000
WRITE_LIMIT = 700_000
"""Bytes of one call: what a request to this service can carry."""
ONE_WRITE = 45_000
"""Bytes that PVE's own file-write takes at once, in base64."""
PIECE = INPUT_LIMIT // 4 * 3
SECONDS = 60.0
_READ = (
    'f="$1"; [ -e "$f" ] || exit 20; [ -d "$f" ] && exit 21; [ -r "$f" ] || exit 22; '
    'wc -c < "$f" && tail -c +$(($2 + 1)) "$f" | head -c "$3" | base64'
)
_FINISH = (
    '[ -d "$2" ] && { rm -f "$1"; exit 21; }; '
    'if [ "$4" = append ]; then cat "$1" >> "$2" && rm -f "$1" || exit 23; '
    'elif [ -e "$2" ]; then cp -p "$2" "$1.n" && cat "$1" > "$1.n" && mv -f "$1.n" "$2" && '
    'rm -f "$1" || exit 23; else chmod 644 "$1" && mv -f "$1" "$2" || exit 23; fi; '
    '[ -z "$3" ] || chmod "$3" "$2" || exit 24; sha256sum "$2" 2>/dev/null | cut -c1-64; exit 0'
)


@tool()
async def guest_file_read(
    pve: Pve,
    host: Host,
    guest: GuestName,
    path: str,
    offset: Annotated[int, Field(ge=0)] = 0,
    limit: Annotated[int, Field(ge=1, le=MOST, description="bytes")] = PAGE,
    encoding: Encoding = "text",
) -> str:
    """Read a part of a file inside a VM or a container."""
    _check(path)
    found = await running(pve, guest)
    if found.type == "lxc":
        container = Container(pve, host, found)
        await container.require(READING)
        argv = marked(_READ, pve.call.id, path, str(offset), str(limit))
        ended = await container.run(argv, timeout=SECONDS, effect=Effect.READ, raw=True)
        data, size = _read(ended, path)
    else:
        data, size = await _from_vm(Vm(pve, host, found, raw=True), path, offset, limit)
    after = offset + len(data)
    more = f", goes on at offset={after}" if after < size else ""
    head = f"{path} in {found}: bytes {offset} to {after} of {size}{more}"
    if encoding == "base64":
        return f"{head}\n{base64.b64encode(data).decode()}"
    try:
        return f"{head}\n{data.decode('utf-8')}"
    except UnicodeDecodeError:
        text = data.decode("utf-8", "backslashreplace")
        return f"{head}; not all of it is UTF-8, encoding=base64 gives the bytes\n{text}"


def _check(path: str) -> None:
    if not path.startswith("/") and path[1:3] not in (":\\", ":/"):
        raise Invalid(f"path={path[:200]!r} is not absolute", hint="Begin it with /.")
    if "\0" in path or len(path) > 4000:
        raise Invalid("path holds a NUL or is too long", hint="Correct it.")


async def _from_vm(vm: Vm, path: str, offset: int, limit: int) -> tuple[bytes, int]:
    """Read by PVE's own method; what it cannot give, by a command, if the grant may run one."""
    if path.isascii():
        try:
            answer = await vm.pve.get(f"{vm.guest.path}/agent/file-read", file=path)
        except Unavailable:  # 16 MiB of control characters are larger than an answer may be
            answer = {"truncated": 1}
        whole = raw(answer.get("content"))
        if not answer.get("truncated") or offset + limit <= len(whole):
            return whole[offset : offset + limit], len(whole)
    if vm.pve.call.principal.ceiling < Effect.DESTROY:
        why = (
            "is larger than PVE reads" if path.isascii() else "has characters that PVE cannot send"
        )
        raise Denied(
            f"{path} {why}, and a command in the guest needs the effect destroy",
            hint="Use a grant with that ceiling, or copy the file inside the guest.",
        )
    words = ("", str(offset), str(limit))
    argv = marked(_with_path(_READ, path), vm.pve.call.id, *words)
    return _read(await vm.run(argv, timeout=SECONDS), path)


def _with_path(script: str, path: str, name: str = "1") -> str:
    """Put a path into a script as its word: a path in a command's own words must be ASCII."""
    return f"set -- {_words(name, shlex.quote(path))}; {script}"


def _words(name: str, value: str) -> str:
    return " ".join(value if str(n) == name else f'"${n}"' for n in range(1, 5))


def _read(ended: Ended, path: str) -> tuple[bytes, int]:
    _raise_for(ended, path)
    pieces = ended.transcript.since(0, 1 << 20)
    text = b"".join(piece.data for piece in pieces if piece.stream == "stdout")
    size, _, encoded = text.partition(b"\n")
    try:
        return base64.b64decode(encoded), int(size)
    except (ValueError, binascii.Error):
        raise Rejected(f"{path} could not be read in the guest", hint="Try guest_exec.") from None


def _raise_for(ended: Ended, path: str) -> None:
    if ended.ok:
        return
    faults: dict[int | None, Fault] = {
        20: Missing(f"no file {path} in the guest", hint="Look with guest_exec: ls."),
        21: Conflict(f"{path} is a folder", hint="Name the file in it."),
        22: Denied(f"{path} cannot be read in the guest"),
    }
    pieces = ended.transcript.since(0, 500)
    said = b" ".join(piece.data for piece in pieces if piece.stream == "stderr")
    fallback = Rejected(f"{path}: {ended.note} {said.decode('utf-8', 'replace').strip()}")
    raise faults.get(ended.code, fallback)


@tool(effect=Effect.DESTROY)
async def guest_file_write(
    pve: Pve,
    host: Host,
    guest: GuestName,
    path: str,
    content: str,
    encoding: Encoding = "text",
    append: bool = False,  # noqa: FBT001, FBT002 - an argument of a tool
    mode: Annotated[str, Field(pattern=r"^[0-7]{0,4}$", description="such as 0644")] = "",
) -> str:
    """Write or append to a file inside a VM or a container; a file is replaced as a whole."""
    _check(path)
    data = _decoded(content, encoding)
    found = await running(pve, guest)
    how = "append" if append else "replace"
    if found.type == "lxc":
        container = Container(pve, host, found)
        await container.require((*EVERYTHING, "VM.GuestAgent.FileWrite"))
        script = f'cat > "$1" || exit 23; {_FINISH}'
        argv = marked(script, pve.call.id, _beside(path, pve.call.id), path, mode, how)
        ended = await container.run(
            argv, stdin=data, timeout=SECONDS, effect=Effect.DESTROY, raw=True
        )
        digest = _digest(ended, path)
    else:
        digest = await _into_vm(Vm(pve, host, found, raw=True), path, data, mode=mode, how=how)
    expected = hashlib.sha256(data).hexdigest()
    if digest and not append and digest != expected:
        raise Rejected(f"{path} holds other bytes than were written", hint="Read it again.")
    checked = ", checked in the guest" if digest and not append else ""
    verb = "appended to" if append else "written to"
    return f"{len(data)} bytes {verb} {path} in {found} (sha256 {expected}{checked})"


def _decoded(content: str, encoding: Encoding) -> bytes:
    if MASK in content:
        raise Invalid(
            f"content holds {MASK}: it comes from an answer in which a secret was masked, and "
            "writing it would destroy the secret",
            hint="Change the file inside the guest instead, for example with sed (guest_exec).",
        )
    try:
        data = (
            content.encode("utf-8", "surrogatepass")
            if encoding == "text"
            else base64.b64decode(content, validate=True)
        )
    except (ValueError, binascii.Error):
        raise Invalid("content is not base64", hint="Or leave encoding out, for text.") from None
    if len(data) > WRITE_LIMIT:
        raise Invalid(
            f"content has {len(data)} bytes; {WRITE_LIMIT} at most",
            hint="Write the first part, then the others with append=true.",
        )
    return data


def _beside(path: str, call: str) -> str:
    return f"{path}.pvemcp-{call}"


async def _into_vm(vm: Vm, path: str, data: bytes, *, mode: str, how: str) -> str:
    windows = await vm.is_windows()
    if len(data) <= ONE_WRITE and path.isascii() and (windows or (how != "append" and not mode)):
        if how == "append" or mode:
            raise Invalid("append and mode do not work on Windows", hint="Use guest_exec.")
        encoded = base64.b64encode(data).decode()
        url = f"{vm.guest.path}/agent/file-write"
        await vm.pve.post(url, file=path, content=encoded, encode=False)
        return ""
    if windows:
        raise Invalid("the file is too large for Windows guests here", hint="Use guest_exec.")
    beside, call = _beside(path, vm.pve.call.id), vm.pve.call.id
    for start in range(0, max(len(data), 1), PIECE):
        piece = base64.b64encode(data[start : start + PIECE])
        script = _with_path('base64 -d >> "$1" || exit 23', beside)
        argv = marked(script, call, "", "", "", "")
        _raise_for(await vm.run(argv, stdin=piece, timeout=SECONDS), path)
    script = _with_path(_with_path(_FINISH, path, "2"), beside)
    argv = marked(script, call, "", "", mode, how)
    return _digest(await vm.run(argv, timeout=SECONDS), path)


def _digest(ended: Ended, path: str) -> str:
    _raise_for(ended, path)
    pieces = ended.transcript.since(0, 200)
    return (
        b"".join(p.data for p in pieces if p.stream == "stdout").decode("ascii", "replace").strip()
    )
