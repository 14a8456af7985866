"""Where this is: the PVE, this machine's names and addresses, how PVE's certificate is known."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvemcp.errors import Misconfigured
from pvemcp.pve.transport import verifying
from pvemcp.setup.access import PveAccess
from pvemcp.setup.door import Target
from pvemcp.setup.pvesh import PVESH
from pvemcp.tls import own_certificate

CUSTOM = Path("/etc/pve/local/pveproxy-ssl.pem")
"""What pveproxy shows when an administrator, or ACME, brought a certificate."""
MIRROR = Path("/run/pvemcp-mirror")
"""Where the service finds copies of what only root may read in /etc/pve."""
LOCAL_URL = "https://localhost:8006"
PORT = 8080
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Place:
    """What was found."""

    version: str
    node: str
    cluster: str
    """Empty without one."""
    names: tuple[str, ...]
    """Names and addresses under which clients may reach this machine, the best first."""
    on_host: bool

    def describe(self) -> str:
        """Return one line for a person."""
        cluster = f"cluster {self.cluster}" if self.cluster else "no cluster"
        where = f"node {self.node}, {cluster}"
        return f"Proxmox VE {self.version}, {where}; this machine is {', '.join(self.names)}"


def look(access: PveAccess, *, on_host: bool) -> Place:
    """Ask PVE and this machine. Changes nothing."""
    rows: list[dict[str, Any]] = access.get("/cluster/status")
    nodes = [row for row in rows if row["type"] == "node"]
    cluster = next((str(row["name"]) for row in rows if row["type"] == "cluster"), "")
    local = next((str(row["name"]) for row in nodes if row.get("local")), "?")
    found = [*own_names()]
    if on_host:
        # Any node may serve any client, with the same settings.
        found += [str(row[key]) for row in nodes for key in ("name", "ip") if row.get(key)]
        found = [*_certified(CUSTOM), *found]
    names = tuple(
        dict.fromkeys(name for name in found if _HOST_NAME.fullmatch(name) or ":" in name)
    )
    version = str(access.get("/version")["version"])
    return Place(version, local, cluster, names, on_host)


def is_pve_host() -> bool:
    """Whether PVE runs on this machine."""
    return PVESH.exists()


def own_names() -> tuple[str, ...]:
    """Return the addresses and names of this machine, as others may know it."""
    return tuple(dict.fromkeys((*_own_addresses(), *_host_names())))


def _host_names() -> list[str]:
    name, full = socket.gethostname(), socket.getfqdn()
    return [name for name in dict.fromkeys((full, name)) if not name.startswith("localhost")]


def _own_addresses() -> Iterator[str]:
    """Return the addresses that others can reach: that of the default route first."""
    first = _outgoing()
    if first:
        yield first
    for interface in _interfaces():
        for one in interface.get("addr_info", []):
            if one.get("scope") == "global" and not one.get("temporary"):
                yield str(one["local"])


def _outgoing() -> str:
    # Connecting a datagram socket sends nothing: it only picks the address of the route.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as picked:
        picked.connect(("192.0.2.1", 9))
        address = str(picked.getsockname()[0])
        return "" if ipaddress.ip_address(address).is_loopback else address
    return ""


def _interfaces() -> Iterable[dict[str, Any]]:
    try:
        done = subprocess.run(
            ["/usr/sbin/ip", "-j", "addr"],
            capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    except (OSError, ValueError):
        return []
    return found


def _certified(path: Path) -> list[str]:
    """Return the DNS names in a certificate; none when it cannot be read."""
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        certificate = x509.load_der_x509_certificate(own_certificate(path))
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    names = named.value.get_values_for_type(x509.DNSName)
    return [name for name in names if "*" not in name]


def local_trust() -> dict[str, str]:
    """Return the settings that reach this host's own PVE, and know its certificate.

    The service reads copies: /etc/pve is closed to it.
    """
    if CUSTOM.exists():
        for name in _certified(CUSTOM):
            if _is_trusted(name, None):
                return {"pve_url": f"https://{name}:8006"}
            if _is_trusted(name, CUSTOM):
                return {
                    "pve_url": f"https://{name}:8006",
                    "pve_ca_file": str(MIRROR / "tls.crt"),
                }
    return {"pve_url": LOCAL_URL, "pve_ca_file": str(MIRROR / "ca.crt")}


def _is_trusted(host: str, ca_file: Path | None) -> bool:
    """Whether PVE answers under that name with a certificate that the service would accept."""
    try:
        with (
            socket.create_connection((host, 8006), timeout=5) as plain,
            verifying(ca_file).wrap_socket(plain, server_hostname=host),
        ):
            return True
    except (OSError, Misconfigured):
        return False


def remote_trust(target: Target, copy: Path) -> dict[str, str]:
    """Return the settings for a PVE elsewhere; `copy` is that of its authority."""
    found = {"pve_url": target.url}
    if target.ca_file is not None:
        found["pve_ca_file"] = str(copy)
    if target.fingerprint:
        found["pve_fingerprint"] = target.fingerprint
    return found


def listen_everywhere() -> str:
    """Return the address of all: both families where IPv6 is on."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return f"0.0.0.0:{PORT}"
    return f"[::]:{PORT}"


def give_to_service(folder: Path) -> None:
    """Make a folder of the service's own, if there is none yet."""
    if folder.exists():
        return
    folder.mkdir(mode=0o700, parents=True)
    with contextlib.suppress(LookupError):  # there is no such user: pvemcp runs as root, by hand
        shutil.chown(folder, "pvemcp", "pvemcp")
