"""What befalls the installed service: it recovers or says so, and an administrator hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterator

import httpx2
import pytest

from tests.host.images import HostFault
from tests.host.served import SIMULATOR, UNIT, Served
from tests.host.test_alerts import FORWARD, SPOOL
from tests.host.waiting import until
from tests.scenarios.rig import ToolFault

STATE = "/var/lib/pvemcp"
KEEPING = f"#!/bin/sh\ncat >>{SPOOL}/all\n".encode()
FORGET = """\
import sqlite3
db = sqlite3.connect("/var/lib/pvemcp/pvemcp.db", isolation_level=None)
db.execute("DELETE FROM alerts")
"""
DROP_IN = f"/run/systemd/system/{UNIT}.d/hasty.conf"


@pytest.fixture(scope="module")
def hasty(host: Served) -> Iterator[Served]:
    """The service with an impatient watchdog, in a PVE that keeps the mail."""
    machine = host.machine
    machine.run(["mkdir", "-p", SPOOL])
    machine.copy_in(KEEPING, FORWARD, mode=0o755)
    machine.copy_in(b"[Service]\nWatchdogSec=2\nRestartSec=100ms\n", DROP_IN)
    machine.run(["systemctl", "daemon-reload"])
    yield host
    machine.run(["rm", "-r", SPOOL, FORWARD, DROP_IN.rpartition("/")[0]])
    machine.run(["systemctl", "daemon-reload"])
    host.restart()


@pytest.fixture
def told(hasty: Served) -> Served:
    """The same, with quick alerts of which none was told yet."""
    machine = hasty.machine
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["python3", "-c", FORGET])
    machine.run(["sh", "-c", f": >{SPOOL}/all"])
    hasty.restart(alert_after=1)
    return hasty


def mails(host: Served) -> str:
    return host.machine.run(["cat", f"{SPOOL}/all"]).stdout


def until_told(host: Served, subject: str) -> None:
    try:
        until(lambda: subject in mails(host), f"an alert: {subject}", seconds=25)
    except HostFault as fault:
        said = "\n".join(host.journal(unit)[-3000:] for unit in (UNIT, "pvemcp-helper.service"))
        raise HostFault(f"{fault}\n{mails(host)}\n{said}") from None


async def ready(host: Served, secret: str) -> tuple[int, dict[str, dict[str, str]]]:
    verify = ssl.create_default_context(cadata=host.certificate)
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(verify=verify, timeout=20) as http:
        answer = await http.get(host.url.replace("/mcp", "/readyz"), headers=headers)
        return answer.status_code, json.loads(answer.text).get("checks", {})


def pid(host: Served) -> str:
    return host.machine.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout.strip()


def until_another(host: Served, before: str) -> None:
    until(lambda: pid(host) not in {before, "0"}, "another process", seconds=25)
    until(host.listens, "its port", seconds=25)


@pytest.mark.parametrize("signal", ["STOP", "KILL"])
async def test_a_process_that_dies_or_stops_is_replaced_and_somebody_is_told(
    told: Served, signal: str
) -> None:
    secret = told.grant(f"struck-{signal.lower()}", ceiling="change")
    before = pid(told)
    async with told.client(secret) as client:
        pools = {"poolid": f"pool-{signal}"}
        await client.call("api_change", method="POST", path="/pools", params=pools)
    told.machine.run(["kill", f"-{signal}", before])
    until_another(told, before)
    until_told(told, "the service was ended without notice")
    async with told.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")
    audited = told.pvemcp("audit", "--client", f"struck-{signal.lower()}").stdout
    assert f"pool-{signal}" in audited


async def test_an_event_loop_that_hangs_ends_the_process_and_the_next_one_serves(
    told: Served,
) -> None:
    fifo = "/etc/pvemcp/hangs"  # reading it never ends, and exec.toml is read in the event loop
    told.machine.run(["mkfifo", "-m", "0644", fifo])
    try:
        told.restart(alert_after=1, exec_file=fifo)
        before, secret = pid(told), told.grant("hanging", ceiling="read")
        with contextlib.suppress(Exception):  # whatever a client makes of it
            async with told.client(secret) as client:
                await client.call("host_diagnose", operation="uptime")
        until_another(told, before)
        assert "Watchdog timeout" in told.journal()
        async with told.client(secret) as client:
            assert "12 guests" in await client.call("inventory_find")
        until_told(told, "the service was ended without notice")
    finally:
        told.machine.run(["rm", fifo])


async def test_while_pve_is_down_it_says_so_and_works_again_when_pve_does(told: Served) -> None:
    secret = told.grant("patient", ceiling="read")
    [simulator] = told.machine.run(["systemctl", "show", "-P", "MainPID", SIMULATOR]).stdout.split()
    told.machine.run(["kill", "-STOP", simulator])
    try:
        until_told(told, "Proxmox VE cannot be worked")
    finally:
        told.machine.run(["kill", "-CONT", simulator])

    async def well() -> None:
        while (await ready(told, secret))[0] != 200:
            await asyncio.sleep(0.2)

    await asyncio.wait_for(well(), 20)
    assert "check pve is well again" in told.journal()
    async with told.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")


@pytest.fixture
def small_disk(told: Served) -> Iterator[Served]:
    """The state on a small file system of its own."""
    machine = told.machine
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["cp", "-a", STATE, "/root/state"])
    machine.run(["mount", "-t", "tmpfs", "-o", "size=24M,mode=0700", "tmpfs", STATE])
    machine.run(["sh", "-c", f"chown pvemcp:pvemcp {STATE}; cp -a /root/state/. {STATE}"])
    told.restart(alert_after=1)
    yield told
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["umount", STATE])
    machine.run(["rm", "-rf", "/root/state"])


async def test_on_a_full_disk_reads_go_on_and_changes_are_refused(small_disk: Served) -> None:
    host = small_disk
    secret = host.grant("squeezed", ceiling="change")
    host.machine.run(["sh", "-c", f"cat /dev/zero >{STATE}/fill"], check=False)
    done, refusal = 0, ""
    async with host.client(secret) as client:
        for number in range(400):  # what the write-ahead log has already may be written once more
            pool = {"poolid": f"full-{number}"}
            try:
                await client.call("api_change", method="POST", path="/pools", params=pool)
                done += 1
            except ToolFault as fault:
                refusal = str(fault)
                break
        assert "Refused before anything was changed: the audit cannot be written" in refusal
        assert "Make room" in refusal
        assert "12 guests" in await client.call("inventory_find")
        pools = await client.call("api_read", path="/pools")
        assert pools.count("full-") == done
    async with asyncio.timeout(15):
        while (await ready(host, secret))[0] != 503:  # a look counts for some seconds
            await asyncio.sleep(0.2)
    _, checks = await ready(host, secret)
    assert checks["disk"]["state"] == "fail"
    until_told(host, "the disk of the audit")
    host.machine.run(["rm", f"{STATE}/fill"])
    async with host.client(secret) as client:
        await client.call("api_change", method="POST", path="/pools", params={"poolid": "room"})
    until(lambda: "check disk is" in host.journal().rpartition("check disk is fail")[2], "room")
    audited = host.pvemcp("audit", "--client", "squeezed", "--limit", "1000", "--json").stdout
    changed = [json.loads(line) for line in audited.splitlines()]
    assert (
        sum(one["outcome"] == "ok" and one["tool"] == "api_change" for one in changed) == done + 1
    )
    assert "squeezed" in host.pvemcp("grant", "list").stdout
