"""The step that starts the service, and starts it anew once its settings are newer than it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

from pvemcp.errors import Unavailable
from pvemcp.settings import Settings
from pvemcp.setup.step import Record

SERVICE = "pvemcp.service"
UNITS = ("pvemcp-mirror.service", "pvemcp-helper.socket", SERVICE)
SYSTEMCTL = "/usr/bin/systemctl"
SECONDS = 120
"""Longer than a unit may take to start."""
READY_SECONDS = 30.0
LOOK_SECONDS = 0.1


class UnitsStep:
    """The units of the package run, now and after every boot."""

    name = "service"

    def __init__(self, settings: Path) -> None:
        self._settings = settings

    def plan(self) -> list[str]:
        """Say which units are enabled, started, started anew."""
        lines = []
        for unit in _there():
            enabled, active = _state(unit)
            words = [*([] if enabled else ["enable"]), *([] if active else ["start"])]
            if words:
                lines.append(f"{' and '.join(words)} {unit}")
            elif unit == SERVICE and self._is_newer(unit):
                lines.append(f"restart {unit}: its settings have changed")
        return lines

    def foresee(self) -> Record:
        """Return how the units are now."""
        return {"units": {unit: list(_state(unit)) for unit in _there()}}

    def apply(self) -> Record:
        """Enable and start, and wait until the service listens."""
        record = self.foresee()
        for unit, (enabled, active) in record["units"].items():
            if not enabled:
                _systemctl("enable", unit)
            if not active:
                _systemctl("start", unit)
            elif unit == SERVICE and self._is_newer(unit):
                _systemctl("restart", unit)
        if SERVICE in record["units"]:
            self._wait()
        return record

    def undo(self, record: Record) -> list[str]:
        """Bring the units back to how they were."""
        said = []
        for unit, (was_enabled, was_active) in reversed(record["units"].items()):
            if unit not in _there():
                continue
            enabled, active = _state(unit)
            if active and not was_active:
                _systemctl("stop", unit)
                said.append(f"stopped {unit}")
            if enabled and not was_enabled:
                _systemctl("disable", unit)
                said.append(f"disabled {unit}")
        return said

    def _wait(self) -> None:
        """Return once the service can be connected to. Raises Unavailable when it fails before."""
        host, port = Settings.load(self._settings, {}, files=False).address
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if _show(SERVICE, "ActiveState") not in {"active", "activating"}:
                break
            with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=1):
                return
            time.sleep(LOOK_SECONDS)
        raise Unavailable(
            f"{SERVICE} does not listen at {host} port {port}.",
            hint=f"See why: journalctl -u {SERVICE} -n 30.",
        )

    def _is_newer(self, unit: str) -> bool:
        shown = _show(unit, "ActiveEnterTimestamp", "--timestamp=unix").lstrip("@")
        return self._settings.exists() and self._settings.stat().st_mtime > int(shown or 0) + 1


def _there() -> list[str]:
    if not Path("/run/systemd/system").is_dir():
        return []
    return [unit for unit in UNITS if _show(unit, "LoadState") == "loaded"]


def _state(unit: str) -> tuple[bool, bool]:
    enabled = _show(unit, "UnitFileState") not in {"disabled", "indirect"}
    return enabled, _show(unit, "ActiveState") == "active"


def _show(unit: str, name: str, *options: str) -> str:
    return _run("show", "--property", name, "--value", *options, unit).stdout.strip()


def _systemctl(verb: str, unit: str) -> None:
    try:
        done = _run("--quiet", verb, unit)
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"systemctl {verb} {unit} did not end within {SECONDS} s.",
            hint=f"See why: journalctl -u {unit} -n 30.",
        ) from None
    if done.returncode:
        raise Unavailable(
            f"systemctl {verb} {unit} failed: {done.stderr.strip()}",
            hint=f"See why: journalctl -u {unit} -n 30.",
        )


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - a fixed program, no shell
        [SYSTEMCTL, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
