"""Files in guests are written as one change each, and come back. Those are this machine's."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from pvemcp.access.approvals import Person
from pvemcp.access.policy import Policy
from pvemcp.journal.book import Book
from pvemcp.journal.change import Change
from pvemcp.tools.written import KEPT
from tests.scenarios.rig import ToolFault
from tests.scenarios.test_approvals import id_in, refused
from tests.scenarios.test_guest_exec import KINDS, Place, place

SECRET = "correct horse battery staple\n"


def newest(p: Place) -> Change:
    """Return the newest change."""
    return Book(p.rig.store).list(limit=1)[0]


async def undone(p: Place) -> str:
    return await p.client.call("change_undo", change=newest(p).id)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_gets_its_former_content_again_however_it_was_written(
    kind: str, tmp_path: Path
) -> None:
    data = random.Random(3).randbytes(60_000)  # noqa: S311 - the same each time
    for name, content, append in (
        ("small", "new\n", False),
        ("in pieces", "n" * 150_000, False),
        ("appended", "more", True),
        ("ünï", "new\n", False),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(0o640)
        async with place(kind) as p:
            await p.call("guest_file_write", path=str(path), content=content, append=append)
            assert path.read_bytes() != data
            change = newest(p)
            assert len(Book(p.rig.store).list()) == 1, "one change, not one for each piece"
            if kind == "qemu" and not name.isascii():  # PVE cannot read it before
                assert "cannot be undone" in change.undo
                continue
            await undone(p)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", KINDS)
async def test_a_new_file_is_removed_and_that_can_be_undone_too(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    async with place(kind) as p:
        await p.call("guest_file_write", path=str(path), content=SECRET)
        await undone(p)
        assert not path.exists()
        await undone(p)
        assert path.read_text() == SECRET


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_that_has_moved_on_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    async with place(kind) as p:
        await p.call("guest_file_write", path=str(path), content="new")
        path.write_text("newer")
        with pytest.raises(ToolFault, match=r"moved on(?s:.*)bytes: 3 -> 5"):
            await undone(p)
        assert "bytes: 3 -> 5" in await p.client.call("change_show", change=newest(p).id)
        path.unlink()
        with pytest.raises(ToolFault, match="moved on"):
            await undone(p)
    assert not path.exists()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_file_held_is_nowhere_in_plain_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    encoded = base64.b64encode(SECRET.encode()).decode().rstrip("=\n")[:20]
    async with place(kind) as p:
        await p.call("guest_file_write", path=str(path), content="x")
        for form in ("text", "json"):
            text = await p.client.call("change_show", change=newest(p).id, format=form)
            assert str(path) in text
            assert encoded not in text
            assert "horse" not in text
        rows = p.rig.store.rows("SELECT * FROM changes")
        assert encoded not in str(rows)
        assert "horse" not in str(rows)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_plan_says_that_a_file_comes_back_and_the_journal_what_does_not(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (KEPT + 1))
    async with place(kind) as p:
        plan = await p.call("guest_file_write", path=str(path), content="new", dry_run=True)
        assert "change_undo writes the former content back" in plan
        assert path.stat().st_size == KEPT + 1
        await p.call("guest_file_write", path=str(path), content="new", mode="0600")
        assert "was not kept" in newest(p).undo
        with pytest.raises(ToolFault, match=f"of {KEPT + 1} bytes, was not kept"):
            await undone(p)
        await p.call("guest_file_write", path=str(path), content="newer", mode="0644")
        assert "not brought back: its mode from before 0644" in await undone(p)
        assert path.read_text() == "new"


@pytest.mark.parametrize("kind", KINDS)
async def test_who_may_not_read_a_file_cannot_have_it_back(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    async with place(kind) as p:
        p.rig.world.add_role("Writer", "VM.Audit", "VM.GuestAgent.FileWrite")
        token = p.rig.world.token("writer@pve", roles={"/vms": "Writer"})
        async with p.rig.client(token=token) as client:
            await client.call("guest_file_write", guest=p.vmid, path=str(path), content="new")
        assert "could not be read" in newest(p).undo
    assert path.read_text() == "new"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_write_that_fails_is_a_change_that_failed(kind: str, tmp_path: Path) -> None:
    async with place(kind) as p:
        with pytest.raises(ToolFault):
            await p.call("guest_file_write", path=str(tmp_path / "no" / "file"), content="x" * 9)
        assert newest(p).outcome == "failed"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plan_shows_from_what_to_what_and_is_void_once_the_file_is_another(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings"
    path.write_text("port = 80\npassword = hunter2hunter2\nname = \x1b[31mold\u202e\n")
    async with place(kind) as p, p.rig.client(policy=Policy()) as client:
        call = {"guest": p.vmid, "path": str(path), "content": "port = 443\nname = old\n"}
        text = await refused(client, "guest_file_write", **call)
        for line in ("- port = 80", "+ port = 443", "+ name = old"):
            assert f"    {line}\n" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "hunter2" not in text
        assert "would fail" not in text
        id_ = id_in(text)
        assert "hunter2" not in p.rig.approvals.get(id_).text
        p.rig.approvals.approve(id_, Person("root", "host"))
        path.write_text("port = 81\n")
        assert "another plan" in await refused(client, "guest_file_write", **call, approval=id_)
        assert path.read_text() == "port = 81\n"
        id_ = id_in(await refused(client, "guest_file_write", **call))
        p.rig.approvals.approve(id_, Person("root", "host"))
        await client.call("guest_file_write", **call, approval=id_)
        assert path.read_text() == call["content"]


@pytest.mark.parametrize(
    ("before", "arguments", "told"),
    [
        (None, {"content": "x"}, "is not there yet"),
        (b"x", {"content": "x"}, "nothing changes in it"),
        (b"abc", {"content": "de", "append": True}, "has 3 bytes now; 2 are added"),
        (b"\xff\xfe", {"content": "x"}, "2 bytes -> 1 bytes"),
        (b"a\n" * 100, {"content": "b\n" * 100}, "more lines"),
        (b"x" * (KEPT + 1), {"content": "x"}, f"{KEPT + 1} bytes -> 1 bytes"),
    ],
    ids=["new", "same", "appended", "no text", "long", "large"],
)
async def test_a_plan_says_what_becomes_of_a_file(
    before: bytes | None, arguments: dict[str, object], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    async with place("lxc") as p:
        plan = await p.call("guest_file_write", path=str(path), dry_run=True, **arguments)
        assert told in plan
        assert (path.read_bytes() if path.exists() else None) == before
