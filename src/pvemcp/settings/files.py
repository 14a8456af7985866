"""The files that settings name: whether they can be read, and who else can."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

from pvemcp.settings import values
from pvemcp.settings.values import wrong

SECRET_FILE_LIMIT = 4096
"""Bytes. The secret of a PVE token has 36; a larger file is some other file."""


def refuse_open_file(name: str, path: Path) -> None:
    """Refuse a file with a secret that everybody can reach. Raises Misconfigured."""
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise wrong(
            name, f"{path} cannot be read: {exc.strerror}.", "Correct the path or its permissions."
        ) from None
    if stat.S_ISDIR(mode):
        raise wrong(name, f"{path} is a folder.", "Name the file in it.")
    if mode & stat.S_IRWXO:
        raise wrong(
            name,
            f"{path} holds a secret and every user of this machine can reach it "
            f"(mode {stat.S_IMODE(mode):04o}).",
            f"Run: chmod o= {shlex.quote(str(path))}",
        )


def read_secret(name: str, path: Path) -> str:
    """Return the PVE token secret in `path`, without its line end.

    Raises Misconfigured when the file is missing, too large, empty, or open to everybody; `name`
    is the setting or option that named it.
    """
    refuse_open_file(name, path)
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_LIMIT + 1)
        text = content.decode("utf-8").rstrip("\r\n")
    except OSError as exc:
        raise wrong(
            name, f"{path} cannot be read: {exc.strerror}.", "Correct the path or its permissions."
        ) from None
    except UnicodeDecodeError:
        content, text = b"", ""
    if not text or len(content) > SECRET_FILE_LIMIT:
        raise wrong(
            name,
            f"{path} does not hold a token secret.",
            "It must hold the UUID that PVE showed once when the token was made, nothing else.",
        )
    return values.secret(name, text)
