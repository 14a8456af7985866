"""`pvemcp setup` on a machine: made, used, taken back, with a simulated PVE."""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.host.entering import Result
from tests.host.images import HostFault, Suite
from tests.host.install import install
from tests.host.machine import Machine
from tests.host.served import SECRET, make_certificate, simulate
from tests.host.waiting import until
from tests.scenarios.rig import ERAS, Caller

pytestmark = pytest.mark.timeout(180, func_only=True)  # many commands, each a second or two
PASSWORD_FILE = "/root/admin-password"
REVOKED_WITHIN = 5.0
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
_STATE = ("/access/roles", "/access/users?full=1", "/access/acl")


@dataclass(frozen=True)
class Place:
    """A machine with pvemcp installed, and a simulated PVE there."""

    machine: Machine
    pve: dict[str, str]

    @property
    def certificate(self) -> str:
        """What clients of the service trust, in PEM."""
        return self.pvemcp("connect", "claude-code", "--ca-out", "-").stdout

    @property
    def url(self) -> str:
        return f"https://{self.machine.address}:8080/mcp"

    def pvemcp(self, *words: str, code: int = 0, stdin: bytes = b"") -> Result:
        """Run a command as root of the machine, with the login of PVE's administrator."""
        argv = ["pvemcp", *words]
        if words[0] in {"setup", "client", "restore"} or words == ("backup",):
            argv += ["--pve-url", self.pve["url"], "--pve-fingerprint", self.pve["pin"]]
            argv += ["--admin", "root@pam", "--admin-password-file", PASSWORD_FILE]
        done = self.machine.run(argv, check=False, timeout=60, stdin=stdin)
        if done.code != code:
            raise HostFault(f"{' '.join(words)} ended with {done}")
        return done

    def in_pve(self) -> object:
        """Return all that PVE knows of accounts and rights."""
        found = []
        for path in _STATE:
            with httpx2.Client(verify=False) as http:
                token = f"PVEAPIToken={self.pve['token']}={self.pve['secret']}"
                answer = http.get(
                    f"{self.pve['url']}/api2/json{path}", headers={"Authorization": token}
                )
                assert answer.status_code == 200
                rows = answer.json()["data"]
                found.append(sorted(json.dumps(row, sort_keys=True) for row in rows))
        return found

    def in_etc(self) -> str:
        """Return every file of /etc with its content, mode and owner."""
        shown = ["find", "/etc", "-printf", "%p %y %m %u:%g %l\\n"]
        sums = ["find", "/etc", "-type", "f", "-exec", "sha256sum", "{}", "+"]
        both = [self.machine.run(argv).stdout.splitlines() for argv in (shown, sums)]
        return "\n".join(sorted(both[0]) + sorted(both[1]))

    @asynccontextmanager
    async def client(self, secret: str) -> AsyncIterator[Caller]:
        """Connect an MCP client from here."""
        verify = ssl.create_default_context(cadata=self.certificate)
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=30) as http:
            transport = streamable_http_client(self.url, http_client=http)
            async with Client(transport, mode=ERAS[-1]) as mcp:
                yield Caller(mcp)

    def status(self, secret: str) -> tuple[int, str]:
        """Ask the service something small; return how it answered."""
        verify = ssl.create_default_context(cadata=self.certificate)
        with httpx2.Client(verify=verify, timeout=30) as http:
            answer = http.get(self.url, headers={"Authorization": f"Bearer {secret}"})
            return answer.status_code, answer.text


@pytest.fixture(scope="module")
def place(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A machine that the tests of this file share, in their order."""
    with Machine.create(suite, tmp_path_factory.mktemp(f"{suite}-setup")) as machine:
        machine.boot()
        yield place_in(machine)


def place_in(machine: Machine) -> Place:
    """Install pvemcp in a machine that runs, with a certificate of its node and a PVE."""
    install(machine)
    certificate, key = make_certificate(machine.address)
    local = "/etc/pve/local"  # as on a node: the mirror shows it to the service
    machine.copy_in(certificate, f"{local}/pve-ssl.pem", mode=0o640)
    machine.copy_in(key, f"{local}/pve-ssl.key", mode=0o640)
    machine.run(["install", "-d", "-m", "0700", "/etc/pve/priv", "/etc/pve/priv/lock"])
    pve = simulate(machine, machine.address)
    machine.copy_in(pve["password"].encode(), PASSWORD_FILE, mode=0o600)
    return Place(machine, pve)


async def test_it_is_made_twice_used_and_taken_back(place: Place) -> None:
    etc, pve = place.in_etc(), place.in_pve()
    planned = place.pvemcp("setup", "--dry-run").stdout
    assert "make the role MCPOperator" in planned
    assert (place.in_etc(), place.in_pve()) == (etc, pve)

    done = place.pvemcp("setup", "--yes", "--client", "laptop")
    assert "FAIL" not in done.stdout
    [secret] = set(SECRET.findall(done.stdout))
    assert f"claude mcp add --transport http pvemcp {place.url}" in done.stdout
    assert place.pve["password"] not in done.stdout + done.stderr
    made = (place.in_etc(), place.in_pve())
    async with place.client(secret) as client:
        assert "12 guests" in await client.call("inventory_find")

    again = place.pvemcp("setup", "--yes", "--client", "laptop").stdout
    assert "Nothing to do" in again
    assert not SECRET.findall(again)
    assert (place.in_etc(), place.in_pve()) == made
    assert place.machine.run(["stat", "-c", "%a %U", "/var/lib/pvemcp-setup/setup.json"]).stdout \
        == "600 root\n"  # fmt: skip

    taken = place.pvemcp("setup", "--undo", "--yes").stdout
    assert "removed the user pvemcp@pve" in taken
    assert (place.in_etc(), place.in_pve()) == (etc, pve)
    with socket.socket() as probe:
        assert probe.connect_ex((place.machine.address, 8080)) == errno.ECONNREFUSED


def test_a_client_ends_here_and_in_pve(place: Place) -> None:
    place.pvemcp("setup", "--yes", "--client", "laptop")
    added = place.pvemcp("client", "add", "ci", "--role", "observer", "--pool", "lab").stdout
    [secret] = set(SECRET.findall(added))
    assert place.status(secret)[0] not in {401, 403}
    listed = place.pvemcp("client", "list").stdout
    assert re.search(r"^ci +ok +read .*MCPObserver on /pool/lab", listed, re.MULTILINE)

    token = f"{place.pve['url']}/api2/json/access/users/pvemcp@pve/token/ci"
    header = {"Authorization": f"PVEAPIToken={place.pve['token']}={place.pve['secret']}"}
    with httpx2.Client(verify=False) as http:
        assert http.delete(token, headers=header).status_code == 200
    found = until(lambda: _refused(place, secret), "the refusal", seconds=REVOKED_WITHIN)
    assert "pvemcp@pve!ci" in found
    assert re.search(r"^ci +missing in PVE", place.pvemcp("client", "list").stdout, re.MULTILINE)

    place.pvemcp("client", "revoke", "ci")
    renewed = place.pvemcp("client", "rotate", "laptop", "--now").stdout
    [second] = set(SECRET.findall(renewed))
    assert place.status(second)[0] not in {401, 403}
    place.pvemcp("client", "revoke", "laptop")
    assert place.status(second)[0] == 401


def _refused(place: Place, secret: str) -> str:
    code, text = place.status(secret)
    return text if code == 401 else ""


def test_a_clients_commands_over_ssh_need_its_name_only_when_there_are_two(place: Place) -> None:
    place.pvemcp("client", "add", "one", "--role", "observer")
    asked = json.dumps(INITIALIZE).encode() + b"\n"
    answer = place.pvemcp("stdio", stdin=asked).stdout
    assert '"serverInfo"' in answer
    place.pvemcp("client", "add", "two", "--role", "observer")
    refused = place.pvemcp("stdio", code=2, stdin=asked).stderr
    assert "--client one | two" in refused
    assert '"serverInfo"' in place.pvemcp("stdio", "--client", "two", stdin=asked).stdout


def test_nobody_but_root_can_set_up_and_no_secret_stands_in_the_process_list(place: Place) -> None:
    refused = place.machine.run(["pvemcp", "setup", "--yes"], user="pvemcp", check=False)
    assert refused.code == 2
    assert "root" in refused.stderr
    wrong = Path(PASSWORD_FILE).name
    place.machine.run(["chmod", "0644", PASSWORD_FILE])
    assert wrong in place.pvemcp("client", "list", code=2).stderr
    place.machine.run(["chmod", "0600", PASSWORD_FILE])
