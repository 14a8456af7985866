"""The description's sources: a file, PVE itself, the last good copy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest

from pvemcp.errors import Invalid, Misconfigured, Unavailable
from pvemcp.pve.client import PveClient
from pvemcp.pve.load import load_description
from tests.unit.pve_server import Request, allow, answer, client_of, new_call, raw
from tests.unit.pve_tree import TEXT, TREE


async def served() -> str:
    return TEXT


async def nothing() -> str:
    raise Unavailable("PVE is away")


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("apidoc-*.json"))


async def test_a_file_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "apidoc.js"
    file.write_text(TEXT)
    found = await load_description(file=file, fetch=nothing, cache_dir=tmp_path)
    assert found.source == str(file)
    assert copies(tmp_path) == []


async def test_a_file_that_cannot_be_used_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    for text in (None, "no array", "\udcff"):
        file = tmp_path / "bad.js"
        if text is not None:
            file.write_text(text, errors="surrogateescape")
        with pytest.raises(Misconfigured):
            await load_description(file=file, fetch=served, cache_dir=None)


async def test_the_last_good_copy_outlives_pve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    fresh = await load_description(file=None, fetch=served, cache_dir=folder)
    (copy,) = copies(folder)
    assert copy.name == f"apidoc-{fresh.digest}.json"
    assert json.loads(copy.read_text()) == TREE
    assert copy.stat().st_mode & 0o077 == 0
    with caplog.at_level(logging.WARNING):
        found = await load_description(file=None, fetch=nothing, cache_dir=folder)
    assert found.digest == fresh.digest
    assert "PVE is away" in caplog.text
    assert sorted(p.name for p in folder.iterdir()) == [copy.name]


async def test_without_any_source_the_first_reason_is_told(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(Unavailable, match="PVE is away"):
            await load_description(file=None, fetch=nothing, cache_dir=folder)
    with pytest.raises(Unavailable, match="no source"):
        await load_description(file=None, fetch=None, cache_dir=None)


async def test_a_damaged_copy_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = await load_description(file=None, fetch=served, cache_dir=tmp_path)
    for age, (name, text) in enumerate({
        "apidoc-aaaa.json": "[", "apidoc-bbbb.json": TEXT, "apidoc-cccc.json": "\udcff",
    }.items()):  # fmt: skip
        copy = tmp_path / name
        copy.write_text(text, errors="surrogateescape")
        os.utime(copy, (9_000_000_000 + age, 9_000_000_000 + age))
    with caplog.at_level(logging.WARNING):
        found = await load_description(file=None, fetch=nothing, cache_dir=tmp_path)
    assert found.digest == good.digest
    assert found.source == str(tmp_path / f"apidoc-{good.digest}.json")
    assert "damaged" in caplog.text


async def test_no_more_than_three_copies_stay(tmp_path: Path) -> None:
    for number in range(6):
        text = json.dumps([*TREE, {"path": f"/x{number}", "info": {"GET": {}}, "children": []}])

        async def fetch(text: str = text) -> str:
            return text

        latest = await load_description(file=None, fetch=fetch, cache_dir=tmp_path)
    assert len(copies(tmp_path)) == 3
    assert tmp_path / f"apidoc-{latest.digest}.json" in copies(tmp_path)


async def test_a_state_folder_that_cannot_be_written_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with caplog.at_level(logging.WARNING):
        found = await load_description(file=None, fetch=served, cache_dir=file / "below")
    assert len(found) > 0
    assert "could not be kept" in caplog.text


async def handler(request: Request) -> bytes:
    return answer(1)


async def test_many_callers_load_the_description_once() -> None:
    async with client_of(handler) as (client, server):
        found = await asyncio.gather(*(client.description() for _ in range(20)))
        assert len({id(one) for one in found}) == 1
        assert len(server.requests) == 1


async def test_a_description_that_fails_at_first_is_loaded_later(tmp_path: Path) -> None:
    file = tmp_path / "apidoc.js"
    client = PveClient("https://localhost", permit=allow, apidoc_file=file)
    async with client:
        with pytest.raises(Misconfigured):
            await client.description()
        file.write_text(TEXT)
        assert len(await client.description()) > 0


async def test_a_method_that_pve_lacks_has_the_description_read_again(tmp_path: Path) -> None:
    async def lacking(request: Request) -> bytes:
        return raw(b"", status=501, reason="Method 'GET /version' not implemented")

    file = tmp_path / "apidoc.js"
    file.write_text(TEXT)
    async with client_of(lacking, apidoc_file=file) as (client, _):
        first = await client.description()
        file.write_text(json.dumps(TREE[1:]))
        client._read_at -= 3600
        with pytest.raises(Invalid):
            await client.bind(new_call()).get("/version")
        assert client._rereading is not None
        await client._rereading
        assert (await client.description()).digest != first.digest
        with pytest.raises(Invalid, match="no path"):
            await client.bind(new_call()).get("/version")


async def test_a_description_that_cannot_be_read_again_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "apidoc.js"
    file.write_text(TEXT)
    async with client_of(handler, apidoc_file=file) as (client, _):
        first = await client.description()
        file.unlink()
        client._read_at -= 3600
        assert await client.description() is first
        assert client._rereading is not None
        with caplog.at_level(logging.WARNING):
            await client._rereading
        assert "could not be read again" in caplog.text
        assert await client.description() is first
