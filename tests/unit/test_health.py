"""The doctor: each thing that can be wrong is found, and its repair is named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pvemcp.access.grants import Grants
from pvemcp.call import Effect
from pvemcp.health import Check, checks
from pvemcp.health.local import check_certificate, check_state
from pvemcp.health.pve import judge_rights
from pvemcp.settings import Settings
from pvemcp.sim.http import Running, serve
from pvemcp.sim.tls import make_certificates
from pvemcp.sim.world import World, make_world
from pvemcp.store import Store
from tests.unit.certificates import certificate


def named(found: list[Check], name: str) -> list[Check]:
    return [check for check in found if check.name == name]


def one(found: list[Check], name: str) -> Check:
    [check] = named(found, name)
    return check


@asynccontextmanager
async def installed(tmp_path: Path) -> AsyncIterator[tuple[World, Running, Settings]]:
    """A simulated PVE over TLS with a least-privilege token, and settings that fit it."""
    world = make_world("homelab")
    token_id, secret = world.token(
        "mcp@pve", "doctor", privsep=True, roles={"/": "PVEAuditor", "/access": "NoAccess"}
    )
    with Store(tmp_path / "state") as store:
        Grants(store).create("laptop", Effect.READ)
    async with serve(world, tls=True) as running:
        yield (
            world,
            running,
            Settings(
                pve_url=running.url,
                pve_token_id=token_id,
                pve_token_secret=secret,
                pve_ca_file=running.ca_file,
                state_dir=tmp_path / "state",
                listen="127.0.0.1:0",
            ),
        )


async def test_a_sound_installation_has_nothing_to_repair(tmp_path: Path) -> None:
    async with installed(tmp_path) as (_, _, settings):
        found = await checks(settings)
    assert [check for check in found if not check.ok or check.repair] == []
    assert {check.name for check in found} >= {
        *("settings", "state folder", "database", "grants", "listen"),
        *("PVE connection", "PVE certificate", "clocks", "PVE token"),
        *("rights to see", "rights on /access"),
    }
    assert "mcp@pve!doctor on Proxmox VE 9" in one(found, "PVE token").message


async def test_the_pinned_fingerprint_stands_in_for_the_authority(tmp_path: Path) -> None:
    async with installed(tmp_path) as (_, running, settings):
        pinned = replace(settings, pve_ca_file=None, pve_fingerprint=running.fingerprint)
        assert all(check.ok for check in await checks(pinned))
        wrong = replace(pinned, pve_fingerprint=":".join(["AB"] * 32))
        check = one(await checks(wrong), "PVE certificate")
        assert not check.ok
        assert f"PVEMCP_PVE_FINGERPRINT={running.fingerprint}" in check.repair


async def test_an_unknown_authority_shows_the_fingerprint_and_sends_no_token(
    tmp_path: Path,
) -> None:
    async with installed(tmp_path) as (_, running, settings):
        found = await checks(replace(settings, pve_ca_file=None))
    check = one(found, "PVE certificate")
    assert not check.ok
    assert running.fingerprint in check.message
    assert named(found, "PVE token") == []


async def test_a_wrong_token_and_a_missing_one_are_found(tmp_path: Path) -> None:
    async with installed(tmp_path) as (_, _, settings):
        wrong = replace(settings, pve_token_secret="00000000-0000-0000-0000-000000000000")
        check = one(await checks(wrong), "PVE token")
        assert not check.ok
        assert check.repair
        without = replace(settings, pve_token_id="", pve_token_secret="")
        assert "API Tokens" in one(await checks(without), "settings").repair


async def test_a_token_of_root_is_a_warning(tmp_path: Path) -> None:
    async with installed(tmp_path) as (world, _, settings):
        token_id, secret = world.token()
        rooted = replace(settings, pve_token_id=token_id, pve_token_secret=secret)
        found = await checks(rooted)
    assert all(check.ok for check in found)
    assert "root@pam" in one(found, "token owner").message
    assert "NoAccess" in one(found, "rights on /access").repair


async def test_clocks_that_differ_are_a_warning(tmp_path: Path) -> None:
    async with installed(tmp_path) as (world, _, settings):
        world.clock.advance(-300)
        check = one(await checks(settings), "clocks")
    assert "behind" in check.message
    assert "chrony" in check.repair


async def test_nobody_answers_at_the_port(tmp_path: Path) -> None:
    async with installed(tmp_path) as (_, _, settings):
        pass
    check = one(await checks(settings), "PVE connection")
    assert not check.ok
    assert "pveproxy" in check.repair


async def test_a_port_without_tls_says_that_the_port_is_wrong(tmp_path: Path) -> None:
    async with serve(make_world("homelab"), tls=False) as running:
        url = running.url.replace("http:", "https:")
        found = await checks(Settings(pve_url=url, state_dir=tmp_path, listen="127.0.0.1:0"))
    assert "8006" in one(found, "PVE connection").repair


def test_rights_that_are_too_few_or_lead_to_more_are_named() -> None:
    sees = {"Sys.Audit": 1, "VM.Audit": 1, "Datastore.Audit": 1}
    nothing, _ = judge_rights({}, "mcp@pve!x")
    assert not nothing.ok
    part, _ = judge_rights({"/": {"VM.Audit": 0}}, "mcp@pve!x")
    assert "VM.Audit" in part.message
    above, access = judge_rights({"/": sees, "/access": sees}, "mcp@pve!x")
    assert not above.repair
    assert not access.repair
    deeper = {"/": sees, "/access/groups": {"User.Modify": 1}}
    assert "User.Modify on /access/groups" in judge_rights(deeper, "mcp@pve!x")[1].message


def test_looking_makes_no_state_folder_and_leaves_no_file_beside_the_database(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    found, _ = check_state(Settings(state_dir=state))
    check = one(found, "database")
    assert check.ok
    assert "no database yet" in check.message
    assert "grant create" in one(found, "grants").repair
    assert not state.exists()
    with Store(state) as store:
        Grants(store).create("laptop", Effect.READ)
    found, grants = check_state(Settings(state_dir=state))
    assert all(check.ok for check in found)
    assert [grant.name for grant in grants] == ["laptop"]
    assert sorted(path.name for path in state.iterdir()) == ["audit.key", "pvemcp.db"]


def test_a_database_of_another_version_is_not_migrated_by_looking(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.write("PRAGMA user_version = 99")
    found, _ = check_state(Settings(state_dir=tmp_path))
    assert not one(found, "database").ok
    assert "schema 99" in one(found, "database").message


async def test_a_refused_connection_and_an_unreadable_authority_are_said_in_words(
    tmp_path: Path,
) -> None:
    async with installed(tmp_path) as (_, _, settings):
        junk = tmp_path / "ca.pem"
        junk.write_text("junk")
        check = one(await checks(replace(settings, pve_ca_file=junk)), "PVE certificate")
        assert not check.ok
        assert f"{junk} is not in PEM" in check.message
    port = settings.pve_url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):  # localhost may have two addresses
        refused = replace(settings, pve_url=f"https://{host}:{port}")
        message = one(await checks(refused), "PVE connection").message
        assert message == f"{host}:{port} cannot be reached: connection refused"


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    (tmp_path / "pvemcp.db").write_bytes(b"x" * 5000)
    found, grants = check_state(Settings(state_dir=tmp_path))
    assert grants == []
    assert "move the file away" in one(found, "database").repair


def test_an_open_state_folder_and_grants_that_end_are_warnings(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Store(tmp_path) as store:
        long_ago = time.time() - 90 * 86400
        Grants(store).create("young", Effect.READ, expires=7 * 86400)
        Grants(store, clock=lambda: long_ago).create("week", Effect.READ, expires=97 * 86400)
        Grants(store, clock=lambda: 1000.0).create("gone", Effect.READ, expires=1)
    found, _ = check_state(Settings(state_dir=tmp_path))
    assert "chmod 0700" in one(found, "state folder").repair
    messages = [check.message for check in named(found, "grants")]
    assert messages == ["2 valid", "expired: gone", "expire within 14 days: week"]


async def test_nobody_who_may_log_in_is_a_warning_on_loopback_and_bad_beyond(
    tmp_path: Path,
) -> None:
    settings = Settings(state_dir=tmp_path, listen="127.0.0.1:0", pve_url="http://127.0.0.1:1")
    assert "grant create" in one(await checks(settings), "grants").repair
    beyond = replace(settings, listen="0.0.0.0:0")
    assert not one(await checks(beyond), "listen").ok


async def test_the_listening_address_is_ours_or_somebody_elses(tmp_path: Path) -> None:
    async def pvemcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer realm="pvemcp"\r\n\r\n')
        writer.close()

    server = await asyncio.start_server(pvemcp, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings(
            state_dir=tmp_path, listen=f"127.0.0.1:{port}", pve_url="http://127.0.0.1:1"
        )
        assert "answered by pvemcp" in one(await checks(settings), "listen").message
    async with serve(make_world("homelab"), tls=False) as running:
        taken = replace(settings, listen=running.url.removeprefix("http://"))
        check = one(await checks(taken), "listen")
    assert not check.ok
    assert "(address already in use)" in check.message
    assert "ss -ltnp" in check.repair


@pytest.mark.parametrize(
    ("days", "ok", "said"),
    [
        (90, True, "valid until"),
        (5, True, "in 5 days"),
        (-1, False, "expired on"),
    ],
)
def test_the_own_certificate_is_judged_by_its_last_day(
    tmp_path: Path, days: int, ok: bool, said: str
) -> None:
    cert, key = certificate(tmp_path, days=days)
    [check] = check_certificate(Settings(tls_cert=cert, tls_key=key))
    assert check.ok == ok
    assert said in check.message
    assert bool(check.repair) == (days != 90)


def test_a_key_that_does_not_fit_the_certificate_is_found(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, _ = certificate(tmp_path, days=90)
    other = make_certificates(tmp_path / "other", names=["pve1"])
    [check] = check_certificate(Settings(tls_cert=cert, tls_key=other.key_file))
    assert not check.ok
    assert "not made for this certificate" in check.message
