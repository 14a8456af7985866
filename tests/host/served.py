"""The service in a machine, on a simulated PVE there, and MCP clients of it here."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.host.entering import Result
from tests.host.images import HostFault
from tests.host.install import USER
from tests.host.machine import Machine
from tests.host.waiting import until
from tests.scenarios.rig import ERAS, Caller

PORT = 8443
UNIT = "pvemcp.service"
SIMULATOR = "pve-simulator.service"
_ETC = "/etc/pvemcp"
_SIMULATED = re.compile(
    r"URL +(?P<url>\S+)\nfingerprint +(?P<pin>\S+)\n"
    r"token +PVEAPIToken=(?P<token>[^\s=]+)=(?P<secret>\S+)\n"
    r"login +root@pam (?P<password>\S+)\n"
)
SECRET = re.compile(r"pvemcp_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Served:
    """The running service."""

    machine: Machine
    certificate: str
    """In PEM, what clients trust."""
    settings: dict[str, object]

    @property
    def url(self) -> str:
        """Where MCP is."""
        return f"https://{self.machine.address}:{PORT}/mcp"

    def pvemcp(self, *words: str, user: str = USER, stdin: bytes = b"", code: int = 0) -> Result:
        """Run a command of pvemcp in the machine, which must end with `code`."""
        done = self.machine.run(["pvemcp", *words], user=user, stdin=stdin, check=False)
        if done.code != code:
            raise HostFault(f"pvemcp {' '.join(words)} ended with {done}")
        return done

    def grant(self, name: str, *, ceiling: str = "destroy") -> str:
        """Make a grant and return its secret."""
        made = self.pvemcp("grant", "create", name, "--ceiling", ceiling).stdout
        [secret] = set(map(str, SECRET.findall(made)))
        return secret

    @asynccontextmanager
    async def client(self, secret: str, *, era: str = ERAS[-1]) -> AsyncIterator[Caller]:
        """Connect an MCP client from here with the secret of a grant."""
        verify = ssl.create_default_context(cadata=self.certificate)
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=60) as http:
            transport = streamable_http_client(self.url, http_client=http)
            async with Client(transport, mode="legacy" if era == ERAS[0] else era) as mcp:
                yield Caller(mcp)

    def restart(self, **settings: object) -> None:
        """Start the service anew, with settings besides its usual ones, and wait for it."""
        content = self.settings | settings
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in content.items()]
        self.machine.copy_in("".join(lines).encode(), f"{_ETC}/pvemcp.toml")
        started = self.machine.run(["systemctl", "restart", UNIT], check=False)
        if started.code:
            raise HostFault(f"{started.stderr}\n{self.journal()}")
        until(self.listens, "the port of the service", seconds=20)

    def listens(self) -> bool:
        """Whether the service takes connections; it must not have failed."""
        _must_run(self.machine, UNIT)
        with socket.socket() as probe:
            return probe.connect_ex((self.machine.address, PORT)) == 0

    def journal(self, unit: str = UNIT) -> str:
        """Return the messages of a unit."""
        return said_by(self.machine, unit)


def said_by(machine: Machine, unit: str) -> str:
    """Return the messages of a unit, since the boot."""
    return machine.run(["journalctl", "-b", "-u", unit, "-o", "cat"]).stdout


def _must_run(machine: Machine, unit: str) -> None:
    state = machine.run(["systemctl", "is-active", unit], check=False).stdout.strip()
    if state not in {"active", "activating"}:
        raise HostFault(f"{unit} is {state}:\n{said_by(machine, unit)}")


def serve(machine: Machine) -> Served:
    """Start the service in a machine where it is installed."""
    certificate, key = make_certificate(machine.address)
    pve = simulate(machine)
    machine.copy_in(certificate, f"{_ETC}/cert.pem")
    machine.copy_in(key, f"{_ETC}/key.pem", mode=0o640, owner=f"root:{USER}")
    machine.copy_in(pve["secret"].encode(), f"{_ETC}/token", mode=0o640, owner=f"root:{USER}")
    settings: dict[str, object] = {
        "listen": f"{machine.address}:{PORT}",
        "tls_cert": f"{_ETC}/cert.pem",
        "tls_key": f"{_ETC}/key.pem",
        "pve_url": pve["url"],
        "pve_fingerprint": pve["pin"],
        "pve_token_id": pve["token"],
        "pve_token_secret_file": f"{_ETC}/token",
        # The faster this computer is, the more calls and requests of a grant a test makes.
        "calls_per_minute": 1_000_000,
        "requests_per_minute": 1_000_000,
    }
    served = Served(machine, certificate.decode(), settings)
    served.restart()  # it starts without any client, and takes those that come
    served.grant("first", ceiling="read")
    return served


def simulate(machine: Machine, address: str = "127.0.0.1") -> dict[str, str]:
    """Run a simulated PVE in a machine; return what it says of itself."""
    machine.run(
        [
            *("systemd-run", "--quiet", f"--unit={SIMULATOR}", "--property=DynamicUser=yes"),
            *("/usr/bin/pvemcp", "simulate", "--listen", address),
        ]
    )

    def said() -> re.Match[str] | None:
        _must_run(machine, SIMULATOR)
        return _SIMULATED.search(said_by(machine, SIMULATOR))

    return until(said, "the simulated PVE", seconds=30).groupdict()


def make_certificate(address: str) -> tuple[bytes, bytes]:
    """Make a certificate for the address, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    now = dt.datetime.now(dt.UTC)
    ip = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(ip, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(pem), private
