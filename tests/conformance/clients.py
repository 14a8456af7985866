"""Real clients against the product, offline: `python -m tests.conformance.clients`.

The official Inspector lists and calls tools in both protocol eras. With --claude-code, Claude Code
(a download of 400 MB) connects too. Exits with 1 when a client complains.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from pvemcp.connect import PLACEHOLDER, snippet
from tests.conformance import npm
from tests.conformance.product import Running, running, say

ERAS = ("modern", "legacy")
CALLS = (
    ("--method", "tools/list", "--strict"),
    ("--method", "tools/call", "--tool-name", "inventory_find", "--tool-arg", "limit=2"),
)
STOPPED = (106, 108)
"""Guests of the simulated PVE that can be destroyed, one for each era."""
_QUIET = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def inspect(service: Running) -> list[str]:
    """Use the product with the Inspector; return its complaints."""
    complaints = []
    for era in ERAS:
        for call in CALLS:
            done = _inspector(service, era, *call)
            clean = done.returncode == 0 and not done.stderr.strip()
            say(f"Inspector, {era}: {' '.join(call)}", passed=clean)
            if not clean:
                complaints.append(f"rc={done.returncode}\n{done.stdout[-2000:]}\n{done.stderr}")
    return complaints


def destroy(service: Running) -> list[str]:
    """Destroy a guest through the Inspector, which has no dialogs: root's yes on the host first."""
    complaints = []
    for era, vmid in zip(ERAS, STOPPED, strict=True):
        path = f"/nodes/pve1/qemu/{vmid}"
        asked = _call(service, era, "api_destroy", path=path)
        found = re.search(r"approval=(ap-[0-9a-f]+)", asked)
        id_ = found[1] if found else ""
        heard = {
            "approval_needed": asked,
            "stopped": _call(service, era, "guest_get", guest=vmid),
            "Approved": _approve(service, id_, str(vmid)),
            "OK": _call(service, era, "api_destroy", path=path, approval=id_),
            "does not exist": _call(service, era, "api_destroy", path=path, approval=id_),
            "not_found": _call(service, era, "guest_get", guest=vmid),
        }
        passed = all(expected in said for expected, said in heard.items())
        say(f"Inspector, {era}: a guest is destroyed after a person's yes", passed=passed)
        if not passed:
            complaints.append("\n".join(f"{key}: {said}" for key, said in heard.items()))
    return complaints


def _inspector(service: Running, era: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    server = (
        service.url, "--transport", "http", "--header", f"Authorization: Bearer {service.token}",
        "--protocol-era", era,
    )  # fmt: skip
    return npm.run(npm.INSPECTOR, "--cli", *server, *arguments, home=service.home)


def _call(service: Running, era: str, tool: str, **arguments: object) -> str:
    """Call a tool with the Inspector; return what it printed."""
    given = ("--tool-name", tool, "--tool-args-json", json.dumps(arguments))
    done = _inspector(service, era, "--method", "tools/call", *given)
    return done.stdout + done.stderr


def _approve(service: Running, approval: str, typed: str) -> str:
    """Say yes on the host; return what the command printed."""
    done = npm.execute(
        sys.executable, "-m", "pvemcp", "approvals", "approve", approval, "--confirm", typed,
        home=service.home, environment={"PVEMCP_STATE_DIR": str(service.state)},
    )  # fmt: skip
    return done.stdout + done.stderr


def connect_claude_code(service: Running, program: Path) -> list[str]:
    """Connect Claude Code as `pvemcp connect` says, without and with --helper."""
    complaints = []
    for helper in (False, True):
        home = service.home / f"claude-code-{'helper' if helper else 'header'}"
        home.mkdir()
        connect = snippet("claude-code", url=service.url, helper=helper).text
        commands = connect.replace(PLACEHOLDER, service.token)
        path = f"{program.parent}:{os.environ['PATH']}"
        done = npm.execute(
            "sh",
            "-ec",
            f"{commands}\nclaude mcp list",
            home=home,
            environment={**_QUIET, "PATH": path},
            typed=f"{service.token}\n",
        )
        connected = done.returncode == 0 and "Connected" in done.stdout
        say(f"Claude Code: connect{' --helper' if helper else ''}, mcp list", passed=connected)
        if not connected:
            complaints.append(done.stdout + done.stderr)
    return complaints


def main() -> None:
    """Run the clients, print a line for each use, and exit with the complaints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claude-code", action="store_true", help="connect Claude Code as well")
    given = parser.parse_args()
    npm.install()
    program = npm.claude_code() if given.claude_code else None
    with running() as service:
        complaints = inspect(service)
        if program:
            complaints += connect_claude_code(service, program)
        complaints += service.exceptions()
    with running("--policy") as service:
        complaints += [*destroy(service), *service.exceptions()]
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
