"""What is inside a backup: a compressed tar of plain files with plain names, and nothing else.

It is read as if an enemy had written it. The standard library's reader follows long names, links,
sparse files and headers of any size; here a header that is not that of a plain file ends it all.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping

from pvemcp.errors import Invalid

MOST_UNPACKED = 1024**3
"""Bytes of all members together."""
MOST_MEMBERS = 256
_BLOCK = 512
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_@.-]*(/[A-Za-z0-9_][A-Za-z0-9_@.-]*){0,3}")


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return the archive. Names must be as `unpack` reads them."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            if not _NAME.fullmatch(name):
                raise Invalid(f"A file named {name!r} cannot be in a backup.", hint="Rename it.")
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), 0o600
            archive.addfile(header, io.BytesIO(content))
    return gzip.compress(tar.getvalue(), compresslevel=6, mtime=0)


def unpack(packed: bytes, *, most: int = MOST_UNPACKED) -> dict[str, bytes]:
    """Return the members by name. Raises Invalid for anything that `pack` would not have made."""
    try:
        tar = zlib.decompressobj(wbits=31)
        plain = tar.decompress(packed, most + _BLOCK)
    except zlib.error:
        raise damaged("it is not compressed as a backup is") from None
    if tar.unconsumed_tail:
        raise damaged(f"it unpacks to more than {most:,} bytes")
    if not tar.eof or tar.unused_data:
        raise damaged("its end is missing, or something follows it")
    members: dict[str, bytes] = {}
    for name, content in _members(plain):
        if name in members:
            raise damaged(f"it holds {name} twice")
        members[name] = content
    return members


def _members(plain: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    for _ in range(MOST_MEMBERS):
        block = plain[at : at + _BLOCK]
        if not block.strip(b"\0"):
            if plain[at:].strip(b"\0"):
                raise damaged("something follows its end")
            return
        header = _header(block)
        at += _BLOCK
        if at + header.size > len(plain):
            raise damaged(f"{header.name} is larger than what there is")
        yield header.name, plain[at : at + header.size]
        at += -(-header.size // _BLOCK) * _BLOCK
    raise damaged(f"it holds more than {MOST_MEMBERS} files")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        raise damaged("a header cannot be read") from None
    if header.type != tarfile.REGTYPE:
        raise damaged(f"{header.name!r} is not a plain file")
    if not _NAME.fullmatch(header.name) or header.size < 0:
        raise damaged(f"the name {header.name!r} is not one of a backup")
    return header


def damaged(problem: str) -> Invalid:
    """Return the fault for content that a backup never has."""
    return Invalid(
        f"This is not a backup that can be trusted: {problem}.",
        hint="Nothing was changed. Take another copy, from a place that only root can write.",
    )
