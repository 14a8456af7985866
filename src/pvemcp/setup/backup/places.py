"""Where an installation keeps what a backup holds: on a host, or of a user's own."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from pvemcp.errors import Misconfigured
from pvemcp.settings import SYSTEM_CONFIG, Settings
from pvemcp.settings.sources import SYSTEM_STATE

USER = "pvemcp"
UNIT = "pvemcp.service"
SYSTEM_SECRETS = Path("/var/lib/pvemcp-setup")
SYSTEM_BACKUPS = Path("/var/backups/pvemcp")
UNITS = Path("/etc/systemd/system")
DROP_IN = re.compile(
    r"units/(pvemcp[a-z-]*\.(service|socket|timer|path)\.d/[A-Za-z0-9_][\w.-]*\.conf)"
)
FILE_LIMIT = 1024 * 1024
NOT_OURS = ("/etc/pve/", "/run/", "/dev/", "/proc/", "/sys/")
"""What is below them is the node's, the cluster's or the kernel's, and comes from there again."""


@dataclass(frozen=True, slots=True)
class Places:
    """One installation's. What it does not have is None."""

    settings: Path | None
    state: Path
    exec_file: Path
    secrets: Path
    """Folder that only root (or the user whose own it is) can look into."""
    backups: Path
    units: Path | None = None
    firewall: Path | None = None
    cluster: Path | None = None
    """The clients of the cluster."""
    unit: str = ""
    """The service, where systemd runs it."""
    owner: tuple[int, int] | None = None
    """User and group of the service, when they are not those who run this."""

    def fixed(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of the files whose places are the same everywhere."""
        if self.settings is not None:
            yield "settings.toml", self.settings
        yield "exec.toml", self.exec_file
        if self.firewall is not None:
            yield "firewall.nft", self.firewall
        if self.cluster is not None:
            yield "cluster/clients.json", self.cluster
        if self.units is not None:
            for path in sorted(self.units.glob("pvemcp*.d/*.conf")):
                yield f"units/{path.parent.name}/{path.name}", path


def places(settings: Settings) -> Places:
    """Return those of the installation that the settings describe. Raises Misconfigured."""
    if settings.state_dir != SYSTEM_STATE or settings.source not in {None, SYSTEM_CONFIG}:
        return Places(
            settings=settings.source,
            state=settings.state_dir,
            exec_file=settings.exec_file,
            secrets=settings.state_dir,
            backups=settings.state_dir / "backups",
        )
    if os.geteuid() != 0:
        raise Misconfigured(
            "The state of this host belongs to the service and to root.", hint="Run as root."
        )
    return Places(
        settings=SYSTEM_CONFIG,
        state=SYSTEM_STATE,
        exec_file=settings.exec_file,
        secrets=SYSTEM_SECRETS,
        backups=SYSTEM_BACKUPS,
        units=UNITS,
        firewall=SYSTEM_CONFIG.with_name("firewall.nft"),
        cluster=Path("/etc/pve/priv/pvemcp/clients.json"),
        unit=UNIT if Path("/run/systemd/system").is_dir() else "",
        owner=_service_user(),
    )


def _service_user() -> tuple[int, int]:
    try:
        return pwd.getpwnam(USER).pw_uid, grp.getgrnam(USER).gr_gid
    except KeyError:
        raise Misconfigured(
            f"There is no user {USER} on this machine.", hint="Install the package first."
        ) from None


def named_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield setting and path of the installation's own files that settings name."""
    for item in fields(Settings):
        if item.metadata and item.type == "Path | None":
            path = getattr(settings, item.name)
            if path is not None and not str(path).startswith(NOT_OURS):
                yield item.name, path


def read_files(where: Places, settings: Settings) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return content and path of each file, by its name in a backup. Raises Misconfigured."""
    members, paths = {}, {}
    named = [(f"files/{name}", path) for name, path in named_files(settings)]
    for name, path in (*where.fixed(), *named):
        content = _read(path, follow=where.state not in path.parents)
        if content is not None:
            members[name], paths[name] = content, str(path)
    return members, paths


def _read(path: Path, *, follow: bool) -> bytes | None:
    """Return the content of a plain file; None when there is none.

    In the service's own folder no link is followed: root would read for it what it may not.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Misconfigured(f"{path} is not a file.", hint="Correct what names it.")
            content = file.read(FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise Misconfigured(
            f"{path} cannot be read: {exc.strerror}.", hint="Run as root."
        ) from None
    if len(content) > FILE_LIMIT:
        raise Misconfigured(
            f"{path} has more than {FILE_LIMIT:,} bytes: that is no file of settings.",
            hint="Correct the setting that names it.",
        )
    return content
