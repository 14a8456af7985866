"""Files inside guests: read in pages, written whole or piece by piece, byte for byte."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from typing import Annotated, Literal

from pydantic import Field

from pvemcp.call import Effect
from pvemcp.errors import Invalid, Rejected
from pvemcp.host.runner import Host
from pvemcp.journal.changes import Changes
from pvemcp.pve.client import Pve
from pvemcp.redaction import MASK
from pvemcp.tools.agent import Vm
from pvemcp.tools.container import READING, WRITING, Container
from pvemcp.tools.guest_exec import running
from pvemcp.tools.guests import GuestName
from pvemcp.tools.tool import tool
from pvemcp.tools.transfer import (
    New,
    Part,
    Written,
    from_container,
    from_vm,
)
from pvemcp.tools.untrusted import quoted
from pvemcp.tools.written import written

Encoding = Literal["text", "base64"]
PAGE, MOST = 24_000, 72_000
WRITE_LIMIT = 700_000
"""Bytes of one call: what a request to this service can carry."""
LONGEST_PATH = 4000
ODD = 64
"""Characters that are not text in a text; a twentieth of it, if that is more."""
_LOST = re.compile("[\udc80-\udcff]")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@tool(privileges=READING)
async def guest_file_read(
    pve: Pve,
    host: Host,
    guest: GuestName,
    path: str,
    offset: Annotated[int, Field(ge=0, le=1 << 53)] = 0,
    limit: Annotated[int, Field(ge=1, le=MOST, description="bytes")] = PAGE,
    encoding: Encoding = "text",
) -> str:
    """Read a part of a file inside a VM or a container."""
    _check(path)
    found = await running(pve, guest)
    if found.type == "lxc":
        container = Container(pve, await host.at(found.node), found)
        await container.require(READING)
        part = await from_container(container, path, offset, limit)
    else:
        part = await from_vm(Vm(pve, host, found, raw=True), path, offset, limit)
    taken, note, text = len(part.data), "", ""
    if encoding == "base64":
        text = base64.b64encode(part.data).decode()
    else:
        taken, note, text = _text(part, path)
    head = f"{path} in {found}: {_place(part, offset, offset + taken)}{note}"
    if encoding == "base64":
        return f"{head}\n{text}"
    return f"{head}\n{quoted(pve.call, f'{found.type}/{found.vmid} file', text)}"


def _place(part: Part, offset: int, after: int) -> str:
    if part.more:
        size = f" of {part.size}" if part.size is not None else ""
        return f"bytes {offset} to {after}{size}, goes on at offset={after}"
    if not part.data:
        return f"nothing at offset {offset}" + (
            f": it has {part.size} bytes" if part.size is not None else ", it ends before"
        )
    return f"bytes {offset} to {after} of {after}"


def _text(part: Part, path: str) -> tuple[int, str, str]:
    """Return how many bytes make whole characters, a note, and the text.

    Raises Rejected for what is mostly no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text = decoder.decode(part.data, final=not part.more)
    if part.more and text.endswith("\r"):
        text = text[:-1]
    taken = len(text.encode("utf-8", "surrogateescape"))
    if not text and part.data:  # the limit cuts a single character
        taken, text = len(part.data), part.data.decode("utf-8", "surrogateescape")
    odd = sum(not each.isprintable() and each not in "\n\r\t" for each in text)
    if odd > max(ODD, len(text) // 20):
        raise Rejected(
            f"{path} holds no text there: {odd} of {len(text)} characters cannot be shown",
            hint="encoding=base64 gives the bytes.",
        )
    note = ""
    if _LOST.search(text):
        text = _LOST.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
        note += "; not all of it is UTF-8, encoding=base64 gives the bytes"
    if (lines := text.count("\r\n")) and lines == text.count("\n") == text.count("\r"):
        text = text.replace("\r\n", "\n")
        note += "; its lines end in CR LF, which encoding=base64 keeps"
    return taken, note, text


def _check(path: str) -> None:
    if not path.startswith("/") and not _WINDOWS_PATH.match(path):
        raise Invalid(f"path={path[:200]!r} is not absolute", hint="Begin it with /.")
    if "\0" in path or len(path) > LONGEST_PATH:
        raise Invalid("path holds a NUL or is too long", hint="Correct it.")


@tool(effect=Effect.DESTROY, privileges=WRITING)
async def guest_file_write(
    pve: Pve,
    host: Host,
    changes: Changes,
    guest: GuestName,
    path: str,
    content: str,
    encoding: Encoding = "text",
    append: bool = False,  # noqa: FBT001, FBT002 - an argument of a tool
    mode: Annotated[str, Field(pattern=r"^(?:[0-7]{3,4})?$", description="such as 0644")] = "",
) -> str:
    """Write or append to a file inside a VM or a container; a file is replaced as a whole."""
    _check(path)
    if path.endswith("/"):
        raise Invalid(f"path={path[-200:]!r} names a folder", hint="Name a file in it.")
    new = New(path, _decoded(content, encoding), mode, append)
    found = await running(pve, guest)
    ended = await written(pve, host, changes, found, new)
    return f"{_told(new, ended)} in {found} (sha256 {new.sha256}{_checked(ended)})"


def _told(new: New, written: Written) -> str:
    if not new.append:
        return f"{len(new.data)} bytes written to {new.path}"
    size = f", which has {written.size} now," if written.size is not None else ""
    return f"{len(new.data)} bytes appended to {new.path}{size}"


def _checked(written: Written) -> str:
    return ", checked in the guest" if written.checked else ", not checked in the guest"


def _decoded(content: str, encoding: Encoding) -> bytes:
    try:
        data = (
            content.encode("utf-8", "surrogatepass")
            if encoding == "text"
            else base64.b64decode(content, validate=True)
        )
    except (ValueError, binascii.Error):
        raise Invalid("content is not base64", hint="Or leave encoding out, for text.") from None
    if MASK.encode() in data:
        raise Invalid(
            f"content holds {MASK}: it comes from an answer in which a secret was masked, and "
            "writing it would destroy the secret",
            hint="Change the file inside the guest instead, for example with sed (guest_exec).",
        )
    if len(data) > WRITE_LIMIT:
        raise Invalid(
            f"content has {len(data)} bytes; {WRITE_LIMIT} at most",
            hint="Write the first part, then the others with append=true.",
        )
    return data
