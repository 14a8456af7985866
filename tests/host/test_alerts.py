"""Alerts of the installed service: a mail to root by the helper, into PVE's notification system."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.host.served import Served
from tests.host.test_helper import working
from tests.host.waiting import until
from tests.scenarios.rig import ToolFault

SPOOL = "/var/spool/postfix"
FORWARD = "/usr/bin/proxmox-mail-forward"
SENDMAIL = "/usr/sbin/sendmail"


def stand_in(name: str) -> bytes:
    """Return a program that keeps its mail where Postfix would, and tries to write elsewhere."""
    lines = (
        "#!/bin/sh",
        f'echo "{name} $*" >{SPOOL}/got',
        f"cat >>{SPOOL}/got",
        f"(echo x >/etc/pvemcp/x || echo x >/usr/x || echo x >/root/x) 2>>{SPOOL}/refused",
        "exit 0",
    )
    return "\n".join(lines).encode() + b"\n"


@pytest.fixture
def spool(host: Served) -> Iterator[str]:
    host.machine.run(["mkdir", "-p", SPOOL])
    yield f"{SPOOL}/got"
    host.machine.run(["rm", "-rf", SPOOL, FORWARD, SENDMAIL])


@pytest.mark.parametrize(("program", "words"), [(FORWARD, ""), (SENDMAIL, "-i root")])
def test_a_test_alert_becomes_a_mail_to_root(
    host: Served, spool: str, program: str, words: str
) -> None:
    host.machine.copy_in(stand_in(program), program, mode=0o755)
    said = host.pvemcp("alert", "test", user="root").stdout
    assert said.startswith("mail: taken\n")
    mail = host.machine.run(["cat", spool]).stdout
    assert mail.startswith(f"{program} {words}\n" if words else f"{program} \n")
    assert "\nTo: root\n" in mail
    assert "Subject: pvemcp on " in mail
    assert "Read-only file system" in host.machine.run(["cat", f"{SPOOL}/refused"]).stdout


def test_a_mail_that_nobody_takes_is_said(host: Served) -> None:
    done = host.pvemcp("alert", "test", user="root", code=1)
    assert "mail: the mail was not taken" in done.stdout


async def test_no_client_can_send_such_a_mail(host: Served, spool: str) -> None:
    host.machine.copy_in(stand_in(FORWARD), FORWARD, mode=0o755)
    async with host.client(host.grant("mailing")) as client:
        assert "alert-mail" not in str(await client.mcp.list_tools())
        with pytest.raises(ToolFault):
            await client.call("host_diagnose", operation="alert-mail")
    assert host.machine.run(["test", "-e", spool], check=False).code


async def test_a_command_of_a_session_that_is_ended_is_killed(host: Served) -> None:
    secret = host.grant("ending-by-root", ceiling="read")

    async def use() -> None:
        async with host.client(secret) as client:
            await client.call("host_run", command="sleep 9191", timeout=100)

    using = asyncio.create_task(use())
    await asyncio.to_thread(
        until, lambda: "sleep 9191" in working(host.machine), "the command", seconds=20
    )
    found = json.loads(host.pvemcp("sessions", "--json", user="root").stdout)
    [one] = [seen for seen in found if seen["grant"] == "ending-by-root"]
    assert "requests cut" in host.pvemcp("sessions", "end", one["id"], user="root").stdout
    await asyncio.to_thread(
        until, lambda: "sleep 9191" not in working(host.machine), "its end", seconds=20
    )
    using.cancel()
    await asyncio.wait([using])


async def test_who_is_connected_is_shown_to_root_and_the_service_alone(host: Served) -> None:
    async with host.client(host.grant("shown", ceiling="read")) as client:
        await client.call("host_run", command="true")
        for user in ("root", "pvemcp"):
            found = json.loads(host.pvemcp("sessions", "--json", user=user).stdout)
            assert "shown" in {one["grant"] for one in found}
        refused = host.pvemcp("sessions", user="nobody", code=2)
        assert "as root or as its user" in refused.stderr
