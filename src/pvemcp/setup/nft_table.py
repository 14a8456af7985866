"""The service's own nftables table, for hosts whose PVE firewall is off.

It decides about the service's ports alone, before every other table (a drop is final, an accept is
not), and nothing else's rules are touched. The file is loaded at boot by pvemcp-firewall.service.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pvemcp.errors import Fault, Missing, Rejected
from pvemcp.setup.networks import Network, parse

FILE = Path("/etc/pvemcp/firewall.nft")
UNIT = "pvemcp-firewall.service"
NFT = "/usr/sbin/nft"
TABLE = ("inet", "pvemcp")
_TEXT = """\
# Made by `pvemcp firewall`, which replaces it at the next change.
table inet pvemcp
delete table inet pvemcp
table inet pvemcp {{
	set allowed4 {{
		type ipv4_addr
		flags interval
{v4}	}}
	set allowed6 {{
		type ipv6_addr
		flags interval
{v6}	}}
	chain input {{
		type filter hook input priority filter - 5; policy accept;
		iif "lo" accept
		tcp dport {{ {ports} }} jump service
	}}
	chain service {{
		ip saddr @allowed4 accept
		ip6 saddr @allowed6 accept
		counter drop
	}}
}}
"""
_ELEMENTS = re.compile(r"elements = \{ (.*?) \}")
_PORTS = re.compile(r"tcp dport \{ ([\d, ]+) \} jump")


def text_of(sources: Sequence[Network], ports: Sequence[int]) -> str:
    """Return the file that lets these in. Loading it replaces the table in one go."""
    lists = [", ".join(str(one) for one in sources if one.version == version) for version in (4, 6)]
    v4, v6 = (f"\t\telements = {{ {one} }}\n" if one else "" for one in lists)
    return _TEXT.format(v4=v4, v6=v6, ports=", ".join(map(str, ports)))


class NftTable:
    """The table and its file. Everything raises a Fault, and has then changed nothing."""

    where = "an nftables table of its own (inet pvemcp)"

    def __init__(self, file: Path = FILE) -> None:
        self.file = file

    def sources(self) -> list[Network] | None:
        """Return who is let in, or None when there is no table of ours."""
        text = self._text()
        if text is None:
            return None
        return parse(one for found in _ELEMENTS.findall(text) for one in found.split(","))

    def ports(self) -> list[int]:
        """Return the ports that are guarded."""
        found = _PORTS.search(self._text() or "")
        return [int(one) for one in found[1].split(",")] if found else []

    def rules(self) -> list[str]:
        """Return what the kernel has, as nft prints it; nothing when it is not loaded."""
        done = _run(NFT, "list", "table", *TABLE)
        return done.stdout.splitlines() if done.returncode == 0 else []

    def problem(self) -> str:
        """Return why the rules do not count; empty when they do."""
        return "" if self.rules() else f"{self.file} is not loaded: something flushed it"

    def write(self, sources: Sequence[Network], ports: Sequence[int]) -> None:
        """Check the rules, load them in place of the former, and keep them for the next boot."""
        new = self.file.with_suffix(".new")
        self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
            file.write(text_of(sources, ports))
        try:
            _nft("--check", "--file", str(new))
            _nft("--file", str(new))
        except Fault:
            new.unlink()
            raise
        new.replace(self.file)
        _systemctl("start")  # so that it is loaded again when nftables.service is

    def remove(self) -> bool:
        """Remove table and file; return whether there was anything."""
        there = bool(self.rules()) or self.file.exists()
        if self.rules():
            _nft("delete", "table", *TABLE)
        self.file.unlink(missing_ok=True)
        if there:
            _systemctl("stop")
        return there

    def _text(self) -> str | None:
        try:
            return self.file.read_text("utf-8")
        except FileNotFoundError:
            return None


def _nft(*words: str) -> None:
    done = _run(NFT, *words)
    if done.returncode:
        raise Rejected(
            f"nft refused: {done.stderr.strip()}",
            hint="Nothing was changed. If this host has no nftables in its kernel, switch PVE's "
            "firewall on and run pvemcp firewall allow again.",
        )


def _systemctl(verb: str) -> None:
    if Path("/run/systemd/system").is_dir():
        _run("/usr/bin/systemctl", "--quiet", verb, UNIT)


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - fixed programs, no shell
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise Missing(f"{argv[0]} is not there.", hint="Install it: apt install nftables") from None
