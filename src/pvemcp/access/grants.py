"""Grants: who may call, up to which effect, with which PVE token.

A grant's secret has 256 random bits and is shown once; the database keeps its SHA-256, which is
enough against a random secret of that size. A PVE token that a grant carries must be presented to
PVE, so its secret stands in the database in the clear: the file has mode 0600.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from pvemcp.call import ApiToken, Effect
from pvemcp.chain import Chain
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Missing
from pvemcp.store import Store

log = logging.getLogger(__name__)

SECRET_PREFIX = "pvemcp_"  # noqa: S105 - lets secret scanners recognise a leaked one
SECRET_FORMAT = re.compile(r"pvemcp_[A-Za-z0-9_-]{43}")
NAME_FORMAT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SOON, ENDING = 14 * 86400.0, 0.2
"""Seconds before its end, and the last part of its life, in which a grant should be replaced."""
LAST_USED_EVERY = 60.0
"""Seconds between two writes of a grant's last use."""
_COLUMNS = "id, name, ceiling, created, expires, last_used, token_id, token_secret"
CLUSTER = "cluster"
"""The origin of a grant that all nodes share."""
MOST_GRACE = 7 * 86400.0
"""Seconds for which two secrets of a grant may hold."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one client may do. Times are in seconds since the epoch."""

    id: str
    name: str
    ceiling: Effect
    created: float
    expires: float | None = None
    """None: never."""
    last_used: float | None = None
    """None: never; else correct to a minute."""
    token: ApiToken | None = field(default=None, repr=False)
    """The grant's own PVE token; None: the configured one."""

    @property
    def token_id(self) -> str:
        """`USER@REALM!NAME` of the grant's own PVE token, or empty."""
        return self.token.id if self.token else ""

    def ends_soon(self, now: float) -> bool:
        """Whether most of its life is over: one that was made for a day is not worth a word."""
        if self.expires is None or self.has_expired(now):
            return False
        left, life = self.expires - now, self.expires - self.created
        return left < SOON and left < ENDING * life

    def has_expired(self, now: float) -> bool:
        """Whether the grant is past its time."""
        return self.expires is not None and now >= self.expires


class Grants:
    """The grants in the database. A change by another process counts from the next request on."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._by_hash: dict[bytes, tuple[Grant, float | None]] = {}
        """Grant and the end of that secret, if it has an end of its own."""
        self._version = -1
        self._used: dict[str, float] = {}
        """When the last use of a grant (by id) was last written down."""

    def create(
        self,
        name: str,
        ceiling: Effect,
        *,
        expires: float | None = None,
        token: ApiToken | None = None,
    ) -> tuple[Grant, str]:
        """Make a grant and return it with its secret, which cannot be had again.

        `expires` is in seconds from now; None is never. Raises Invalid for a bad name or time,
        Conflict for a name that exists.
        """
        grant = fresh_grant(name, ceiling, expires=expires, token=token, now=self._clock())
        secret = fresh_secret()
        if not self._insert(grant, secret):
            raise Conflict(
                f"A grant named {name} exists.",
                hint=f"Choose another name, or first: pvemcp grant revoke {name}",
            )
        self._version = -1
        self._tell("grant made", grant)
        return grant, secret

    def of_this_node(self) -> tuple[Grant, ...]:
        """Return the grants that no other node knows."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM grants WHERE origin <> ?",  # noqa: S608
            (CLUSTER,),
        )
        return tuple(_grant(*row) for row in rows)

    def forget(self) -> None:
        """Read the database again at the next request: this process has changed it."""
        self._version = -1

    def list(self) -> list[Grant]:
        """Return all grants by name, the expired ones too."""
        found = self._store.rows(f"SELECT {_COLUMNS} FROM grants ORDER BY name")  # noqa: S608
        return [_grant(*row) for row in found]

    def revoke(self, name: str) -> Grant:
        """Delete a grant; its next request is refused. Raises Missing with the nearest names."""
        found = self._own(name)
        self._store.write("DELETE FROM grants WHERE name = ?", (name,))
        self._version = -1
        self._tell("grant revoked", found)
        return found

    def _tell(self, kind: str, grant: Grant) -> None:
        """Write it into the audit's chain, which the command line and the service share."""
        about = {"client": grant.name, "grant": grant.id, "ceiling": str(grant.ceiling)}
        if grant.token is not None:
            about["pve_user"] = grant.token.id
        with self._store.whole():
            Chain(self._store).event(kind, about)

    def named(self, name: str) -> Grant:
        """Return the grant of that name. Raises Missing with the nearest names."""
        return named(name, self.list())

    def _own(self, name: str) -> Grant:
        """Return one that may be changed here. Raises Missing, and Denied for the cluster's."""
        found = self.named(name)
        if self._store.rows(
            "SELECT 1 FROM grants WHERE id = ? AND origin = ?", (found.id, CLUSTER)
        ):
            raise Denied(
                f"{name} is a client of the whole cluster, which only root of a node changes.",
                hint="As root, on any node: pvemcp client --help.",
            )
        return found

    def rotate(
        self, name: str, *, grace: float, token: ApiToken | None = None
    ) -> tuple[Grant, str]:
        """Give a grant a new secret, and perhaps a new PVE token; return both as `create` does.

        The old secret holds for `grace` more seconds; one from an earlier rotation ends now.
        Raises Missing, and Invalid for a grace that is no short time.
        """
        if not 0 <= grace <= MOST_GRACE:
            raise Invalid("The old secret may hold for 7 more days at most.")
        old, secret = self._own(name), fresh_secret()
        kept = token or old.token
        self._store.write(
            "UPDATE grants SET previous_hash = CASE WHEN ? > 0 THEN hash END, previous_until = ?, "
            "hash = ?, token_id = ?, token_secret = ? WHERE id = ?",
            (
                grace,
                self._clock() + grace,
                digest(secret),
                kept.id if kept else None,
                kept.secret if kept else None,
                old.id,
            ),
        )
        self._version = -1
        made = replace(old, token=kept)
        self._tell("grant rotated", made)
        return made, secret

    def end_previous(self, name: str) -> None:
        """End the secret that a rotation left over. Raises Missing."""
        self._store.write(
            "UPDATE grants SET previous_hash = NULL WHERE id = ?", (self._own(name).id,)
        )
        self._version = -1

    def authenticate(self, secret: str) -> Grant | None:
        """Return the grant that the secret belongs to; None if it is unknown or expired.

        Raises Unavailable when the database cannot be read.
        """
        if not SECRET_FORMAT.fullmatch(secret):
            return None
        self._refresh()
        # All that the time of this look-up could tell is a part of the hash of a wrong guess: the
        # caller cannot steer towards a stored hash without inverting SHA-256.
        grant, until = self._by_hash.get(digest(secret), (None, None))
        now = self._clock()
        if grant is None or grant.has_expired(now) or (until is not None and now >= until):
            return None
        self._note_use(grant, now)
        return grant

    def holds(self, id: str) -> bool:
        """Whether a grant (by id) is there and has not expired. Raises Unavailable."""
        return id in self.live()

    def live(self) -> frozenset[str]:
        """Return the ids of all grants that have not expired. Raises Unavailable."""
        self._refresh()
        now = self._clock()
        return frozenset(one.id for one, _ in self._by_hash.values() if not one.has_expired(now))

    def had(self, id: str) -> bool:
        """Whether somebody has called here with a grant of this id. Raises Unavailable."""
        return bool(self._store.rows("SELECT 1 FROM calls WHERE grant_id = ? LIMIT 1", (id,)))

    def shared(self, id_: str) -> Grant | None:
        """Return a grant that the whole cluster shares, by its id, if it has not expired."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM grants WHERE id = ? AND origin = ?",  # noqa: S608
            (id_, CLUSTER),
        )
        found = next((_grant(*row) for row in rows), None)
        return None if found is None or found.has_expired(self._clock()) else found

    def _refresh(self) -> None:
        version = self._store.data_version()
        if version == self._version:
            return
        found = self._store.rows(
            f"SELECT hash, previous_hash, previous_until, {_COLUMNS} FROM grants"  # noqa: S608
        )
        self._by_hash = {}
        for hash_, previous, until, *columns in found:
            grant = _grant(*columns)
            self._by_hash[bytes(hash_)] = (grant, None)
            if previous is not None:
                self._by_hash[bytes(previous)] = (grant, until)
        self._version = version

    def _note_use(self, grant: Grant, now: float) -> None:
        if now - self._used.get(grant.id, grant.last_used or 0.0) < LAST_USED_EVERY:
            return
        self._used[grant.id] = now
        try:
            self._store.write("UPDATE grants SET last_used = ? WHERE id = ?", (now, grant.id))
        except Fault as fault:  # a nicety must not lock anybody out
            log.warning("The last use of grant %s was not written: %s", grant.name, fault)

    def _insert(self, grant: Grant, secret: str) -> bool:
        return self._store.insert(
            "INSERT INTO grants (id, name, hash, ceiling, created, expires, token_id, "
            "token_secret) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                grant.id,
                grant.name,
                digest(secret),
                str(grant.ceiling),
                grant.created,
                grant.expires,
                grant.token.id if grant.token else None,
                grant.token.secret if grant.token else None,
            ),
        )


def fresh_grant(
    name: str, ceiling: Effect, *, expires: float | None, token: ApiToken | None, now: float
) -> Grant:
    """Return a new grant. Raises Invalid for a bad name or time."""
    _refuse_bad_name(name)
    if expires is not None and expires <= 0:
        raise Invalid("The grant would have expired already.", hint="Give a positive time.")
    return Grant(
        id=secrets.token_hex(8),
        name=name,
        ceiling=ceiling,
        created=now,
        expires=None if expires is None else now + expires,
        token=token,
    )


def fresh_secret() -> str:
    """Return a new secret, which is not kept anywhere."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def _grant(
    id_: str,
    name: str,
    ceiling: str,
    created: float,
    expires: float | None,
    last_used: float | None,
    token_id: str | None,
    token_secret: str | None,
) -> Grant:
    grant = Grant(id_, name, Effect.parse(ceiling), created, expires, last_used)
    if token_id is None:
        return grant
    return replace(grant, token=ApiToken(token_id, token_secret or ""))


def _refuse_bad_name(name: str) -> None:
    if not NAME_FORMAT.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot name a grant.",
            hint="1 to 64 of a-z, 0-9, dot, underscore and hyphen; the first a letter or digit.",
        )


def named(name: str, grants: Iterable[Grant]) -> Grant:
    """Return the grant of that name. Raises Missing with the nearest names."""
    known = {grant.name: grant for grant in grants}
    if name not in known:
        raise Missing(f"No grant is named {name}.", hint=nearest(name, sorted(known)))
    return known[name]


def nearest(name: str, known: list[str]) -> str:
    """Return the hint for a name that no grant has."""
    from difflib import get_close_matches  # noqa: PLC0415 - only the message needs it

    if near := get_close_matches(name, known, n=3):
        return f"Did you mean {' or '.join(near)}?"
    return f"There are: {', '.join(known)}." if known else "There are no grants."
