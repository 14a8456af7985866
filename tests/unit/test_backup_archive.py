"""The archive in a backup: whatever somebody packed, only plain files come out of it."""

from __future__ import annotations

import contextlib
import gzip
import io
import resource
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Invalid
from pvemcp.setup.backup import archive


def tar_of(
    *members: tarfile.TarInfo, content: bytes = b"x", form: int = tarfile.USTAR_FORMAT
) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for member in members:
            member.size = len(content) if member.type == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(made.getvalue())


def member(name: str, type_: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = type_, link
    return made


@pytest.mark.parametrize(
    "packed",
    [
        tar_of(member("../etc/passwd")),
        tar_of(member("/etc/passwd")),
        tar_of(member("a/../../b")),
        tar_of(member("a//b")),
        tar_of(member(".hidden")),
        tar_of(member("a/.ssh/b")),
        tar_of(member("a\nb")),
        tar_of(member("a/b/c/d/e")),
        tar_of(member("a"), member("a")),
        tar_of(member("a", tarfile.SYMTYPE, "/etc/shadow")),
        tar_of(member("a", tarfile.LNKTYPE, "/etc/shadow")),
        tar_of(member("a", tarfile.DIRTYPE)),
        tar_of(member("a", tarfile.CHRTYPE)),
        tar_of(member("a", tarfile.BLKTYPE)),
        tar_of(member("a", tarfile.FIFOTYPE)),
        tar_of(member("n" * 150), form=tarfile.GNU_FORMAT),
        tar_of(member("é" * 60), form=tarfile.PAX_FORMAT),
        tar_of(*(member(f"a{number}") for number in range(300))),
        gzip.compress(b"x" * 2048),
        gzip.compress(b"\0" * 1024 + b"x"),
        tar_of(member("a"), content=b"x" * 4096)[:-40],
        gzip.compress(gzip.decompress(tar_of(member("a"), content=b"x" * 4096))[:1500]),
        tar_of(member("a")) + b"more",
        b"not compressed",
    ],
    ids=map(str, range(24)),
)
def test_an_archive_with_anything_but_plain_files_is_refused(packed: bytes) -> None:
    with pytest.raises(Invalid, match="can be trusted"):
        archive.unpack(packed)


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    bomb = gzip.compress(b"\0" * 64 * 1024**2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Invalid, match="more than 1,048,576 bytes"):
        archive.unpack(bomb, most=1024**2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@given(st.binary(max_size=3000))
def test_no_content_breaks_the_reader(content: bytes) -> None:
    for packed in (content, gzip.compress(content)):
        with contextlib.suppress(Invalid):
            archive.unpack(packed)
