"""What lies below a node: services, logs, updates, disks, certificates."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pvemcp.sim.declare import (
    NODE as NODE_PARAMETER,
)  # fmt: skip
from pvemcp.sim.declare import (
    Answer,
    Ask,
    Endpoint,
    Handler,
    choice,
    endpoint,
    flag,
    index,
    listing,
    perm,
    text,
    whole,
)
from pvemcp.sim.nodes import AUDIT, NODE, node_fingerprint
from pvemcp.sim.refusal import failed
from pvemcp.sim.sections import digest, keep
from pvemcp.sim.tasks import Work
from pvemcp.sim.world import World

SERVICES = (
    "chrony", "corosync", "cron", "ksmtuned", "lxcfs", "postfix", "proxmox-firewall",
    "pve-cluster", "pve-firewall", "pve-ha-crm", "pve-ha-lrm", "pve-lxc-syscalld", "pvedaemon",
    "pvefw-logger", "pveproxy", "pvescheduler", "pvestatd", "qmeventd", "spiceproxy", "sshd",
    "syslog", "systemd-journald", "systemd-timesyncd",
)  # fmt: skip
_ABSENT = frozenset({"syslog", "systemd-timesyncd", "ksmtuned"})
_DAY = 86400


# Services ------------------------------------------------------------------------------------


def _service_state(ask: Ask, service: str) -> dict[str, Any]:
    state = ask.world.nodes[ask.node].services.get(service, "running")
    absent = service in _ABSENT or (service == "corosync" and len(ask.world.nodes) == 1)
    return {
        "service": service,
        "name": service,
        "desc": f"The {service} service",
        "state": "dead" if absent or state != "running" else "running",
        "active-state": "inactive" if absent or state != "running" else "active",
        "unit-state": "not-found" if absent else "enabled",
    }


def _services(ask: Ask) -> list[dict[str, Any]]:
    return [_service_state(ask, service) for service in SERVICES]


def _service(ask: Ask) -> dict[str, Any]:
    return _service_state(ask, ask.args["service"])


def _change_service(verb: str) -> Handler:
    def handle(ask: Ask) -> str:
        service = ask.args["service"]
        if verb == "stop" and service in {"pvedaemon", "pveproxy", "pve-cluster"}:
            raise failed(f"service '{service}' cannot be stopped through the API")

        def apply() -> None:
            state = "stopped" if verb == "stop" else "running"
            ask.world.nodes[ask.node].services[service] = state

        return ask.world.tasks.start(
            ask.node, f"srv{verb}", id=service, user=ask.who.id, work=Work(apply)
        )

    return handle


# Logs ----------------------------------------------------------------------------------------


def _journal_lines(ask: Ask) -> list[tuple[int, str]]:
    """Return `(epoch, line)` of a made-up journal of the last hour, oldest first."""
    now, name = ask.world.clock.seconds(), ask.node
    sayings = (
        "pvestatd[1201]: status update time (5.311 seconds)",
        "systemd[1]: Starting logrotate.service - Rotate log files...",
        "pveproxy[2210]: worker 41233 finished",
        "pvedaemon[1190]: <root@pam> successful auth for user 'root@pam'",
        "kernel: vmbr0: port 3(tap100i0) entered forwarding state",
        "chronyd[702]: Selected source 192.0.2.1",
    )
    lines = []
    for n in range(120):
        at = now - (120 - n) * 30
        stamp = dt.datetime.fromtimestamp(at, dt.UTC).strftime("%b %d %H:%M:%S")
        lines.append((at, f"{stamp} {name} {sayings[n % len(sayings)]}"))
    return lines


def _journal(ask: Ask) -> list[str]:
    args, lines = ask.args, _journal_lines(ask)
    since, until = args.get("since", 0), args.get("until", 2**40)
    shown = [line for at, line in lines if since <= at <= until]
    if (last := args.get("lastentries")) is not None:
        shown = shown[-last:] if last else []
    # Seen on PVE 9: a cursor before and after the lines.
    return [f"s=0;i={lines[0][0]:x}", *shown, f"s=0;i={lines[-1][0]:x}"]


def _syslog(ask: Ask) -> Answer:
    args = ask.args
    lines = [line for _, line in _journal_lines(ask)]
    if service := args.get("service"):
        lines = [line for line in lines if f" {service}[" in line]
    start, limit = args.get("start", 0), args.get("limit", 50)
    shown = lines[start : start + limit]
    rows = [{"n": n, "t": line} for n, line in enumerate(shown, start=start + 1)]
    return Answer(rows or [{"n": 1, "t": "no content"}], {"total": max(len(lines), 1)})


# Packages ------------------------------------------------------------------------------------


def _package(name: str, title: str, version: str, old: str) -> dict[str, str]:
    return {
        "Package": name,
        "Title": title,
        "Description": title,
        "Version": version,
        "OldVersion": old,
        "Arch": "amd64",
        "Origin": "Proxmox" if name.startswith("pve") or "proxmox" in name else "Debian",
        "Priority": "optional",
        "Section": "admin",
    }


_UPDATES = (
    ("pve-manager", "Virtualisation management tools", "9.1.10", "9.1.9"),
    ("openssl", "Secure Sockets Layer toolkit", "3.5.4-1~deb13u2", "3.5.4-1~deb13u1"),
    ("pve-qemu-kvm", "Full virtualisation on x86 hardware", "10.1.2-5", "10.1.2-4"),
)


def _updates(_ask: Ask) -> list[dict[str, str]]:
    return [_package(*row) for row in _UPDATES]


def _versions(_ask: Ask) -> list[dict[str, str]]:
    rows = []
    for name, title, _, old in (*_UPDATES, ("corosync", "Cluster engine", "", "3.1.9-pve2")):
        rows.append({**_package(name, title, old, old), "CurrentState": "Installed"})
    return rows


def _refresh(ask: Ask) -> str:
    lines = ("starting apt-get update", "Hit:1 http://mirror.example.org/debian trixie InRelease")
    return ask.world.tasks.start(
        ask.node, "aptupdate", id="", user=ask.who.id, work=Work(lines=lines, seconds=4)
    )


# Disks, the rest -----------------------------------------------------------------------------


def _disks(ask: Ask) -> list[dict[str, Any]]:
    if ask.args.get("type"):
        return []
    return [
        {
            "devpath": f"/dev/nvme{n}n1", "by_id_link": f"/dev/disk/by-id/nvme-LAB_{n}",
            "type": "nvme", "model": "LAB 990 PRO", "serial": f"S6Z1NJ0W{n}", "vendor": "unknown",
            "size": 1000204886016, "rpm": 0, "wearout": 97 - n, "health": "PASSED",
            "used": "LVM", "gpt": 1, "mounted": 0, "osdid": -1, "osdid-list": None,
            "wwn": "unknown",
        }
        for n in range(2)
    ]  # fmt: skip


_DNS = {"dns1": "192.0.2.1", "search": "lab.example"}


def _dns(ask: Ask) -> dict[str, Any]:
    return dict(ask.world.sections.get(f"dns {ask.node}", _DNS))


def _set_dns(ask: Ask) -> None:
    """Write resolv.conf anew: what is left out is gone."""
    given = {name: value for name, value in ask.args.items() if name != "node"}
    keep(ask.world, f"dns {ask.node}", given, _DNS)


def _usual_hosts(world: World) -> dict[str, str]:
    lines = [f"{node.ip} {node.name}.lab.example {node.name}" for node in world.nodes.values()]
    return {"data": "127.0.0.1 localhost\n" + "\n".join(lines) + "\n"}


def _hosts(ask: Ask) -> dict[str, str]:
    values = dict(ask.world.sections.get(f"hosts {ask.node}") or _usual_hosts(ask.world))
    return {**values, "digest": digest(values)}


def _set_hosts(ask: Ask) -> None:
    if ask.args.get("digest") not in (None, _hosts(ask)["digest"]):
        raise failed("detected modified configuration - file changed by other user? Try again.")
    given = {"data": ask.args["data"]}
    keep(ask.world, f"hosts {ask.node}", given, _usual_hosts(ask.world))


def _certificates(ask: Ask) -> list[dict[str, Any]]:
    now, node = ask.world.clock.seconds(), ask.world.nodes[ask.node]
    authority = "/CN=Proxmox Virtual Environment/OU=pvemcp-lab/O=PVE Cluster Manager CA"
    common: dict[str, Any] = {
        "issuer": authority,
        "pem": "(pem)\n",
        "public-key-type": "rsaEncryption",
        "notbefore": now - 90 * _DAY,
    }
    return [
        {
            **common, "filename": "pve-root-ca.pem", "subject": authority, "san": [],
            "notafter": now + 3560 * _DAY, "public-key-bits": 4096,
            "fingerprint": node_fingerprint("the authority"),
        },
        {
            **common, "filename": "pve-ssl.pem", "notafter": now + node.certificate_days * _DAY,
            "subject": f"/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN={node.name}",
            "san": ["127.0.0.1", "localhost", node.ip, node.name], "public-key-bits": 2048,
            "fingerprint": node_fingerprint(node.name),
        },
    ]  # fmt: skip


def _subscription(_ask: Ask) -> dict[str, str]:
    return {
        "status": "notfound",
        "message": "There is no subscription key",
        "serverid": "0" * 32,
        "url": "https://www.proxmox.com/en/proxmox-virtual-environment/pricing",
    }


# Declarations --------------------------------------------------------------------------------

_SYSLOG = perm(NODE, "Sys.Syslog")
_MODIFY = perm(NODE, "Sys.Modify")
_SERVICE = choice("service", "The service.", SERVICES, optional=False)
_DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}( \d{2}:\d{2}(:\d{2})?)?$"
_DISKS_RIGHT = {
    "check": ["or", ["perm", "/", ["Sys.Audit"]], ["perm", "/nodes/{node}", ["Sys.Audit"]]]
}

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", f"{NODE}/services", _services, about="Services of a node.",
             permissions=AUDIT, protected=True, returns=index("service")),
    endpoint("GET", f"{NODE}/services/{{service}}/state", _service, about="State of a service.",
             permissions=AUDIT, protected=True, returns="object", parameters=(_SERVICE,)),
    *(
        endpoint("POST", f"{NODE}/services/{{service}}/{verb}", _change_service(verb),
                 about=f"{verb.capitalize()} a service.", permissions=_MODIFY, protected=True,
                 returns="string", parameters=(_SERVICE,))
        for verb in ("start", "stop", "restart", "reload")
    ),
    endpoint("GET", f"{NODE}/journal", _journal, about="Lines of the journal.",
             permissions=_SYSLOG, protected=True, returns="array",
             parameters=(text("endcursor", "Until this cursor."),
                         whole("lastentries", "The last so many.", minimum=0),
                         whole("since", "From this time (epoch).", minimum=0),
                         text("startcursor", "From this cursor."),
                         whole("until", "Until this time (epoch).", minimum=0))),
    endpoint("GET", f"{NODE}/syslog", _syslog, about="Lines of the system log.",
             permissions=_SYSLOG, protected=True, returns=index("n", "t"),
             parameters=(whole("limit", "At most so many.", minimum=0),
                         text("service", "Of one service.", max_length=128),
                         text("since", "From this day.", pattern=_DAY_PATTERN),
                         whole("start", "Skip so many.", minimum=0),
                         text("until", "Until this day.", pattern=_DAY_PATTERN))),
    endpoint("GET", f"{NODE}/apt", listing("changelog", "repositories", "update", "versions",
                                           key="id"),
             about="What there is.", local=True, parameters=(NODE_PARAMETER,),
             returns=index("id")),
    endpoint("GET", f"{NODE}/apt/update", _updates, about="Packages to update.",
             permissions=_MODIFY, protected=True, returns=index("Package")),
    endpoint("POST", f"{NODE}/apt/update", _refresh, about="Refresh the list of packages.",
             permissions=_MODIFY, protected=True, returns="string",
             parameters=(flag("notify", "Send a message.", default=0),
                         flag("quiet", "Say less.", default=0))),
    endpoint("GET", f"{NODE}/apt/versions", _versions, about="Versions of important packages.",
             permissions=AUDIT, returns=index("Package")),
    endpoint("GET", f"{NODE}/disks", listing("list", "initgpt", "smart", "lvm", "lvmthin",
                                             "directory", "wipedisk", "zfs", key="name"),
             about="What there is.", returns=index("name")),
    endpoint("GET", f"{NODE}/disks/list", _disks, about="Disks of a node.",
             permissions=_DISKS_RIGHT, protected=True, returns=index("devpath"),
             parameters=(flag("include-partitions", "Partitions too.", default=0),
                         flag("skipsmart", "Without health.", default=0),
                         choice("type", "Of one kind.", ("unused", "journal_disks")))),
    endpoint("GET", f"{NODE}/dns", _dns, about="Resolver of a node.", permissions=AUDIT,
             returns="object"),
    endpoint("PUT", f"{NODE}/dns", _set_dns, about="Write the resolver.", protected=True,
             permissions=perm("/nodes/{node}", "Sys.Modify"),
             parameters=(text("search", "Domain.", optional=False),
                         *(text(f"dns{n}", "A server.", format="ip") for n in (1, 2, 3)))),
    endpoint("GET", f"{NODE}/hosts", _hosts, about="The hosts file.", protected=True,
             permissions=perm("/", "Sys.Audit"), returns="object"),
    endpoint("POST", f"{NODE}/hosts", _set_hosts, about="Write the hosts file.", protected=True,
             permissions=perm("/nodes/{node}", "Sys.Modify"),
             parameters=(text("data", "All of it.", optional=False),
                         text("digest", "Refuse when it has changed.", max_length=64))),
    endpoint("GET", f"{NODE}/certificates", listing("acme", "custom", "info", key="name"),
             about="What there is.", local=True, parameters=(NODE_PARAMETER,),
             returns=index("name")),
    endpoint("GET", f"{NODE}/certificates/info", _certificates, about="Certificates of a node.",
             returns=index("filename")),
    endpoint("GET", f"{NODE}/subscription", _subscription, about="Subscription of a node.",
             returns="object"),
)  # fmt: skip
