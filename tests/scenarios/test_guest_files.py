"""Files inside guests. Those are this machine's (inner.py)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.policy import permit
from pvemcp.call import Effect
from pvemcp.pve.client import PveClient
from pvemcp.pve.description import array_in
from pvemcp.redaction import MASK
from pvemcp.sim.apidoc import render
from pvemcp.sim.catalogue import ENDPOINTS
from pvemcp.tools import agent, posix
from tests.scenarios.rig import ToolFault, unmarked
from tests.scenarios.test_guest_exec import KINDS, Place, place
from tests.scenarios.test_host import until


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plain", "with space", 'it\'s "q" $x', "ünï€", "-dash"])
async def test_a_large_file_makes_the_round_trip_byte_for_byte(
    kind: str, name: str, tmp_path: Path
) -> None:
    data = random.Random(7).randbytes(1_000_000)  # noqa: S311 - the same each time
    path = tmp_path / name
    async with place(kind) as p:
        for start in range(0, len(data), 500_000):
            content = base64.b64encode(data[start : start + 500_000]).decode()
            text = await p.call(
                "guest_file_write",
                path=str(path),
                content=content,
                encoding="base64",
                append=start > 0,
            )
            assert "500000 bytes" in text
        assert path.read_bytes() == data
        got = b""
        for _ in range(20):
            text = await p.call(
                "guest_file_read", path=str(path), offset=len(got), limit=72_000, encoding="base64"
            )
            head, encoded = text.split("\n", 1)
            got += base64.b64decode(encoded)
            if "goes on" not in head:
                break
        assert got == data
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_is_replaced_with_its_mode_kept_or_set(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    path.chmod(0o640)
    async with place(kind) as p:
        await p.call("guest_file_write", path=str(path), content="ü new\n" * 20_000)
        assert path.read_text() == "ü new\n" * 20_000
        assert path.stat().st_mode & 0o777 == 0o640
        await p.call("guest_file_write", path=str(path), content="x", mode="0600")
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("x", 0o600)
        await p.call("guest_file_write", path=str(path), content="y", append=True)
        assert path.read_text() == "xy"


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_files_folders_and_odd_paths_are_told_apart(
    kind: str, tmp_path: Path
) -> None:
    async with place(kind) as p:
        for path, what in (
            (str(tmp_path / "none"), "No such file|does not exist"),
            ("relative", "not absolute"),
            ("/a\0b", "NUL"),
        ):
            with pytest.raises(ToolFault, match=what):
                await p.call("guest_file_read", path=path)
        with pytest.raises(ToolFault, match=r"folder|Is a directory"):
            await p.call("guest_file_read", path=str(tmp_path))
        with pytest.raises(ToolFault, match="folder"):
            await p.call("guest_file_write", path=str(tmp_path), content="x", append=True)


async def test_what_was_masked_is_not_written_back(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("DB_PASSWORD=hunter2hunter2\n")
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "hunter2" not in text
        assert MASK in text
        with pytest.raises(ToolFault, match="would destroy the secret"):
            await p.call("guest_file_write", path=str(path), content=text)
    assert path.read_text() == "DB_PASSWORD=hunter2hunter2\n"


async def test_what_is_no_utf_8_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"a\xffb")
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "not all of it is UTF-8" in text
        assert text.endswith("a\\xffb")


async def test_a_grant_to_read_reads_files_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (17 << 20) + b"end")
    async with place("qemu", ceiling=Effect.READ) as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "bytes 0 to 24000, goes on at offset=24000\n" in text
        text = await p.call("guest_file_read", path=str(path), offset=17 << 20)
        assert f"bytes {17 << 20} to {(17 << 20) + 3} of {(17 << 20) + 3}\nend" in text
        text = await p.call("guest_file_read", path=str(path), offset=18 << 20)
        assert "nothing at offset 18874368" in text
        assert p.inner.started == []


@asynccontextmanager
async def before_9_1(p: Place, folder: Path) -> AsyncIterator[None]:
    """Work with a PVE whose file-read takes nothing but a path."""
    tree = json.loads(array_in(render(ENDPOINTS).decode()))
    (file_read,) = [node for node in _all(tree) if node["path"].endswith("/agent/file-read")]
    for name in ("count", "decode", "offset"):
        del file_read["info"]["GET"]["parameters"]["properties"][name]
    file = folder / "apidoc.json"
    file.write_text(json.dumps(tree))
    socket = p.rig.pve.transport.address.socket
    url = "https://localhost:8006"
    async with PveClient(url, socket=socket, permit=permit, apidoc_file=file) as pve:
        p.rig.pve = pve
        yield


def _all(tree: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in tree:
        yield node
        yield from _all(node.get("children", []))


async def test_before_pve_9_1_a_grant_to_read_ends_at_16_mib(tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    folder.mkdir()
    path = folder / "large"
    path.write_bytes(b"x" * (17 << 20))
    beyond = (16 << 20) + 5
    async with place("qemu") as p, before_9_1(p, tmp_path):
        async with p.rig.client(ceiling=Effect.READ) as reader:
            text = await reader.call("guest_file_read", guest=p.vmid, path=str(path))
            assert "bytes 0 to 24000, goes on" in text
            with pytest.raises(ToolFault, match=r"larger than PVE reads.*needs the effect destroy"):
                await reader.call(
                    "guest_file_read", guest=p.vmid, path=str(path), offset=beyond, limit=9
                )
            assert p.inner.started == []
            (folder / "small").write_bytes(b"a\xc3\xbcb")
            small = str(folder / "small")
            text = await reader.call("guest_file_read", guest=p.vmid, path=small, offset=1)
            assert unmarked(text).endswith("bytes 1 to 4 of 4\nüb")
        async with p.rig.client() as client:
            text = await client.call(
                "guest_file_read", guest=p.vmid, path=str(path), offset=beyond, limit=9
            )
            assert f"bytes {beyond} to {beyond + 9} of {17 << 20}, goes on" in text


async def test_a_path_beyond_ascii_needs_a_grant_that_may_run_commands(tmp_path: Path) -> None:
    path = tmp_path / "grün"
    path.write_text("leaf")
    async with place("qemu", ceiling=Effect.READ) as p:
        with pytest.raises(ToolFault, match="characters that PVE cannot send"):
            await p.call("guest_file_read", path=str(path))
    async with place("qemu") as p:
        assert (await p.call("guest_file_read", path=str(path))).endswith("\nleaf")


@pytest.mark.parametrize("kind", KINDS)
async def test_pages_end_between_characters(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    whole = "a€🎉\n" * 40
    path.write_text(whole)
    async with place(kind) as p:
        for limit in (7, 1):
            got, offset = "", 0
            while True:
                text = await p.call("guest_file_read", path=str(path), offset=offset, limit=limit)
                head, part = text.split("\n", 1)
                got += part
                if "goes on at" not in head or len(got) > 30:
                    break
                offset = int(head.split("offset=")[1].split(";")[0])
            expected = whole if limit > 4 else "a\\xe2\\x82\\xac\\xf0"
            assert expected.startswith(got) or got.startswith(expected)


@pytest.mark.parametrize("kind", KINDS)
async def test_ends_of_lines_from_windows_are_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"one\r\ntwo\r\n")
    async with place(kind) as p:
        text = await p.call("guest_file_read", path=str(path))
        assert "CR LF" in text.split("\n")[0]
        assert text.endswith("\none\ntwo\n")
        text = await p.call("guest_file_read", path=str(path), limit=4)
        assert "bytes 0 to 3" in text
        assert text.endswith("\none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 400, "\u200b".encode() * 30_000, b"\x1b" * 80_000]
)
async def test_what_is_no_text_is_refused_as_text_and_given_in_base64(
    kind: str, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "binary"
    path.write_bytes(data)
    async with place(kind) as p:
        with pytest.raises(ToolFault, match=r"holds no text there[\s\S]*encoding=base64"):
            await p.call("guest_file_read", path=str(path), limit=72_000)
        text = await p.call("guest_file_read", path=str(path), limit=72_000, encoding="base64")
        assert len(text) < 100_000
        assert base64.b64decode(text.split("\n", 1)[1]) == data[:72_000]


async def test_no_page_is_longer_than_what_a_client_takes(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes((b"\xff" + b"x" * 19) * 3600)
    async with place("qemu") as p:
        text = await p.call("guest_file_read", path=str(path), limit=72_000)
        assert len(text) < 100_000
        assert "not all of it is UTF-8" in text


async def test_a_file_that_is_no_plain_one_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with place("lxc") as p:
        for tool, more in (("guest_file_read", {}), ("guest_file_write", {"content": "x"})):
            for path in (str(tmp_path / "pipe"), "/dev/null"):
                with pytest.raises(ToolFault, match="is no plain file"):
                    await p.call(tool, path=path, **more)
        assert "Linux" in await p.call("guest_file_read", path="/proc/version")  # of 0 bytes


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_stays_one_and_its_file_is_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "broken").symlink_to("new")
    async with place(kind) as p:
        for name in ("link", "broken"):
            await p.call("guest_file_write", path=str(tmp_path / name), content="x", mode="640")
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / name).read_text() == "x"
    assert sorted(os.listdir(tmp_path)) == ["broken", "link", "new", "real"]  # noqa: PTH208


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_written_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    async with place(kind) as p:
        big = "x" * 100_000
        for path, what in (
            (tmp_path / "none" / "file", "folder that is not there"),
            (tmp_path, "is a folder"),
            (tmp_path / ("n" * 300), "could not be written"),
        ):
            with pytest.raises(ToolFault, match=what):
                await p.call("guest_file_write", path=str(path), content=big)
        with pytest.raises(ToolFault, match="names a folder"):
            await p.call("guest_file_write", path=f"{tmp_path}/", content="x")
        await until(lambda: not agent.background)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("kind", KINDS)
async def test_a_write_that_is_cancelled_leaves_the_old_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    async with place(kind) as p:
        content = "new" * 200_000
        writing = asyncio.create_task(p.call("guest_file_write", path=str(path), content=content))
        await until(lambda: len(os.listdir(tmp_path)) > 1 or writing.done())  # noqa: PTH208
        writing.cancel()
        await asyncio.wait([writing])
        await until(lambda: not agent.background)
    assert path.read_text() in {"old", content}
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_file_that_arrives_with_other_bytes_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    options = {"call": "c1", "first": True, "last": True, "encoded": False}
    right = hashlib.sha256(b"new").hexdigest()
    for sha256, append, code, after in (
        ("0" * 64, False, 26, "old"),
        ("0" * 64, True, 26, "old"),
        (right, True, 0, "oldnew"),
        (right, False, 0, "new"),
    ):
        argv = posix.write(str(path), sha256=sha256, append=append, size=3, **options)  # type: ignore[arg-type]
        done = subprocess.run(argv, input=b"new", capture_output=True, check=False)
        assert done.returncode == code
        assert path.read_text() == after
        assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_what_is_written_is_nobody_elses_until_it_is_the_file(tmp_path: Path) -> None:
    argv = posix.write(
        str(tmp_path / "key"), call="c1", first=True, last=False, size=6, sha256="", encoded=False
    )
    subprocess.run(argv, input=b"secret", check=True)
    (draft,) = tmp_path.iterdir()
    assert draft.stat().st_mode & 0o077 == 0
    subprocess.run(posix.drop(str(tmp_path / "key"), call="c1"), check=True)
    assert not draft.exists()


async def test_a_token_that_may_only_write_files_writes_small_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with place("qemu") as p:
        for name, more, checked in (("w", (), ", not checked"), ("rw", ("FileRead",), ", checked")):
            privileges = [f"VM.GuestAgent.{each}" for each in ("FileWrite", *more)]
            p.rig.world.add_role(f"Files{name}", "VM.Audit", *privileges)
            token = p.rig.world.token(f"{name}@pve", roles={"/vms": f"Files{name}"})
            async with p.rig.client(token=token) as client:
                text = await client.call(
                    "guest_file_write", guest=p.vmid, path=str(path), content=name
                )
                assert checked in text
                assert path.read_text() == name
                with pytest.raises(ToolFault, match=r"denied: .*VM\.GuestAgent"):
                    await client.call(
                        "guest_file_write",
                        guest=p.vmid,
                        path=str(path),
                        content="x",
                        mode="600",
                    )
        assert p.inner.started == []


@pytest.mark.parametrize("role", ["FileRead", "FileWrite"])
async def test_containers_ask_for_the_privilege_of_files(role: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    async with place("lxc") as p:
        p.rig.world.add_role("Files", "VM.Audit", f"VM.GuestAgent.{role}")
        token = p.rig.world.token("files@pve", roles={"/vms": "Files"})
        async with p.rig.client(token=token) as client:
            about = {"guest": p.vmid, "path": str(path)}
            if role == "FileRead":
                assert unmarked(await client.call("guest_file_read", **about)).endswith("\nold")
                with pytest.raises(ToolFault, match="denied"):
                    await client.call("guest_file_write", content="x", **about)
            else:
                await client.call("guest_file_write", content="new", **about)
                assert path.read_text() == "new"
                with pytest.raises(ToolFault, match="denied"):
                    await client.call("guest_file_read", **about)
            with pytest.raises(ToolFault, match="denied"):
                await client.call("guest_exec", guest=p.vmid, command="true")


async def test_a_mask_in_base64_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = base64.b64encode(f"password={MASK}".encode()).decode()
    async with place("qemu") as p:
        with pytest.raises(ToolFault, match="would destroy the secret"):
            await p.call("guest_file_write", path=str(path), content=content, encoding="base64")
        with pytest.raises(ToolFault, match="not base64"):
            await p.call("guest_file_write", path=str(path), content="ü!", encoding="base64")
    assert not path.exists()


async def test_windows_files_go_by_powershell_beyond_the_first_45_kb() -> None:
    async with place("qemu") as p:
        p.rig.world.guests[p.vmid].config["ostype"] = "win11"
        p.rig.world.touch()
        for more in ({"content": "x" * 50_000}, {"content": "x", "append": True}):
            with pytest.raises(ToolFault):
                await p.call("guest_file_write", path="C:\\It's ü.txt", **more)
            script = base64.b64decode(p.inner.started[-1][-1]).decode("utf-16-le")
            assert "'C:\\It''s ü.txt'" in script
            assert all(part.isascii() for part in p.inner.started[-1])
        with pytest.raises(ToolFault, match="mode is for POSIX"):
            await p.call("guest_file_write", path="C:\\x", content="x", mode="644")
