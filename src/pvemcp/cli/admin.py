"""How a command gets an administrator's rights in PVE: as root of the host, or by a login."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvemcp.errors import Denied, Invalid
from pvemcp.settings import Settings
from pvemcp.settings.files import refuse_open_file
from pvemcp.settings.values import fingerprint as read_as_fingerprint
from pvemcp.settings.values import url as read_as_url

if TYPE_CHECKING:
    from pvemcp.setup.access import PveAccess
    from pvemcp.setup.door import Target


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a command that say where PVE is, and who logs in there."""

    pve_url: str | None
    pve_ca_file: Path | None
    pve_fingerprint: str | None
    admin: str | None
    admin_password_file: Path | None

    @property
    def elsewhere(self) -> bool:
        """A login was asked for, even on a PVE host."""
        return bool(self.pve_url or self.admin)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as `given`."""

    @functools.wraps(command)
    def with_given(*words: Any, **named: Any) -> Any:
        mine = {name: named.pop(name) for name in Given.__slots__}
        return command(*words, given=Given(**mine), **named)

    for option in reversed(_OPTIONS):
        with_given = option(with_given)
    return with_given


_OPTIONS = (
    click.option("--pve-url", metavar="URL", help="PVE, when it is not on this machine."),
    click.option(
        "--pve-ca-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What signed PVE's certificate: a copy of its /etc/pve/pve-root-ca.pem.",
    ),
    click.option(
        "--pve-fingerprint", metavar="HEX", help="Or the SHA-256 fingerprint of its certificate."
    ),
    click.option(
        "--admin",
        metavar="USER@REALM",
        help="Who logs in to PVE, like root@pam; the password is asked for and not kept.",
    ),
    click.option(
        "--admin-password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read that password from a file (mode 0600).",
    ),
)


def target(given: Given, settings: Settings) -> Target:
    """Return the PVE that is meant: what was given wins over the settings."""
    from pvemcp.setup.door import Target  # noqa: PLC0415 - slow to import

    if given.pve_url is None:
        return Target(settings.pve_url, settings.pve_ca_file, settings.pve_fingerprint)
    pinned = read_as_fingerprint("--pve-fingerprint", given.pve_fingerprint or "")
    if pinned and given.pve_ca_file:
        raise click.UsageError("Give --pve-ca-file or --pve-fingerprint, not both.")
    if not pinned and given.pve_ca_file is None:
        url = read_as_url("--pve-url", given.pve_url)
        if url == settings.pve_url:
            return Target(url, settings.pve_ca_file, settings.pve_fingerprint)
    return Target(read_as_url("--pve-url", given.pve_url), given.pve_ca_file, pinned)


@contextmanager
def pve_access(given: Given, settings: Settings) -> Iterator[PveAccess]:
    """Open PVE as root of this host, or by a login. Raises Faults."""
    from pvemcp.setup.place import is_pve_host  # noqa: PLC0415 - slow to import
    from pvemcp.setup.remembering import Remembering  # noqa: PLC0415 - slow to import

    if not given.elsewhere and is_pve_host():
        from pvemcp.setup.pvesh import Pvesh  # noqa: PLC0415 - slow to import

        require_root("PVE on this host is changed")
        yield Remembering(Pvesh())
        return
    if not given.admin:
        raise Invalid(
            "Who may change users and rights in PVE?",
            hint="Name an administrator: --admin root@pam (and --pve-url https://HOST:8006). On "
            "the PVE host itself root needs neither.",
        )
    from pvemcp.setup.login import Admin, Login  # noqa: PLC0415 - slow to import

    admin = Admin(given.admin, _password(given))
    with contextlib.closing(Login(target(given, settings), admin, _ask)) as login:
        yield Remembering(login)


def require_root(what: str) -> None:
    """Raise Denied for anybody but root."""
    if os.geteuid() != 0:
        raise Denied(f"{what} by root only.", hint="Run it as root, or with sudo.")


def _password(given: Given) -> str:
    if given.admin_password_file is None:
        return _ask(f"Password of {given.admin}")
    refuse_open_file("--admin-password-file", given.admin_password_file)
    return given.admin_password_file.read_text("utf-8").splitlines()[0].strip("\r\n")


def _ask(what: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
