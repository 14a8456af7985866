"""Checks of this machine: settings, state folder, grants, own certificate, listening address."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pvemcp.access.grants import Grant, Grants
from pvemcp.connections import listening_socket
from pvemcp.errors import Fault, Missing
from pvemcp.health.check import SOON, Check, bad, expiry, good, warning
from pvemcp.settings import Settings, require_safe_listen, require_token
from pvemcp.store import Store
from pvemcp.tls import own_certificate, server_context

ANSWER_SECONDS = 3.0


def check_settings(settings: Settings, grants: list[Grant]) -> Iterator[Check]:
    """Judge what `Settings.load` cannot refuse, because not every command needs it."""
    own = sum(1 for grant in grants if grant.token)
    if own and not settings.pve_token_id:
        yield good("settings", f"PVE at {settings.pve_url}, with the tokens of its clients ({own})")
        return
    try:
        token_id, _ = require_token(settings)
    except Fault as fault:
        yield bad("settings", fault.message, fault.hint)
        return
    yield good("settings", f"PVE at {settings.pve_url} as {token_id}")
    if token_id.startswith("root@pam!"):
        yield warning(
            "token owner",
            f"{token_id} belongs to root@pam: without privilege separation it may do everything",
            "Make a user for pvemcp (pveum user add mcp@pve), give it a role, and a token of its "
            "own.",
        )


def check_state(settings: Settings) -> tuple[list[Check], list[Grant]]:
    """Judge the state folder, the database, and the grants in it; return the grants too."""
    try:
        with Store(settings.state_dir, change=False) as store:
            found = store.check()
            grants = Grants(store).list()
    except Missing as fault:
        missing = warning("database", fault.message, fault.hint)
        return [missing, *_grants([], time.time())], []
    except Fault as fault:
        return [bad("database", fault.message, fault.hint)], []
    if found != "ok":
        repair = "Stop the service and restore the file from a backup, or move it away."
        return [bad("database", f"{settings.state_dir} is damaged: {found}", repair)], grants
    return [*_modes(settings.state_dir), *_grants(grants, time.time())], grants


def _modes(folder: Path) -> Iterator[Check]:
    place = folder.stat()
    mode = stat.S_IMODE(place.st_mode)
    if mode & 0o077:
        yield warning(
            "state folder",
            f"{folder} has mode {mode:04o}: others can see into it",
            f"Run: chmod 0700 {shlex.quote(str(folder))}",
        )
    else:
        yield good("state folder", f"{folder} is closed to others")
    for path in sorted(folder.glob("pvemcp.db*")):
        if path.stat().st_uid != place.st_uid:
            yield bad(
                "database",
                f"{path} does not belong to the owner of its folder, who could not write it",
                f"Run: chown --reference={shlex.quote(str(folder))} {shlex.quote(str(path))}",
            )
            return
    yield good("database", "opens and is whole")


def _grants(grants: list[Grant], now: float) -> Iterator[Check]:
    make = "pvemcp grant create NAME --ceiling read"
    expired = [grant.name for grant in grants if grant.has_expired(now)]
    soon = [grant.name for grant in grants if grant.ends_soon(now)]
    if len(expired) == len(grants):
        yield warning(
            "grants", "nobody can log in over HTTP: no grant is valid", f"Make one: {make}"
        )
    else:
        yield good("grants", f"{len(grants) - len(expired)} valid")
    if expired:
        names = ", ".join(expired)
        yield warning("grants", f"expired: {names}", "Remove them: pvemcp grant revoke NAME")
    if soon:
        names = ", ".join(soon)
        yield warning("grants", f"expire within {SOON.days} days: {names}", f"Replace them: {make}")


def check_certificate(settings: Settings) -> Iterator[Check]:
    """Judge the certificate that the service shows to its clients.

    When the files cannot be used, a service that runs still shows the pair before them.
    """
    name, repair = "own certificate", "Renew it; the service takes the new one without a restart."
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except Fault as fault:
        yield bad(name, fault.message, fault.hint)
        return
    try:
        yield expiry(name, own_certificate(settings.tls_cert), repair)
    except (OSError, ValueError):
        yield warning(name, f"{settings.tls_cert} does not tell how long it is valid", repair)


async def check_listen(settings: Settings) -> list[Check]:
    """Judge whether the listening address is safe, and free or ours."""
    try:
        require_safe_listen(settings)
    except Fault as fault:
        return [bad("listen", fault.message, fault.hint)]
    host, port = settings.address
    try:
        with listening_socket(host, port):
            return [good("listen", f"{settings.listen} is free: the service is not running")]
    except OSError as error:
        number = error.errno or 0
        # The name of the host could not be found: that error has a numbering of its own.
        problem = error.strerror or "" if number < 0 else os.strerror(number).lower()
    if await _is_ours(settings):
        return [good("listen", f"{settings.listen} is answered by pvemcp")]
    if number == errno.EACCES:
        repair = "Ports below 1024 need root or CAP_NET_BIND_SERVICE. Or set PVEMCP_LISTEN."
        return [bad("listen", f"{settings.listen} cannot be had ({problem})", repair)]
    return [
        bad(
            "listen",
            f"{settings.listen} cannot be had ({problem}), and it is not pvemcp that answers there",
            f"See who has it: ss -ltnp 'sport = {port}'. Or set PVEMCP_LISTEN to another.",
        )
    ]


async def _is_ours(settings: Settings) -> bool:
    host, port = settings.address
    context = None
    if settings.tls_cert:
        # Only looked at: nothing secret is sent, and the answer is not trusted with anything.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(target, port, ssl=context)
            try:
                if (
                    settings.tls_client_ca and settings.tls_cert
                ):  # it ends here for whom it does not know
                    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                    return bool(shown == own_certificate(settings.tls_cert))
                writer.write(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                head = await reader.read(4096)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b'realm="pvemcp"' in head
