"""Files that are whole or not there, and readable by their owner alone from the first byte."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from pvemcp.errors import Conflict, Unavailable


def write_new(
    path: Path,
    content: bytes,
    *,
    make_folder: bool = False,
    replace: bool = False,
    readers: int | None = None,
) -> None:
    """Write a file of mode 0600. Raises Conflict when it is there (without `replace`), Unavailable.

    The folder is made on request, with mode 0700. `readers` is a group that may look into both.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        if make_folder:
            _make_folder(path.parent, readers)
        _refuse_existing(path, replace=replace)
        try:
            if readers is None:
                write_part(part, content)
            else:
                write_part(part, content, mode=0o640, owner=(-1, readers))
            part.rename(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as exc:
        raise unwritable(path, exc) from None


def _make_folder(folder: Path, readers: int | None) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True)
    if readers is not None:
        os.chown(folder, -1, readers)
        folder.chmod(0o750)


def _refuse_existing(path: Path, *, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise Conflict(f"{path} exists.", hint="It is left as it is: name another file.")


def write_part(
    path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Write a file that must be new, to the disk. Raises OSError, and then leaves nothing.

    Owner and mode are set on the open file: in a folder of the service's own its name may lead
    elsewhere a moment later.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            with _lenient(path):
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _lenient(path: Path) -> contextlib.AbstractContextManager[None]:
    # pmxcfs gives every file its own owner and mode, and refuses others.
    return contextlib.suppress(*([PermissionError] if str(path).startswith("/etc/pve/") else []))


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, exc: OSError) -> Unavailable:
    """Return the fault for a file that could not be written."""
    return Unavailable(
        f"{exc.filename or path} cannot be written: {exc.strerror}.",
        hint="Make room, or correct the folder and its permissions; nothing was left half written.",
    )


def replace_content(path: Path, content: bytes) -> None:
    """Write a file anew with the owner and mode that it has; a new one is 0600. Raises a Fault."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        if path.exists():
            found = path.stat()
            owner = (found.st_uid, found.st_gid)
            write_part(part, content, mode=stat.S_IMODE(found.st_mode), owner=owner)
        else:
            write_part(part, content)
        part.rename(path)
        sync_folder(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            part.unlink()
        raise unwritable(path, exc) from None
