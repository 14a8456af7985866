"""The clients that all nodes of a cluster share, as root writes them: a file in /etc/pve/priv.

That is the cluster's own file system: it appears on every node at once, is written only while the
cluster has a quorum, and knows locks (a folder that is made). The services read copies of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, replace
from pathlib import Path

from pvemcp.access.grants import MOST_GRACE, Grant, Grants, digest, fresh_grant, fresh_secret, named
from pvemcp.access.shared import FILE, SharedClient, SharedClients, encode, parse, take_over
from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Conflict, Fault, Invalid, Misconfigured, Missing, Unavailable
from pvemcp.settings import Settings
from pvemcp.settings.sources import SYSTEM_STATE
from pvemcp.setup.clients import Book
from pvemcp.store import Store

PVE = Path("/etc/pve")
KEPT = "Clients that exist go on working on every node that is up."


def book(store: Store, settings: Settings, pve: Path = PVE) -> Book:
    """Return where grants are kept: shared by root of a PVE host, else in the database alone."""
    grants = Grants(store)
    if os.geteuid() != 0 or settings.state_dir != SYSTEM_STATE or not pve.is_dir():
        return grants
    return SharedBook(pve, grants, store)


def kept_in(found: Book, store: Store) -> str:
    """Say where grants are kept."""
    if isinstance(found, SharedBook):
        return f"{found.path}, for every node of the cluster"
    return f"{store.path}, which the service must use too"


@dataclass(frozen=True, slots=True)
class SharedBook:
    """Grants in the cluster's file. Those of this node alone are shown, revoked and renewed too."""

    pve: Path
    grants: Grants
    store: Store
    patience: float = 10.0
    """Seconds for which another command is waited for; pmxcfs ends a lost lock after 120 s."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.pve / "priv" / "pvemcp" / FILE

    def list(self) -> list[Grant]:
        """Return all grants by name. Raises Misconfigured when the file is damaged."""
        known = {grant.id: grant for grant in self.grants.list()}
        found = [_grant(client, known.get(client.id)) for client in self._read().clients]
        return sorted([*found, *self._local()], key=lambda grant: grant.name)

    def named(self, name: str) -> Grant:
        """Return one. Raises Missing."""
        return named(name, self.list())

    def create(
        self,
        name: str,
        ceiling: Effect,
        *,
        expires: float | None = None,
        token: ApiToken | None = None,
    ) -> tuple[Grant, str]:
        """Make one for the whole cluster; return it with its secret. See Grants.create."""
        grant = fresh_grant(name, ceiling, expires=expires, token=token, now=time.time())
        secret = fresh_secret()
        with self._changing() as clients:
            taken = {each.name for each in clients} | {each.name for each in self._local()}
            if name in taken:
                raise Conflict(
                    f"A grant named {name} exists.",
                    hint=f"Choose another name, or first: pvemcp client revoke {name}",
                )
            clients.append(
                SharedClient(
                    id=grant.id,
                    name=name,
                    hash=digest(secret).hex(),
                    ceiling=str(ceiling),
                    created=grant.created,
                    expires=grant.expires,
                    token_id=token.id if token else None,
                    token_secret=token.secret if token else None,
                )
            )
        return grant, secret

    def revoke(self, name: str) -> Grant:
        """Delete one; every node that is up refuses it within seconds. Raises Missing."""
        found = self.named(name)
        if self._is_local(name):
            return self.grants.revoke(name)
        with self._changing() as clients:
            clients[:] = [each for each in clients if each.id != found.id]
        return found

    def rotate(
        self, name: str, *, grace: float, token: ApiToken | None = None
    ) -> tuple[Grant, str]:
        """Give one a new secret, and perhaps a PVE token. See Grants.rotate."""
        if not 0 <= grace <= MOST_GRACE:
            raise Invalid("The old secret may hold for 7 more days at most.")
        found = self.named(name)
        if self._is_local(name):
            return self.grants.rotate(name, grace=grace, token=token)
        secret, kept = fresh_secret(), token or found.token
        with self._changing() as clients:
            old = _of(clients, found)
            clients[clients.index(old)] = replace(
                old,
                hash=digest(secret).hex(),
                previous_hash=old.hash if grace else None,
                previous_until=time.time() + grace if grace else None,
                token_id=kept.id if kept else None,
                token_secret=kept.secret if kept else None,
            )
        return replace(found, token=kept), secret

    def end_previous(self, name: str) -> None:
        """End the secret before the last rotation. Raises Missing."""
        found = self.named(name)
        if self._is_local(name):
            return self.grants.end_previous(name)
        with self._changing() as clients:
            old = _of(clients, found)
            clients[clients.index(old)] = replace(old, previous_hash=None, previous_until=None)
        return None

    def _local(self) -> tuple[Grant, ...]:
        return self.grants.of_this_node()

    def _is_local(self, name: str) -> bool:
        return name in {grant.name for grant in self._local()}

    def _read(self) -> SharedClients:
        self._require_mounted()
        try:
            return parse(self.path.read_bytes())
        except FileNotFoundError:
            return SharedClients()
        except OSError as error:
            raise self._failed(error) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[MutableSequence[SharedClient]]:
        """Give the clients to be changed, and write them whole; nobody else does meanwhile."""
        self._require_mounted()
        with self._locked():
            before = self._read()
            clients = list(before.clients)
            yield clients
            serial = max(before.serial + 1, time.time_ns() // 1_000_000)
            after = SharedClients(serial, tuple(clients))
            self._write(after)
            take_over(self.store, after)  # here it counts at once

    def _write(self, shared: SharedClients) -> None:
        if not shared.clients and self._is_alone():
            return self._remove()
        content = encode(shared)
        parse(content)  # what a service would not take over is not written
        new = self.path.with_name(f".{FILE}.{os.getpid()}.new")
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                with os.fdopen(
                    os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
                ) as f:
                    f.write(content)
                new.replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    new.unlink()
                raise
        except OSError as error:
            raise self._failed(error) from None

    def _is_alone(self) -> bool:
        """Whether no other node could take a missing file for a lost one."""
        nodes = self.pve / "nodes"
        return not nodes.is_dir() or len(list(nodes.iterdir())) <= 1

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()
        except OSError as error:
            raise self._failed(error) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.pve / "priv" / "lock" / "pvemcp-clients"
        deadline = time.monotonic() + self.patience
        while True:
            try:
                lock.parent.mkdir(mode=0o700, exist_ok=True)
                lock.mkdir()
                break
            except FileExistsError:
                if time.monotonic() > deadline:
                    raise Conflict(
                        "another command changes the cluster's clients",
                        hint=f"Try again. If none does: rmdir {lock}",
                    ) from None
                with contextlib.suppress(OSError):
                    os.utime(lock, (0, 0))  # asks pmxcfs to end it if it is too old
                time.sleep(0.5)
            except OSError as error:
                raise self._failed(error) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.rmdir()

    def _require_mounted(self) -> None:
        if not os.path.lexists(self.pve / "local"):
            raise Unavailable(
                f"the cluster's file system is not mounted at {self.pve}",
                hint="Repair it first: systemctl status pve-cluster.",
            )

    def _failed(self, error: OSError) -> Fault:
        read_only = error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if read_only and not (self.pve / "local").lstat().st_mode & 0o200:
            return Unavailable(
                f"the cluster has no quorum, so {self.pve} can only be read; nothing was changed",
                hint=f"{KEPT} Bring the other nodes back (pvecm status), then repeat it.",
            )
        return Misconfigured(
            f"{error.filename or self.path}: {error.strerror}; nothing was changed",
            hint="See systemctl status pve-cluster, and df for a full disk.",
        )


def _of(clients: MutableSequence[SharedClient], grant: Grant) -> SharedClient:
    for each in clients:
        if each.id == grant.id:
            return each
    raise Missing(f"{grant.name} was revoked meanwhile.", hint="See pvemcp client list.")


def _grant(client: SharedClient, seen: Grant | None) -> Grant:
    token = ApiToken(client.token_id, client.token_secret or "") if client.token_id else None
    return Grant(
        id=client.id,
        name=client.name,
        ceiling=Effect.parse(client.ceiling),
        created=client.created,
        expires=client.expires,
        last_used=seen.last_used if seen else None,
        token=token,
    )
