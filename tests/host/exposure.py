"""What an intruder finds: what is open, what may be read, who owns what, in a machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.host.machine import Machine
from tests.host.served import SIMULATOR

PROBE = "/usr/local/lib/probing.py"
PROBED = ("pvemcp.service", "pvemcp-helper.service", "pvemcp-mirror.service")
SECRETS = """
    /etc/gshadow /etc/pve/priv /etc/pve/priv/authkey.key /etc/pve/priv/pvemcp/clients.json
    /etc/shadow /etc/ssh/ssh_host_ed25519_key /etc/ssl/private /root /root/.ssh/id_ed25519
    /var/backups/pvemcp /var/lib/pvemcp /var/lib/pvemcp-helper /var/lib/pvemcp-run
    /var/lib/pvemcp-setup /etc/pvemcp/pvemcp.toml /etc/pvemcp/token /proc/1/environ
    /run/systemd/private
""".split()
PLANTED = (
    "/etc/pve/priv/authkey.key",
    "/etc/pve/priv/pvemcp/clients.json",
    "/root/.ssh/id_ed25519",
)
PLACES = """
    /dev/shm /etc /etc/pve /etc/pvemcp /home /opt /root /run /srv /sys /tmp /usr/lib/pvemcp
    /usr/local/bin /var/backups/pvemcp /var/lib /var/lib/pvemcp /var/lib/pvemcp-helper
    /var/lib/pvemcp-run /var/log /var/spool/cron
""".split()
_LIBRARY = "/usr/lib/pvemcp/python"
_LEFT_OUT = re.compile(r"^(Type|Notify|Watchdog|Restart|Condition|ExecStart|ExecStop|Requires=)")
_STATUS = (
    "Uid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
)


def look(machine: Machine) -> dict[str, Any]:
    """Return everything that the snapshot holds."""
    return {
        "units": {unit: _judged(machine, unit) for unit in _services(machine)},
        "listening": _listening(machine),
        "files": _files(machine),
        "conffiles": _words(machine, "dpkg-query", "-Wf", "${Conffiles}", "pvemcp")[::2],
        "processes": {unit: _status(machine, unit) for unit in PROBED},
        "inside": {unit: probe(machine, unit) for unit in PROBED},
    }


def _words(machine: Machine, *argv: str) -> list[str]:
    return machine.run(argv).stdout.split()


def _services(machine: Machine) -> list[str]:
    found = _words(machine, "dpkg-query", "-L", "pvemcp")
    return sorted(path.rpartition("/")[2] for path in found if path.endswith(".service"))


def _judged(machine: Machine, unit: str) -> dict[str, Any]:
    analyze = ["systemd-analyze", "security", "--no-pager", unit]
    text = machine.run(analyze, env={"SYSTEMD_COLORS": "0"}).stdout
    score = re.search(r"exposure level for \S+: ([0-9.]+)", text)
    rows = json.loads(machine.run([*analyze, "--json=short"]).stdout)
    flagged = sorted(row["name"] for row in rows if row["set"] is False and row["exposure"])
    return {"score": float(score[1]) if score else None, "flagged": flagged}


def _listening(machine: Machine) -> list[str]:
    """Return the sockets that wait for the network: protocol, address, port, unit."""
    found = set()
    for line in machine.run(["ss", "-Hlntup"]).stdout.splitlines():
        kind, _, _, _, local, *_ = line.split()
        host, _, port = local.rpartition(":")
        pid = re.search(r"pid=(\d+)", line)
        unit = unit_of(machine, pid[1]) if pid else "?"
        if unit != SIMULATOR:
            found.add(f"{kind} {host.replace(machine.address, 'ADDRESS')}:{port} {unit}")
    return sorted(found)


def unit_of(machine: Machine, pid: str) -> str:
    """Return the unit to which a process belongs."""
    shown = machine.run(["cat", f"/proc/{pid}/cgroup"]).stdout.strip()
    return shown.rpartition("/")[2]


def _files(machine: Machine) -> list[str]:
    """Return mode, owner and path of what is installed, the libraries in one line a kind."""
    places = _words(machine, "dpkg-query", "-L", "pvemcp")
    ours = [path for path in places if "pvemcp" in path]
    state = machine.run(
        ["sh", "-c", "ls -d /etc/pvemcp /var/lib/pvemcp* /var/backups/pvemcp /run/pvemcp*"]
    )
    shown = machine.run(
        ["xargs", "-d", "\\n", "stat", "-c", "%A %U:%G %n"],
        stdin="\n".join(sorted({*ours, *state.stdout.split()})).encode(),
        check=False,  # documentation is not installed in these machines
    ).stdout.splitlines()
    inside = {
        f"{line.rpartition(' ')[0]} {_LIBRARY}/**" for line in shown if f" {_LIBRARY}/" in line
    }
    return sorted(inside | {line for line in shown if f" {_LIBRARY}/" not in line})


def _status(machine: Machine, unit: str) -> dict[str, str]:
    [pid] = _words(machine, "systemctl", "show", "-P", "MainPID", unit)
    lines = machine.run(["cat", f"/proc/{pid}/status"]).stdout.splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    found = {name: fields[name].strip() for name in _STATUS}
    names = {"0": "root", _words(machine, "id", "-u", "pvemcp")[0]: "pvemcp"}
    groups = {"0": "root", _words(machine, "id", "-g", "pvemcp")[0]: "pvemcp"}
    found["Uid"] = " ".join(names.get(uid, uid) for uid in found["Uid"].split())
    found["Groups"] = " ".join(groups.get(gid, gid) for gid in found["Groups"].split())
    return found


def probe(machine: Machine, unit: str) -> Any:
    """Run the probe in place of a unit's own program, with all else as the unit says."""
    machine.copy_in(Path(__file__).with_name("probing.py"), PROBE)
    for path in PLANTED:
        if machine.run(["test", "-e", path], check=False).code:
            parent = path.rpartition("/")[0]
            machine.run(["install", "-d", "-m", "0700", parent])
            machine.copy_in(b"secret", path, mode=0o600)
    lines = machine.run(["cat", f"/usr/lib/systemd/system/{unit}"]).stdout.splitlines()
    asked = json.dumps({"read": SECRETS, "write": PLACES}).replace('"', '\\"')
    kept = [line for line in lines if not _LEFT_OUT.match(line) and "Install" not in line]
    at = kept.index("[Service]") + 1
    kept[at:at] = ["Type=oneshot", f'ExecStart=/usr/bin/python3 -I {PROBE} "{asked}"']
    name = f"probe-{unit}"
    text = "\n".join(line for line in kept if not line.startswith("WantedBy="))
    machine.copy_in(text.encode(), f"/run/systemd/system/{name}")
    try:
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "start", name])
        said = machine.run(["journalctl", "-b", "-u", name, "-o", "cat"]).stdout
    finally:
        machine.run(["rm", f"/run/systemd/system/{name}"])
        machine.run(["systemctl", "daemon-reload"])
    [answer] = [line for line in said.splitlines() if line.startswith('{"reads"')]
    return json.loads(answer)
