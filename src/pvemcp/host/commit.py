"""Takes a change of the host back unless somebody confirms it (operations of exec.toml).

`commit.py begin ID SECONDS KIND` keeps the files that such a change touches and has systemd call
`commit.py revert ID` when the time is over; `commit.py confirm ID` stops that. The timer is
systemd's own: it needs neither the service nor the helper. A reboot loses it, so
`commit.py boot` takes back what waits without a timer. Standard library only.
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
UNDER_WAY = ".reverting"
OPEN, ENDED = 0, 3
"""Exit codes: done; it is over, or somebody else's turn."""
LARGEST = 4 * 1024 * 1024
FORGET = 86_400.0
"""Seconds after which what was reverted is forgotten."""
RETRIES, PAUSE = 30, 2.0
"""How often, and how many seconds apart, a file is tried: /etc/pve is read-only without quorum."""


@dataclass(frozen=True)
class Step:
    """Files, and what makes the former ones count again."""

    files: tuple[str, ...]
    argv: tuple[str, ...]
    elsewhere: bool = False
    """The program runs once for each other node of the cluster, whose name is `{node}` in it."""


KINDS: dict[str, tuple[Step, ...]] = {
    "network": (
        Step(("/etc/network/interfaces", "/etc/network/interfaces.d/sdn"), ("ifreload", "-a")),
    ),
    # First what brings this node back, without PVE; then what all nodes share.
    "sdn": (
        Step(("/etc/network/interfaces", "/etc/network/interfaces.d/sdn"), ("ifreload", "-a")),
        Step(("/etc/frr/frr.conf",), ("systemctl", "try-reload-or-restart", "frr")),
        Step(
            ("/etc/pve/sdn/.running-config",),
            ("timeout", "60", "pvesh", "set", "/nodes/{node}/network"),
            elsewhere=True,
        ),
    ),
    "cluster-firewall": (Step(("/etc/pve/firewall/cluster.fw",), ("pve-firewall", "restart")),),
    "host-firewall": (Step(("/etc/pve/nodes/{node}/host.fw",), ("pve-firewall", "restart")),),
    "certificate": (
        Step(
            ("/etc/pve/nodes/{node}/pveproxy-ssl.pem", "/etc/pve/nodes/{node}/pveproxy-ssl.key"),
            ("systemctl", "reload-or-restart", "pveproxy"),
        ),
    ),
    "service": (
        Step(
            ("/etc/pvemcp/pvemcp.toml", "/etc/pvemcp/firewall.nft"),
            ("systemctl", "reload-or-restart", "pvemcp"),
        ),
    ),
}
"""What each kind of change touches, in the order in which it is put back."""

Run = Callable[[Sequence[str]], int]
Kept = dict[str, tuple[Path, dict[str, Any]]]
"""By a file's name: the copy of it, and what is known of it."""


@dataclass(frozen=True)
class Host:
    """Where the files are, and how programs are started."""

    run: Run
    root: Path = Path("/")
    folder: Path = FOLDER
    node: str = ""
    pause: Callable[[float], None] = time.sleep

    def path(self, name: str) -> Path:
        """Return the place of a file on this host."""
        return self.root / name.format(node=self.node).lstrip("/")

    def others(self) -> list[str]:
        """Return the other nodes of the cluster."""
        try:
            names = [each.name for each in self.path("/etc/pve/nodes").iterdir()]
        except OSError:
            return []
        return sorted(name for name in names if name != self.node)


def files_of(kind: str) -> tuple[str, ...]:
    """Return the files that a kind of change touches."""
    return tuple(name for step in KINDS[kind] for name in step.files)


def started(argv: Sequence[str]) -> int:
    """Run a program to its end; 127 when there is none of that name."""
    try:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode  # noqa: S603
    except OSError:
        return 127


def begin(host: Host, id_: str, seconds: int, kind: str) -> int:
    """Keep the files, and start the clock. ENDED when a change of the same files waits."""
    host.folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    _forget(host)
    if any(place.stem == id_ for place in host.folder.iterdir()):
        sys.stderr.write(f"{id_} was begun before\n")
        return ENDED
    for other in (_about(place)["kind"] for place in _waiting(host)):
        if set(files_of(kind)) & set(files_of(other)):
            sys.stderr.write(
                f"another change of the kind {other} waits: confirm it first, or wait until it "
                "is taken back\n"
            )
            return ENDED
    making = host.folder / f"{id_}.making"
    if not _keep(host, making, kind, time.time() + seconds):
        return 1
    making.rename(host.folder / id_)
    _sync(host.folder)
    timer = (
        "systemd-run", "--quiet", "--collect", f"--unit={_unit(id_)}",
        f"--on-active={seconds}s", "--timer-property=AccuracySec=100ms",
        "/usr/bin/python3", "-I", "-S", str(Path(__file__).resolve()), "revert", id_,
    )  # fmt: skip
    if host.run(timer) != 0:
        shutil.rmtree(host.folder / id_)
        sys.stderr.write("systemd did not start the timer\n")
        return 1
    return OPEN


def _keep(host: Host, making: Path, kind: str, until: float) -> bool:
    """Copy the files, to the disk: the power may be cut just because of the change."""
    making.mkdir(mode=0o700)
    files = []
    for number, name in enumerate(files_of(kind)):
        path = host.path(name)
        if path.is_file() and path.stat().st_size <= LARGEST:
            _write(making / str(number), path.read_bytes())
            files.append({"name": name, "kept": True, "mode": path.stat().st_mode & 0o777})
        elif os.path.lexists(path):
            shutil.rmtree(making)
            sys.stderr.write(f"{name} is no file of at most {LARGEST} bytes: it cannot be kept\n")
            return False
        else:
            files.append({"name": name, "kept": False})
    about = {"kind": kind, "files": files, "until": until}
    _write(making / "about.json", json.dumps(about).encode())
    _sync(making)
    return True


def confirm(host: Host, id_: str) -> int:
    """Let the change stand. ENDED when it was reverted, or was never begun."""
    gone = host.folder / f"{id_}.confirmed"
    try:
        (host.folder / id_).rename(gone)  # of two at once, one has it
    except FileNotFoundError:
        sys.stderr.write("it was reverted, or confirmed already\n")
        return ENDED
    host.run(("systemctl", "stop", f"{_unit(id_)}.timer"))
    shutil.rmtree(gone)
    return OPEN


def revert(host: Host, id_: str) -> int:
    """Put the files back and have them count again."""
    mine = host.folder / f"{id_}{UNDER_WAY}"
    try:
        (host.folder / id_).rename(mine)
    except FileNotFoundError:
        return ENDED
    return _revert(host, id_, mine)


def _revert(host: Host, id_: str, mine: Path) -> int:
    about = _about(mine)
    kept = {file["name"]: (mine / str(n), file) for n, file in enumerate(about["files"])}
    ended = [_undo(host, step, kept) for step in KINDS[about["kind"]]]
    for copy, _ in kept.values():
        copy.unlink(missing_ok=True)
    mine.rename(host.folder / f"{id_}.reverted")
    failed = next(filter(None, ended), OPEN)
    said = "only in part as it was before" if failed else "as it was before"
    sys.stderr.write(f"{id_} was not confirmed: {about['kind']} is {said}\n")
    return failed


def _undo(host: Host, step: Step, kept: Kept) -> int:
    """Put the files of a step back, and have them count; a step about no file is left out."""
    known = [(name, *kept[name]) for name in step.files if name in kept]
    mine = [one for one in known if one[2]["kept"] or host.path(one[0]).exists()]
    if not mine:
        return OPEN
    written = [_tried(host, *one) for one in mine]
    nodes = host.others() if step.elsewhere else [host.node]
    ran = [host.run([word.format(node=node) for word in step.argv]) for node in nodes]
    return next(filter(None, (*written, *ran)), OPEN)


def _tried(host: Host, name: str, copy: Path, file: dict[str, Any]) -> int:
    for left in range(RETRIES, 0, -1):
        try:
            _put_back(host.path(name), copy, file)
        except OSError as error:
            if left == 1:
                sys.stderr.write(f"{name} could not be put back: {error}\n")
                return 1
            host.pause(PAUSE)
        else:
            break
    return OPEN


def _put_back(path: Path, kept: Path, file: dict[str, Any]) -> None:
    if not file["kept"]:
        path.unlink(missing_ok=True)
        return
    content = kept.read_bytes()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.pvemcp")
    _write(new, content)
    with contextlib.suppress(OSError):  # pmxcfs has modes of its own
        new.chmod(file["mode"])
    new.replace(path)
    _sync(path.parent)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)


def boot(host: Host) -> int:
    """Take back what waited when the host went down: its timers are gone.

    What was being taken back at that moment is taken back once more, to the end.
    """
    places = [*host.folder.iterdir()] if host.folder.is_dir() else []
    waiting = [place.name for place in places if not place.suffix]
    active = ("systemctl", "--quiet", "is-active")
    late = [id_ for id_ in waiting if host.run((*active, f"{_unit(id_)}.timer"))]
    cut_off = [place for place in places if place.suffix == UNDER_WAY]
    gone = [place for place in cut_off if host.run((*active, f"{_unit(place.stem)}.service"))]
    ended = [_revert(host, place.stem, place) for place in gone]
    return max((*ended, *(revert(host, id_) for id_ in late)), default=OPEN)


def state(host: Host, id_: str) -> int:
    """Print what became of it: waiting, reverted or gone."""
    found = "waiting" if (host.folder / id_).exists() else "gone"
    over = (host.folder / f"{id_}{end}" for end in (UNDER_WAY, ".reverted"))
    found = "reverted" if any(place.exists() for place in over) else found
    sys.stdout.write(f"{found}\n")
    return OPEN


def _unit(id_: str) -> str:
    return f"pvemcp-commit-{id_}"


def _waiting(host: Host) -> list[Path]:
    """Return what waits, and what is just being taken back."""
    ends = ("", UNDER_WAY)
    return [each for each in host.folder.iterdir() if each.suffix in ends and each.is_dir()]


def _about(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "about.json").read_text())
    return found


def _forget(host: Host) -> None:
    for place in host.folder.iterdir():
        if place.suffix not in ("", UNDER_WAY) and time.time() - place.stat().st_mtime > FORGET:
            shutil.rmtree(place, ignore_errors=True)


def main(arguments: Sequence[str], host: Host | None = None) -> int:
    """Do what the arguments say."""
    if host is None:
        host = Host(started, node=socket.gethostname().partition(".")[0])
    match arguments:
        case ["begin", id_, seconds, kind] if kind in KINDS:
            return begin(host, id_, int(seconds), kind)
        case ["confirm", id_]:
            return confirm(host, id_)
        case ["revert", id_]:
            return revert(host, id_)
        case ["state", id_]:
            return state(host, id_)
        case ["boot"]:
            return boot(host)
    usage = "usage: commit.py begin ID SECONDS KIND | confirm ID | revert ID | state ID | boot\n"
    sys.stderr.write(usage)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
