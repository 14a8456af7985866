"""The service of an installation, stopped while its files are switched."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from pvemcp.errors import Conflict, Unavailable
from pvemcp.settings import SYSTEM_CONFIG
from pvemcp.setup.step import Record
from pvemcp.setup.units import UnitsStep

SECONDS = 120
FIREWALL = "pvemcp-firewall.service"
FIREWALL_FILE = SYSTEM_CONFIG.with_name("firewall.nft")


class Service:
    """The units of an installation; without a unit there are none, and everything does nothing."""

    def __init__(self, unit: str, settings: Path | None = None) -> None:
        self.unit = unit
        self._settings = settings or SYSTEM_CONFIG

    def now(self) -> Record:
        """Return how all units are, as `bring_back` reads it."""
        return UnitsStep(self._settings).foresee() if self.unit else {}

    def stop(self) -> None:
        """Stop the service and wait. Raises Unavailable."""
        if self.unit:
            _do("stop", self.unit)

    def start(self) -> None:
        """Enable and start all units, as they are on the disk now. Raises Unavailable."""
        if self.unit:
            _reload(self.unit)
            if _has_firewall():
                _do("restart", FIREWALL)
            UnitsStep(self._settings).apply()

    def bring_back(self, record: Record) -> None:
        """Stop and disable what did not run, start what did. Raises Unavailable."""
        if self.unit and record:
            _reload(self.unit)
            if _has_firewall():
                _do("restart", FIREWALL)
            UnitsStep(self._settings).undo(record)
            if record["units"].get(self.unit, [False, False])[1]:
                _do("start", self.unit)  # whatever it does now: a stop may be on its way


def _has_firewall() -> bool:
    return FIREWALL_FILE.exists() and _run("cat", FIREWALL).returncode == 0


def _reload(unit: str) -> None:
    _run("daemon-reload")
    _run("reset-failed", unit)


def _do(verb: str, unit: str) -> None:
    done = _run(verb, unit)
    if done.returncode:
        raise Unavailable(
            f"systemctl {verb} {unit} failed: {done.stderr.strip()[:500]}",
            hint=f"See why: journalctl -u {unit} -n 30",
        )


def refuse_other_users(database: Path) -> None:
    """Raise Conflict while another process has the database open: its writes would be lost."""
    if not database.exists():
        return
    wanted = database.stat()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()) and _has_open(process, wanted):
            raise Conflict(
                f"Process {process.name} has {database} open.",
                hint=f"End it first: ps -fp {process.name}",
            )


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        links = list((process / "fd").iterdir())
    except OSError:  # it has ended, or belongs to somebody else
        return False
    for link in links:
        with contextlib.suppress(OSError):  # closed meanwhile
            found = link.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - a fixed program, no shell
        # With us it ends: a stop that comes late would undo what brings the old state back.
        ["/usr/bin/setpriv", "--pdeathsig=KILL", "/usr/bin/systemctl", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
