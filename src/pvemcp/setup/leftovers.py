"""What the old construction leaves behind: found where it can be, and how to take it away.

Nothing is changed, and no file's secret is shown.
"""

from __future__ import annotations

import json
import pwd
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pvemcp.setup.migration import Old

_NOPASSWD = re.compile(r"^\s*(?P<who>[^#\s]+)\s.*NOPASSWD\s*:\s*ALL\b")
_TRACE = re.compile(r"proxmox[-_]?mcp", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that remains, and what takes it away."""

    what: str
    repair: str


def leftovers(old: Old, env: Path, root: Path = Path("/")) -> Iterator[Leftover]:
    """Look for everything on this machine; then say what is elsewhere."""
    folder = env.absolute().parent
    yield from _processes(folder, root)
    yield from _units(folder, root)
    yield from _sudoers(root)
    yield from _keys(old, root)
    yield from _claude(root)
    if old.token:
        user, _, name = old.token.partition("!")
        yield Leftover(
            f"the old PVE token {old.token}",
            f"pveum user token remove {shlex.quote(user)} {shlex.quote(name)}",
        )
    yield Leftover(
        "the wrapper's entry in Claude Code, on the machine where that runs (~/.claude.json)",
        "claude mcp list, then: claude mcp remove NAME",
    )
    yield Leftover(
        f"{env}, which holds a secret, and what is beside it",
        f"rm -r {shlex.quote(str(folder))}, once nothing there is needed any more",
    )


def _processes(folder: Path, root: Path) -> Iterator[Leftover]:
    for entry in sorted((root / "proc").glob("[0-9]*")):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")[:3]
            argv = [word.decode("utf-8", "replace") for word in words if word]
            home = (entry / "cwd").readlink()
            if any("pvemcp" in word for word in argv):
                continue
            if home.is_relative_to(folder) or any(_is_old(word, folder) for word in argv):
                shown = " ".join(word[:60] for word in argv[:2])
                yield Leftover(f"a running process, {entry.name}: {shown}", f"kill {entry.name}")


def _is_old(word: str, folder: Path) -> bool:
    return word.startswith(f"{folder}/") or bool(_TRACE.search(word))


def _units(folder: Path, root: Path) -> Iterator[Leftover]:
    for path in sorted((root / "etc/systemd/system").glob("*.service")):
        with suppress(OSError, UnicodeDecodeError):
            text = path.read_text("utf-8")
            if f"{folder}/" in text or _TRACE.search(text):
                yield Leftover(
                    f"the unit {path.name}",
                    f"systemctl disable --now {path.name}; rm {shlex.quote(str(path))}",
                )


def _sudoers(root: Path) -> Iterator[Leftover]:
    for path in [root / "etc/sudoers", *sorted((root / "etc/sudoers.d").glob("*"))]:
        with suppress(OSError, UnicodeDecodeError):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if match := _NOPASSWD.match(line):
                    yield Leftover(
                        f"{match['who']} may do everything without a password: {path}, line "
                        f"{number}",
                        f"visudo -f {shlex.quote(str(path))}, if only the old one needed it",
                    )


def _keys(old: Old, root: Path) -> Iterator[Leftover]:
    """Find the old key where it lets in; without its public half name the files to look at."""
    public = _public(old)
    for home in _homes(root, {"root", old.ssh_user} - {""}):
        path = home / ".ssh/authorized_keys"
        with suppress(OSError, UnicodeDecodeError):
            lines = path.read_text("utf-8").splitlines()
            for number, line in enumerate(lines, 1):
                if public and public in line.split():
                    yield Leftover(
                        f"the old SSH key lets in: {path}, line {number}",
                        f"sed -i {number}d {shlex.quote(str(path))}",
                    )
            if not public and any(line.strip() and line[0] != "#" for line in lines):
                yield Leftover(
                    f"SSH keys that let in: {path}",
                    "remove the line of the old key (its public half is not on this machine)",
                )
    if given := old.values.get("SSH_KEY_PATH"):
        yield Leftover(f"the old private key {given}, where it is", f"rm {shlex.quote(given)}")


def _public(old: Old) -> str:
    """Return the middle part of the public half of the old key, or an empty string."""
    given = old.values.get("SSH_KEY_PATH", "")
    with suppress(OSError, UnicodeDecodeError, RuntimeError, IndexError):
        return (
            Path(f"{Path(given).expanduser()}.pub").read_text("ascii").split()[1] if given else ""
        )
    return ""


def _homes(root: Path, users: set[str]) -> Iterator[Path]:
    for user in sorted(users):
        with suppress(KeyError):
            yield root / pwd.getpwnam(user).pw_dir.lstrip("/")


def _claude(root: Path) -> Iterator[Leftover]:
    for home in [root / "root", *sorted((root / "home").glob("*"))]:
        path = home / ".claude.json"
        with suppress(OSError, ValueError, AttributeError):
            content = json.loads(path.read_text("utf-8"))
            places = [content, *content.get("projects", {}).values()]
            names = {
                name
                for place in places
                for name, server in place.get("mcpServers", {}).items()
                if _TRACE.search(f"{name} {server.get('command', '')} {server.get('args', '')}")
            }
            for name in sorted(names):
                yield Leftover(f"the server {name} in {path}", f"claude mcp remove {name}")
