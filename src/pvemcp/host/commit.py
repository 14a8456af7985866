"""Takes a change of the host back unless somebody confirms it (operations of exec.toml).

`commit.py begin ID SECONDS KIND` keeps the files that such a change touches and has systemd call
`commit.py revert ID` when the time is over; `commit.py confirm ID` stops that. The timer is
systemd's own: it needs neither the service nor the helper. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/pvemcp-helper/commits")
OPEN, ENDED = 0, 3
"""Exit codes: done; it is over, or somebody else's turn."""
LARGEST = 4 * 1024 * 1024
FORGET = 86_400.0
"""Seconds after which what was reverted is forgotten."""
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "network": (
        ("/etc/network/interfaces", "/etc/network/interfaces.d/sdn"),
        ("ifreload", "-a"),
    ),
    "cluster-firewall": (("/etc/pve/firewall/cluster.fw",), ("pve-firewall", "restart")),
    "host-firewall": (("/etc/pve/nodes/{node}/host.fw",), ("pve-firewall", "restart")),
    "certificate": (
        ("/etc/pve/nodes/{node}/pveproxy-ssl.pem", "/etc/pve/nodes/{node}/pveproxy-ssl.key"),
        ("systemctl", "reload-or-restart", "pveproxy"),
    ),
    "service": (
        ("/etc/pvemcp/pvemcp.toml", "/etc/pvemcp/firewall.nft"),
        ("systemctl", "reload-or-restart", "pvemcp"),
    ),
}
"""What each kind of change touches, and what makes the former files count again."""

Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Host:
    """Where the files are, and how programs are started."""

    run: Run
    root: Path = Path("/")
    folder: Path = FOLDER
    node: str = ""

    def path(self, name: str) -> Path:
        """Return the place of a file on this host."""
        return self.root / name.format(node=self.node).lstrip("/")


def started(argv: Sequence[str]) -> int:
    """Run a program to its end; 127 when there is none of that name."""
    try:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode  # noqa: S603
    except OSError:
        return 127


def begin(host: Host, id_: str, seconds: int, kind: str) -> int:
    """Keep the files, and start the clock. ENDED when another change of that kind waits."""
    host.folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    _forget(host)
    if any(_about(place)["kind"] == kind for place in _waiting(host)):
        sys.stderr.write(f"another change of the kind {kind} waits to be confirmed\n")
        return ENDED
    making = host.folder / f"{id_}.making"
    making.mkdir(mode=0o700)
    files = []
    for number, name in enumerate(KINDS[kind][0]):
        path = host.path(name)
        if path.is_file() and path.stat().st_size <= LARGEST:
            (making / str(number)).write_bytes(path.read_bytes())
            files.append({"name": name, "kept": True, "mode": path.stat().st_mode & 0o777})
        else:
            files.append({"name": name, "kept": False})
    about = {"kind": kind, "files": files, "until": time.time() + seconds}
    (making / "about.json").write_text(json.dumps(about))
    making.rename(host.folder / id_)
    timer = (
        "systemd-run", "--quiet", "--collect", f"--unit=pvemcp-commit-{id_}",
        f"--on-active={seconds}s", "--timer-property=AccuracySec=100ms",
        "/usr/bin/python3", "-I", "-S", str(Path(__file__).resolve()), "revert", id_,
    )  # fmt: skip
    if host.run(timer) != 0:
        shutil.rmtree(host.folder / id_)
        sys.stderr.write("systemd did not start the timer\n")
        return 1
    return OPEN


def confirm(host: Host, id_: str) -> int:
    """Let the change stand. ENDED when it was reverted, or was never begun."""
    gone = host.folder / f"{id_}.confirmed"
    try:
        (host.folder / id_).rename(gone)  # of two at once, one has it
    except FileNotFoundError:
        sys.stderr.write("it was reverted, or confirmed already\n")
        return ENDED
    host.run(("systemctl", "stop", f"pvemcp-commit-{id_}.timer"))
    shutil.rmtree(gone)
    return OPEN


def revert(host: Host, id_: str) -> int:
    """Put the files back and have them count again."""
    mine = host.folder / f"{id_}.reverted"
    try:
        (host.folder / id_).rename(mine)
    except FileNotFoundError:
        return ENDED
    about = _about(mine)
    for number, file in enumerate(about["files"]):
        _put_back(host.path(file["name"]), mine / str(number), file)
    ended = host.run(KINDS[about["kind"]][1])
    for number in range(len(about["files"])):
        (mine / str(number)).unlink(missing_ok=True)
    sys.stderr.write(f"{id_} was not confirmed: {about['kind']} is as it was before\n")
    return ended


def _put_back(path: Path, kept: Path, file: dict[str, Any]) -> None:
    if not file["kept"]:
        path.unlink(missing_ok=True)
        return
    content = kept.read_bytes()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.pvemcp")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    with contextlib.suppress(OSError):  # pmxcfs has modes of its own
        new.chmod(file["mode"])
    new.replace(path)


def state(host: Host, id_: str) -> int:
    """Print what became of it: waiting, reverted or gone."""
    found = "waiting" if (host.folder / id_).exists() else "gone"
    found = "reverted" if (host.folder / f"{id_}.reverted").exists() else found
    sys.stdout.write(f"{found}\n")
    return OPEN


def _waiting(host: Host) -> list[Path]:
    return [place for place in host.folder.iterdir() if not place.suffix and place.is_dir()]


def _about(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "about.json").read_text())
    return found


def _forget(host: Host) -> None:
    for place in host.folder.iterdir():
        if place.suffix and time.time() - place.stat().st_mtime > FORGET:
            shutil.rmtree(place, ignore_errors=True)


def main(arguments: Sequence[str], host: Host | None = None) -> int:
    """Do what the arguments say."""
    host = host or Host(started, node=socket.gethostname().partition(".")[0])
    match arguments:
        case ["begin", id_, seconds, kind] if kind in KINDS:
            return begin(host, id_, int(seconds), kind)
        case ["confirm", id_]:
            return confirm(host, id_)
        case ["revert", id_]:
            return revert(host, id_)
        case ["state", id_]:
            return state(host, id_)
    sys.stderr.write("usage: commit.py begin ID SECONDS KIND | confirm ID | revert ID | state ID\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
