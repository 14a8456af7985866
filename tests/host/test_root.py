"""What somebody who has broken into the service cannot make root do."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host.machine import Machine
from tests.host.served import Served
from tests.host.test_helper import EXEC, MARK, ask, output

APPROVED = "/var/lib/pvemcp-helper/approved"
ROW = """
import json, sqlite3, sys, time
id_, text, run, far = json.load(sys.stdin)
db = sqlite3.connect("/var/lib/pvemcp/pvemcp.db", timeout=10)
plan = json.dumps({"text": text, "writes": [{"run": run}], "brief": []})
with db:
    db.execute(
        "INSERT OR REPLACE INTO approvals VALUES (?, x'00', 'g', 'laptop', '', '', 'host_run', "
        "'{}', 'c', ?, ?, ?, 'host', 1, '', 'commands as root', 'waiting', '')",
        (id_, plan, time.time(), time.time() + far),
    )
"""
"""What such a somebody can do: write whatever he likes into the database."""


def forge(host: Served, id_: str, text: str, shell: str, *, far: float = 600) -> None:
    """Put a question of the attacker's own into the database."""
    run = {"shell": shell, "cwd": "/", "env": {}, "timeout": 10}
    stdin = json.dumps([id_, text, run, far]).encode()
    host.machine.run(["python3", "-c", ROW], user="pvemcp", stdin=stdin)


def handed_over(machine: Machine, id_: str) -> dict[str, Any]:
    """Return what the helper was given."""
    found: dict[str, Any] = json.loads(machine.run(["cat", f"{APPROVED}/{id_}.json"]).stdout)
    return found


@pytest.fixture
def rooted(host: Served) -> Iterator[Served]:
    """The host with commands as root switched on."""
    before = host.machine.run(["cat", EXEC]).stdout
    host.machine.copy_in(before.replace("enabled = false", "enabled = true").encode(), EXEC)
    yield host
    host.machine.run(["rm", "-rf", APPROVED])
    host.machine.copy_in(before.encode(), EXEC)


def test_the_helper_gets_what_root_was_shown_though_the_plan_is_swapped(rooted: Served) -> None:
    id_, machine = "ap-00000000aa", rooted.machine
    forge(rooted, id_, "Plan of host_run: shows who it is", "id -u", far=4e8)
    with machine.popen(["pvemcp", "approvals", "approve", id_]) as person:
        assert person.stdin is not None
        assert person.stdout is not None
        shown = b""
        while b"[y/N]" not in shown:
            more = os.read(person.stdout.fileno(), 1 << 16)
            assert more, shown
            shown += more
        assert re.search(rb'as root: .*"shell": "id -u"', shown), shown
        forge(rooted, id_, "Plan of host_run: shows who it is", f"touch {MARK}", far=4e8)
        person.communicate(b"y\n", timeout=30)
    assert person.returncode == 0
    given = handed_over(machine, id_)
    assert given["shell"] == "id -u"
    assert given["expires"] < time.time() + 3600, "the attacker's time does not count"
    asked = {"do": "operation", "name": "root-run", "params": {"approval": id_}}
    [answer] = ask(rooted, {"request": asked})
    assert output(answer) == "0\n"


def test_what_the_helper_gets_is_shown_also_to_who_asks_for_no_question(rooted: Served) -> None:
    id_ = "ap-00000000bb"
    forge(rooted, id_, "Plan of guest_power: starts 105", "id\n\x1b[2K\u202eu")
    for command in (("show", id_), ("approve", id_, "--yes")):
        said = rooted.pvemcp("approvals", *command, user="root").stdout
        assert r'as root: {"shell": "id\n\u001b[2K\u202eu"' in said
    forge(rooted, "ap-00000000b1", "Plan of guest_power: starts 105", "id")
    denied = rooted.pvemcp("approvals", "approve", "ap-00000000b1", "--yes", code=2)
    assert "only root can approve it" in denied.stderr


def test_what_root_denies_later_the_helper_does_not_run(rooted: Served) -> None:
    id_, machine = "ap-00000000cc", rooted.machine
    forge(rooted, id_, "Plan", f"touch {MARK}")
    rooted.pvemcp("approvals", "approve", id_, "--yes", user="root")
    assert handed_over(machine, id_)["shell"] == f"touch {MARK}"
    rooted.pvemcp("approvals", "deny", id_, user="root")
    asked = {"do": "operation", "name": "root-run", "params": {"approval": id_}}
    [answer] = ask(rooted, {"request": asked})
    assert "no person has approved this" in str(answer)
    assert machine.run(["test", "-e", MARK], check=False).code == 1


def test_an_id_that_is_a_path_is_handed_over_nowhere(rooted: Served) -> None:
    id_ = "../../../../etc/cron.d/x"
    forge(rooted, id_, "Plan", f"touch {MARK}")
    refused = rooted.pvemcp("approvals", "approve", id_, "--yes", user="root", code=2)
    assert "is not the id of an approval" in refused.stderr
    assert rooted.machine.run(["test", "-e", "/etc/cron.d/x.json"], check=False).code == 1
    rooted.pvemcp("approvals", "deny", id_, user="root", code=2)


OUT_OF_REACH = (
    "cat /etc/shadow",
    "cat /etc/pve/priv/pvemcp/clients.json",
    "ls /var/lib/pvemcp-helper",
    "ls /var/lib/pvemcp-setup",
    "ls /var/backups/pvemcp",
    "ls /run/pvemcp-tmp",
    "touch /run/pvemcp-mirror/x",
    "touch /etc/pvemcp/x",
    "touch /usr/lib/pvemcp/x",
    "systemctl restart pvemcp-helper.socket",
    "systemd-run true",
    "systemctl stop pvemcp-commit-x.timer pvemcp-helper.service",
    "sudo -n true",
    "su -c true",
    "nft list ruleset",
)


def test_the_user_of_the_service_has_no_rights_of_its_own_outside_its_sandbox_too(
    host: Served,
) -> None:
    for command in OUT_OF_REACH:
        done = host.machine.run(["bash", "-c", f"{command} </dev/null"], user="pvemcp", check=False)
        assert done.code, command
