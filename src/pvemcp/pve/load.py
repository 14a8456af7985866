"""Where the API description comes from: a file, PVE itself, or the last good copy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.pve.description import Description, array_in, digest_of

logger = logging.getLogger(__name__)

REMOTE = "/pve-docs/api-viewer/apidoc.js"
"""Path on pveproxy; it is served without authentication (seen on PVE 8 and 9)."""
KEPT_COPIES = 3

Fetch = Callable[[], Awaitable[str]]


async def load_description(
    *, file: Path | None, fetch: Fetch | None, cache_dir: Path | None
) -> Description:
    """Read the description from the file if there is one, else fetch it, else take the last copy.

    Raises Misconfigured for a bad file, Unavailable when there is no source at all.
    """
    if file is not None:
        return await asyncio.to_thread(_from_file, file)
    if fetch is None:
        return _last_copy(cache_dir, Unavailable("there is no source for the API description"))
    try:
        text = await fetch()
        found = await asyncio.to_thread(Description.parse, text, source="PVE itself")
    except Fault as fault:
        return await asyncio.to_thread(_last_copy, cache_dir, fault)
    if cache_dir is not None:
        await asyncio.to_thread(_keep, cache_dir, text)
    return found


def _from_file(file: Path) -> Description:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"the API description {file} cannot be read: {error}") from error
    return Description.parse(text, source=str(file))


def _last_copy(cache_dir: Path | None, fault: Fault) -> Description:
    """Return the newest copy that is still what its name says. Raises the fault without one."""
    for copy in _copies(cache_dir):
        try:
            found = Description.parse(copy.read_text("utf-8"), source=str(copy))
        except (OSError, UnicodeError, Misconfigured) as error:
            logger.warning("API description %s is not usable: %s", copy, error)
            continue
        if found.digest in copy.name:
            logger.warning("PVE gave no API description (%s); using %s", fault.message, copy)
            return found
        logger.warning("API description %s is damaged; ignored", copy)
    raise fault


def _copies(cache_dir: Path | None) -> list[Path]:
    """Return the copies, newest first."""
    if cache_dir is None:
        return []
    dated = []
    for copy in cache_dir.glob("apidoc-*.json"):
        with contextlib.suppress(OSError):
            dated.append((copy.stat().st_mtime_ns, copy))
    return [copy for _, copy in sorted(dated, reverse=True)]


def _keep(cache_dir: Path, served: str) -> None:
    """Write a copy at once or not at all; the newest few stay. Trouble here is only logged."""
    text = array_in(served)
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = cache_dir / f"apidoc-{digest_of(text)}.json"
        if _same(copy, text):
            copy.touch()
        else:
            _write(cache_dir, copy, text)
        for old in _copies(cache_dir)[KEPT_COPIES:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the API description could not be kept in %s: %s", cache_dir, error)


def _same(copy: Path, text: str) -> bool:
    try:
        return copy.read_text("utf-8") == text
    except (OSError, UnicodeError):
        return False


def _write(folder: Path, copy: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".apidoc-", delete=False,
                                     encoding="utf-8") as draft:  # fmt: skip
        try:
            draft.write(text)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(copy)
        except OSError:
            Path(draft.name).unlink(missing_ok=True)
            raise
