"""Shells are recorded when the policy says so, and a recording cannot be changed unseen."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pvemcp import recordings
from pvemcp.access.policy import Policy
from pvemcp.recordings import Recordings
from pvemcp.settings.policy import Rule
from tests.scenarios.browsing import Site, site
from tests.scenarios.rig import ERAS, Caller, ToolFault
from tests.scenarios.test_host import until
from tests.scenarios.unboxed import Unboxed

ALL = Rule("keep shells", "record")


@asynccontextmanager
async def recorded(*rules: Rule, era: str = ERAS[-1]) -> AsyncIterator[tuple[Site, Caller]]:
    """Start a service whose policy has these rules, with a client."""
    async with site(Policy(rules)) as s, s.web.client(era=era) as client:
        yield s, client


async def session(client: Caller, *typed: str) -> str:
    """Open a shell, type into it, close it; return its name."""
    name = (await client.call("shell_open")).split()[0]
    for text in typed:
        await client.call("shell_send", shell=name, text=text)
    await client.call("shell_close", shell=name)
    return name


@pytest.mark.parametrize("era", ERAS)
async def test_a_shell_is_recorded_as_an_asciicast(era: str) -> None:
    async with recorded(ALL, era=era) as (s, client):
        name = (await client.call("shell_open", rows=30, columns=90)).split()[0]
        await client.call("shell_send", shell=name, text="echo re''corded")
        await client.call("shell_send", shell=name, rows=40, columns=100)
        await client.call("shell_close", shell=name)
        kept = Recordings(s.rig.store)
        (one,) = kept.all()
        header, *events = map(json.loads, kept.read(name))
        assert (header["version"], header["width"], header["height"]) == (2, 90, 30)
        assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
        assert "recorded\r\n" in "".join(data for _, code, data in events if code == "o")
        assert [data for _, code, data in events if code == "i"] == ["echo re''corded\n"]
        assert [data for _, code, data in events if code == "r"] == ["100x40"]
        assert (one.name, one.client, one.end) == (name, "laptop", "closed")
        assert one.about["rule"] == "keep shells"
        assert stat.S_IMODE(kept.path(name).stat().st_mode) == 0o600
        assert list(kept.problems()) == []


async def test_the_client_is_told_that_it_is_recorded() -> None:
    async with recorded(ALL) as (_, client):
        assert "; recorded; " in await client.call("shell_open")
    async with recorded() as (_, client):
        assert "recorded" not in await client.call("shell_open")


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Rule("r", "record", client=("lap*",)), True),
        (Rule("r", "record", client=("other",)), False),
        (Rule("r", "record", profile=("read",)), True),
        (Rule("r", "record", profile=("change",)), False),
        (Rule("r", "record", node=("pve1",)), True),
        (Rule("r", "record", node=("pve2",)), False),
        (Rule("r", "allow"), False),
    ],
)
async def test_a_rule_records_the_shells_that_it_fits(rule: Rule, kept: bool) -> None:
    """Rules that decide stand before it and change nothing of that."""
    async with recorded(Rule("first", "allow"), rule) as (s, client):
        await session(client, "true")
        assert [bool(one.end) for one in Recordings(s.rig.store).all()] == [True] * kept


async def test_a_rule_that_records_decides_nothing() -> None:
    async with recorded(ALL) as (_, client):
        result = await client.raw("guest_power", guests=100, action="stop")
        assert "approval_needed" in result.content[0].text


async def test_known_secrets_are_masked_in_what_is_typed_and_shown() -> None:
    async with recorded(ALL) as (s, client):
        secret = s.rig.world.token()[1]
        name = await session(client, f"echo {secret}; echo {secret[:4]}''{secret[4:]}")
        text = Recordings(s.rig.store).path(name).read_text()
        assert "echo" in text
        assert secret not in text


async def test_what_is_answered_is_sealed() -> None:
    async with recorded(ALL) as (s, client):
        kept = Recordings(s.rig.store)
        name = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=name, text="echo an''swered")
        (one,) = kept.all()
        sealed = kept.path(name).read_bytes()[: one.size]
        assert b"answered" in sealed
        assert not one.end
        assert list(kept.problems()) == []


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes().replace(b"gone", b"here")), "was changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "was changed"),
        (lambda path: path.write_bytes(path.read_bytes() + b"[9, 'o', '']\n"), "more than it"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.with_name("x.cast").write_bytes(b""), "put there"),
    ],
)
async def test_a_recording_cannot_be_altered_unseen(alter: object, said: str) -> None:
    async with recorded(ALL) as (s, client):
        name = await session(client, "echo gone")
        kept = Recordings(s.rig.store)
        assert callable(alter)
        alter(kept.path(name))
        (problem,) = kept.problems()
        assert said in problem


async def test_no_shell_opens_that_cannot_be_recorded() -> None:
    async with recorded(ALL) as (s, client):
        Recordings(s.rig.store).folder.write_text("in the way")
        with pytest.raises(ToolFault, match=r"unavailable.*cannot be written: Not a directory"):
            await client.call("shell_open")
        executor = s.rig.executor
        assert isinstance(executor, Unboxed)
        await until(lambda: all(p.returncode is not None for p in executor.running))
        assert list(Recordings(s.rig.store).problems()) == []


async def test_a_shell_ends_when_its_recording_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LONGEST", 4000)
    async with recorded(ALL) as (s, client):
        name = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=name, text="seq 1 100000; echo never", wait=10)
        with pytest.raises(ToolFault, match=r"has ended: the recording of .* cannot be written"):
            await client.call("shell_send", shell=name, text="true")
        (one,) = Recordings(s.rig.store).all()
        assert one.size <= 4000
        assert "most that one may have" in one.end
        assert list(Recordings(s.rig.store).problems()) == []


async def test_nothing_is_typed_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(ALL) as (s, client):
        name = (await client.call("shell_open")).split()[0]
        monkeypatch.setattr(recordings, "LONGEST", 0)
        mark = s.rig.store.path.parent / "typed"
        with pytest.raises(ToolFault, match="cannot be written"):
            await client.call("shell_send", shell=name, text=f"touch {mark}")
        await client.call("shell_close", shell=name)
        assert not mark.exists()


async def test_control_sequences_stay_in_the_recording_as_data() -> None:
    async with recorded(ALL) as (s, client):
        name = await session(client, r"printf '\e]0;title\a\xff\n'")
        lines = Recordings(s.rig.store).path(name).read_bytes().split(b"\n")
        assert not any(byte < 0x20 for line in lines for byte in line)
        assert "\x1b]0;title\x07\ufffd" in "".join(
            json.loads(line)[2] for line in lines[1:-1] if json.loads(line)[1] == "o"
        )
