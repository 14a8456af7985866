"""Logging in to the simulated cluster."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.tickets import totp
from pvemcp.sim.world import World, make_world
from tests.unit.sim_rig import Caller, failure

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
LOGIN = {"username": "carol@pve", "password": "swordfish"}


def carol(*, second_factor: bool = False) -> tuple[World, Caller]:
    world = make_world("homelab")
    world.add_user("carol@pve", password="swordfish", totp=SECRET if second_factor else "")
    world.grant("/vms", "carol@pve", "PVEVMAdmin")
    return world, Caller(world, {})


def with_ticket(world: World, login: dict[str, Any], *, csrf: bool) -> Caller:
    headers = {"cookie": f"PVEAuthCookie={login['ticket']}"}
    if csrf:
        headers["csrfpreventiontoken"] = login["CSRFPreventionToken"]
    return Caller(world, headers)


def test_the_codes_are_those_of_rfc_6238() -> None:
    assert totp(SECRET, 59) == "287082"
    assert totp(SECRET, 1111111109) == "081804"


async def test_a_password_gives_a_ticket_that_reads_and_with_its_csrf_value_writes() -> None:
    world, nobody = carol()
    login = await nobody.data("POST", "/access/ticket", **LOGIN)
    reader = with_ticket(world, login, csrf=False)
    assert (await reader.ask("GET", "/nodes/pve1/qemu/100/config")).status == 200
    refused = await reader.ask("POST", "/nodes/pve1/qemu/106/status/start")
    assert failure(refused) == (401, "Permission denied - invalid csrf token")
    writer = with_ticket(world, login, csrf=True)
    assert await writer.task("POST", "/nodes/pve1/qemu/106/status/start") == "OK"


async def test_a_wrong_password_and_an_unknown_user_look_the_same() -> None:
    _, nobody = carol()
    for username in ("carol@pve", "nobody@pve"):
        reply = await nobody.ask("POST", "/access/ticket", username=username, password="x")
        assert failure(reply) == (401, "authentication failure")


async def test_a_second_factor_is_asked_for_and_checked() -> None:
    world, nobody = carol(second_factor=True)
    challenge = await nobody.data("POST", "/access/ticket", **LOGIN)
    assert challenge["NeedTFA"] == 1
    assert challenge["ticket"].startswith("PVE:!tfa!")
    unfinished = with_ticket(world, challenge, csrf=False)
    assert (await unfinished.ask("GET", "/version")).status == 401
    answer = {"username": "carol@pve", "tfa-challenge": challenge["ticket"]}
    wrong = await nobody.ask("POST", "/access/ticket", **answer, password="totp:000000")
    assert failure(wrong) == (401, "authentication failure")
    code = totp(SECRET, world.clock.now())
    login = await nobody.data("POST", "/access/ticket", **answer, password=f"totp:{code}")
    assert "NeedTFA" not in login
    assert (await with_ticket(world, login, csrf=False).ask("GET", "/version")).status == 200


async def test_a_challenge_ends_after_two_minutes() -> None:
    world, nobody = carol(second_factor=True)
    challenge = await nobody.data("POST", "/access/ticket", **LOGIN)
    world.clock.advance(121)
    code = totp(SECRET, world.clock.now())
    answer = {"username": "carol@pve", "tfa-challenge": challenge["ticket"]}
    late = await nobody.ask("POST", "/access/ticket", **answer, password=f"totp:{code}")
    assert late.status == 401


async def test_a_ticket_ends_after_two_hours_and_can_be_renewed_before() -> None:
    world, nobody = carol()
    login = await nobody.data("POST", "/access/ticket", **LOGIN)
    world.clock.advance(7000)
    again = await nobody.data(
        "POST", "/access/ticket", username="carol@pve", password=login["ticket"]
    )
    world.clock.advance(1000)
    assert (await with_ticket(world, login, csrf=False).ask("GET", "/version")).status == 401
    assert (await with_ticket(world, again, csrf=False).ask("GET", "/version")).status == 200


async def test_a_forged_ticket_is_refused() -> None:
    world, nobody = carol()
    login = await nobody.data("POST", "/access/ticket", **LOGIN)
    for ticket in (login["ticket"].replace("carol@pve", "root@pam"), "PVE:root@pam:0::x", "::"):
        forger = Caller(world, {"cookie": f"PVEAuthCookie={ticket}"})
        reply = await forger.ask("GET", "/version")
        assert failure(reply) == (401, "permission denied - invalid PVE ticket")
        assert reply.body == b""


async def test_realms_are_shown_without_a_login() -> None:
    _, nobody = carol()
    realms = await nobody.data("GET", "/access/domains")
    assert {realm["realm"] for realm in realms} == {"pam", "pve"}
