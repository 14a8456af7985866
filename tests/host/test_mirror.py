"""The mirror as systemd runs it: what it may, and what the service's user may not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pvemcp.setup.certificate import self_signed
from tests.host.images import HostFault
from tests.host.served import PORT, Served, said_by
from tests.host.waiting import until
from tests.scenarios.rig import ERAS
from tests.unit.certificates import certificate

UNIT = "pvemcp-mirror.service"
OUT = "/run/pvemcp-mirror"
LOCAL = "/etc/pve/nodes/pve1"
CLIENTS = "/etc/pve/priv/pvemcp/clients.json"


@pytest.fixture(scope="module")
def pve(host: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A host with files as pmxcfs shows them, and the mirror on it; tests leave them so."""
    machine = host.machine
    cert, key = certificate(tmp_path_factory.mktemp("pair"), days=1)
    machine.run(["install", "-d", "-m", "0755", "/etc/pve", LOCAL])
    machine.run(["install", "-d", "-m", "0700", "/etc/pve/priv", "/etc/pve/priv/pvemcp"])
    machine.run(["ln", "-s", "nodes/pve1", "/etc/pve/local"])
    machine.copy_in(cert, f"{LOCAL}/pve-ssl.pem", mode=0o640, owner="root:www-data")
    machine.copy_in(key, f"{LOCAL}/pve-ssl.key", mode=0o640, owner="root:www-data")
    machine.copy_in(cert, "/etc/pve/pve-root-ca.pem", mode=0o640, owner="root:www-data")
    machine.copy_in(b"{}", CLIENTS, mode=0o600)
    machine.run(["systemctl", "restart", UNIT])
    yield host
    machine.run(["sh", "-c", "mountpoint -q /etc/pve && umount /etc/pve; rm -rf /etc/pve"])
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["rm", "-rf", OUT])


def shown(pve: Served, name: str) -> str:
    return pve.machine.run(["cat", f"{OUT}/{name}"], user="pvemcp").stdout


def test_the_service_finds_the_copies_when_the_unit_is_up(pve: Served) -> None:
    assert "PRIVATE KEY" in shown(pve, "tls.key")
    assert shown(pve, "clients.json") == "{}"
    looked = pve.machine.run(["sh", "-c", f"cd {OUT} && stat -c '%n %a %U:%G' . *"]).stdout
    assert looked.splitlines() == [
        ". 750 root:pvemcp",
        "ca.crt 640 root:pvemcp",
        "clients.json 640 root:pvemcp",
        "peer.crt 777 root:pvemcp",  # links
        "peer.key 777 root:pvemcp",
        "peer.pem 640 root:pvemcp",
        "tls.crt 777 root:pvemcp",
        "tls.key 777 root:pvemcp",
        "tls.pem 640 root:pvemcp",
    ]


@pytest.mark.parametrize(
    "attack",
    [
        f"echo '{{}}' > {OUT}/clients.json",
        f"echo '{{}}' > {OUT}/.clients.json.new",
        f"rm -f {OUT}/tls.pem",
        f"mv {OUT}/tls.pem {OUT}/other",
        f"ln -sf /etc/shadow {OUT}/ca.crt",
        f"chmod 0777 {OUT}",
        f"mv {OUT} {OUT}-old",
        "cat /etc/pve/priv/pvemcp/clients.json",
        "cat /etc/pve/local/pve-ssl.key",
    ],
)
def test_the_services_user_can_change_nothing_of_it(pve: Served, attack: str) -> None:
    before = pve.machine.run(["sh", "-c", f"ls -lai {OUT}; cat {OUT}/*"]).stdout
    tried = pve.machine.run(["sh", "-c", attack], user="pvemcp", check=False)
    assert tried.code != 0
    assert "denied" in tried.stderr or "not permitted" in tried.stderr
    assert pve.machine.run(["sh", "-c", f"ls -lai {OUT}; cat {OUT}/*"]).stdout == before


def test_another_user_cannot_read_the_copies(pve: Served) -> None:
    for name in ("tls.pem", "clients.json", ""):
        tried = pve.machine.run(["cat", f"{OUT}/{name}"], user="pvemcp-run", check=False)
        assert "Permission denied" in tried.stderr


def test_its_process_has_no_rights_beyond_root_owning_the_files(pve: Served) -> None:
    shown = pve.machine.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout.strip()
    status = pve.machine.run(["cat", f"/proc/{shown}/status"]).stdout
    assert "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    score = pve.machine.run(["systemd-analyze", "security", "--no-pager", UNIT]).stdout
    assert float(score.rpartition(UNIT)[2].split()[1]) <= 1.5, score


def test_a_change_appears_and_an_unreadable_file_keeps_its_copy(pve: Served) -> None:
    machine = pve.machine
    machine.copy_in(b'{"two": 2}', CLIENTS, mode=0o600)
    until(lambda: shown(pve, "clients.json") == '{"two": 2}', "the copy of a change")
    machine.copy_in(b'{"three": 3}', CLIENTS, mode=0o000)  # the unit has no right to override it
    until(lambda: "clients.json: Permission denied" in said_by(machine, UNIT), "its message")
    assert shown(pve, "clients.json") == '{"two": 2}'
    machine.run(["chmod", "0600", CLIENTS])
    until(lambda: shown(pve, "clients.json") == '{"three": 3}', "the copy once it can be read")
    machine.copy_in(b"{}", CLIENTS, mode=0o600)
    until(lambda: shown(pve, "clients.json") == "{}", "the copy of the first content")


def test_pmxcfs_may_go_and_come_back_and_the_mirror_may_start_anew(pve: Served) -> None:
    machine = pve.machine
    machine.run(["cp", "-a", "/etc/pve", "/root/pve"])
    machine.run(["sh", "-c", "mount -t tmpfs -o mode=755 tmpfs /etc/pve"])  # empty: as unmounted
    machine.run(["systemctl", "restart", UNIT])
    assert shown(pve, "clients.json") == "{}"
    machine.run(["sh", "-c", "cp -a /root/pve/. /etc/pve/ && rm -r /root/pve"])
    machine.copy_in(b'{"back": 1}', CLIENTS, mode=0o600)
    until(lambda: shown(pve, "clients.json") == '{"back": 1}', "the copy after the mount")
    machine.run(["umount", "/etc/pve"])
    machine.copy_in(b'{"under": 1}', CLIENTS, mode=0o600)
    until(lambda: shown(pve, "clients.json") == '{"under": 1}', "the mount's end seen inside")
    machine.copy_in(b"{}", CLIENTS, mode=0o600)
    until(lambda: shown(pve, "clients.json") == "{}", "the copy of the first content")


Pair = tuple[bytes, bytes]


def renew(pve: Served, pair: Pair) -> None:
    """Give the node a certificate, and wait until it is shown to the service."""
    for end, content in zip(("pem", "key"), pair, strict=True):
        pve.machine.copy_in(content, f"{LOCAL}/pve-ssl.{end}", mode=0o640, owner="root:www-data")
    until(lambda: pair[0].decode() in shown(pve, "tls.crt"), "the copy of the new certificate")


def presents(pve: Served, pair: Pair) -> bool:
    return ssl.get_server_certificate((pve.machine.address, PORT)) == pair[0].decode()


async def test_a_renewed_node_certificate_reaches_clients_and_their_session_stays(
    pve: Served,
) -> None:
    first, second = (self_signed([pve.machine.address]) for _ in range(2))
    started = ["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", "pvemcp.service"]
    renew(pve, first)
    pve.restart(tls_cert=f"{OUT}/tls.crt", tls_key=f"{OUT}/tls.key")
    before = pve.machine.run(started).stdout
    trusting = replace(pve, certificate=(first[0] + second[0]).decode())
    try:
        assert presents(pve, first)
        async with trusting.client(pve.grant("renewing", ceiling="read"), era=ERAS[0]) as client:
            assert "12 guests" in await client.call("inventory_find")
            renew(pve, second)
            until(lambda: presents(pve, second), "the new certificate on new connections")
            assert "12 guests" in await client.call("inventory_find")
        assert pve.machine.run(started).stdout == before
    finally:
        pve.restart()


def test_a_folder_that_is_not_roots_stops_it(pve: Served) -> None:
    machine = pve.machine
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["rm", "-rf", OUT])
    machine.run(["ln", "-s", "/tmp", OUT])
    with pytest.raises(HostFault):
        machine.run(["systemctl", "start", UNIT])
    machine.run(["systemctl", "stop", UNIT])
    machine.run(["rm", OUT])
