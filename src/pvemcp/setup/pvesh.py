"""PVE's API as root of the host, through `pvesh`: no password, no network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pvemcp.errors import Fault, Missing, Unavailable
from pvemcp.setup.access import refusal, wire

PVESH = Path("/usr/bin/pvesh")
SECONDS = 90
"""pvesh itself takes one or two; with a cluster that has no quorum it waits."""
_VERBS = {"GET": "get", "POST": "create", "PUT": "set", "DELETE": "delete"}
_NOISE = ("user config - ", "Subroutine ", "pvesh ")
"""Warnings about what is orphaned in user.cfg, and pvesh's own usage."""


# Seen on PVE 9.2: pvesh cannot get a method whose parameters are declared without properties.
_UNREADABLE = "unknown schema type"
_FIREWALL_OPTIONS = "/cluster/firewall/options"
CLUSTER_FW = Path("/etc/pve/firewall/cluster.fw")


class Pvesh:
    """Runs `pvesh` as root@pam. No parameter of set-up is a secret: argv is readable in `ps`."""

    who = "root@pam, by pvesh on this host"

    def __init__(self, program: Path = PVESH, cluster_fw: Path = CLUSTER_FW) -> None:
        self._program = program
        self._cluster_fw = cluster_fw

    def get(self, path: str, /, **params: Any) -> Any:
        """Read."""
        return self._run("GET", path, params)

    def post(self, path: str, /, **params: Any) -> Any:
        """Make something new."""
        return self._run("POST", path, params)

    def put(self, path: str, /, **params: Any) -> Any:
        """Change something."""
        return self._run("PUT", path, params)

    def delete(self, path: str, /, **params: Any) -> Any:
        """Remove something."""
        return self._run("DELETE", path, params)

    def _run(self, verb: str, path: str, params: dict[str, Any]) -> Any:
        options = [f"--{name}={value}" for name, value in wire(params).items()]
        argv = [str(self._program), _VERBS[verb], path, *options, "--output-format", "json"]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program, no shell
                argv,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"},
            )
        except FileNotFoundError:
            raise Missing(
                f"{self._program} is not on this machine.",
                hint="Run it on the PVE host, or name the host: --pve-url https://HOST:8006.",
            ) from None
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"pvesh {_VERBS[verb]} {path} did not end within {SECONDS} s.",
                hint="Look at: pvecm status, systemctl status pve-cluster.",
            ) from None
        if done.returncode and path == _FIREWALL_OPTIONS and _UNREADABLE in done.stderr:
            return _options(self._cluster_fw)
        if done.returncode:
            raise _fault(f"{verb} {path}", done.stderr)
        return _decoded(done.stdout)


def _options(path: Path) -> dict[str, str]:
    """Return the options in a firewall's file; none when there is no file."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, str] = {}
    section = ""
    for line in (one.strip() for one in lines):
        if line.startswith("["):
            section = line.lower()
        elif section == "[options]" and line and not line.startswith("#"):
            name, _, value = line.partition(":")
            found[name.strip()] = value.strip()
    return found


def _decoded(text: str) -> Any:
    return json.loads(text) if text.strip() else None


def _fault(asked: str, stderr: str) -> Fault:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_NOISE)] or ["no reason was given"]
    if lines[0].startswith("400 "):
        pairs = [line.partition(": ") for line in lines[1:]]
        return refusal(asked, lines[0], {name: problem for name, _, problem in pairs if problem})
    return refusal(asked, lines[-1])
