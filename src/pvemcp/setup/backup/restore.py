"""Puts a backup in place of what is here: planned, shown, prepared beside, switched at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pvemcp.call import ApiToken
from pvemcp.errors import Fault, Misconfigured
from pvemcp.setup.backup import database
from pvemcp.setup.backup.adapt import Adapted, adapted
from pvemcp.setup.backup.cluster import with_tokens, without_shared
from pvemcp.setup.backup.guard import alone, guarded
from pvemcp.setup.backup.make import DATABASE, SIGNING_KEY
from pvemcp.setup.backup.opened import Backup
from pvemcp.setup.backup.places import DROP_IN, Places
from pvemcp.setup.backup.service import Service, refuse_other_users
from pvemcp.setup.backup.signing import FILE as SIGNING_FILE
from pvemcp.setup.backup.switch import (
    DONE,
    JOURNAL,
    SWITCHING,
    Said,
    Switch,
    Target,
    noted,
    take_back,
)
from pvemcp.store import FILE

SHARED = "cluster/clients.json"


class Tokens(Protocol):
    """The PVE tokens of a backup, at the PVE of this host."""

    def plan(self) -> list[str]:
        """Return which do not work and would be made anew, and what remains, a line each."""

    def apply(self, makes: Callable[[str], None]) -> Mapping[str, ApiToken]:
        """Make them; return the new one for the id of each old one. Raises a Fault.

        `makes` is told the id of each before it is made.
        """

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove what a failed restore made; return what remains, a line each. Raises no Fault."""


class NoTokens:
    """PVE is not asked."""

    def plan(self) -> list[str]:
        """Say what remains to be done."""
        return ["PVE tokens are not checked: clients work if PVE still knows them (client list)"]

    def apply(self, makes: Callable[[str], None]) -> Mapping[str, ApiToken]:  # noqa: ARG002
        """Do nothing."""
        return {}

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Say what remains."""
        return [f"The PVE token {each} may be left over: remove it in PVE." for each in ids]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restore will do."""

    backup: Backup
    where: Places
    settings: Adapted | None
    use_audit: bool
    """The audit of the backup takes the place of this host's."""
    tokens: Tokens
    service: Service
    left_out: tuple[str, ...] = ()
    """Files of the backup that are for another host or cluster."""

    def lines(self) -> list[str]:
        """Return what would change, a line each."""
        about = self.backup.manifest
        found = [f"backup of {about.host}, pvemcp {about.pvemcp}, schema {about.schema}"]
        if not self.backup.origin_checked:
            found.append("WARNING: who made it is not known: the key does not say who signs")
        targets = self.targets(self.backup.members[DATABASE], {})
        found += [f"{_verb(target)} {target.path}" for target in targets if target.content]
        for name, (old, new) in (self.settings.changed if self.settings else {}).items():
            found.append(f"set {name} to {new!r} (was {old!r}): it belongs to this host")
        found += [
            f"leave {name} of the backup out: that of this host or cluster counts"
            for name in self.left_out
        ]
        return [*found, *self._clients(), self._audit(), *self.tokens.plan()]

    def _clients(self) -> list[str]:
        with database.opened(self.backup.members[DATABASE]) as db:
            theirs = {str(name) for (name,) in db.execute("SELECT name FROM grants")}
        ours = database.clients_in(self.where.state)
        found = [f"clients: {', '.join(sorted(theirs)) or 'none'}"]
        if back := sorted(theirs - ours):
            found.append(f"these are not here now and get in again: {', '.join(back)}")
        if gone := sorted(ours - theirs):
            found.append(
                f"these clients of now are not in it and will be refused: {', '.join(gone)}"
            )
        return found

    def _audit(self) -> str:
        if self.use_audit:
            return f"audit: from the backup ({self.backup.manifest.audit})"
        return "audit: this host's own stays"

    def targets(self, content: bytes, renewed: Mapping[str, ApiToken]) -> list[Target]:
        """Return every file as it shall be; `content` is that of the database."""
        state, owner = self.where.state / FILE, self.where.owner
        found = [Target(state, content, 0o600, owner)]
        found += [Target(state.with_name(FILE + end), None) for end in ("-wal", "-shm")]
        group = (0, owner[1]) if owner else None
        for name, path in self._paths():
            plain = name == "exec.toml" or bool(DROP_IN.fullmatch(name))
            shared = name == "settings.toml" or name.startswith("files/")
            mode = 0o644 if plain else 0o640 if shared and group else 0o600
            found.append(
                Target(path, self._content(name, renewed), mode, group if shared else None)
            )
        return found

    def _paths(self) -> list[tuple[str, Path]]:
        where, members = self.where, self.backup.members
        fixed = {
            "settings.toml": where.settings, "exec.toml": where.exec_file,
            "firewall.nft": where.firewall, SHARED: where.cluster,
            SIGNING_KEY: where.secrets / SIGNING_FILE,
        }  # fmt: skip
        found = []
        for name in members.keys() - set(self.left_out):
            path = fixed.get(name)
            if path is None and where.units is not None and DROP_IN.fullmatch(name):
                path = where.units / name.removeprefix("units/")
            if path is None and self.settings is not None and name.startswith("files/"):
                path = self.settings.files.get(name.removeprefix("files/"))
            if path is not None:
                found.append((name, path))
        return sorted(found)

    def _content(self, name: str, renewed: Mapping[str, ApiToken]) -> bytes:
        if name == SHARED and self.where.cluster is not None:
            return with_tokens(self.backup.members[name], renewed, self.where.cluster)
        if self.settings is None:
            return self.backup.members[name]
        if name == "settings.toml":
            return self.settings.with_token(renewed).encode()
        if name == "files/pve_token_secret_file":
            token = renewed.get(self.settings.token_id)
            return token.secret.encode() if token else self.backup.members[name]
        return self.backup.members[name]


def _verb(target: Target) -> str:
    if not target.path.exists():
        return "make"
    if target.path.is_symlink() or not target.path.is_file():
        return "replace"
    return "keep" if target.path.read_bytes() == target.content else "replace"


@dataclass(frozen=True, slots=True)
class Choices:
    """What the administrator chose, and what only this host knows."""

    host_bound: Mapping[str, Any] = field(default_factory=dict)
    """Settings that another host needs otherwise; empty on the host that made the backup."""
    same_host: bool = True
    same_cluster: bool = True
    replace_audit: bool = False


def plan(
    backup: Backup, where: Places, choices: Choices, *, tokens: Tokens, service: Service
) -> Restoration:
    """Look at a backup and at what is here, and change nothing. Raises a Fault."""
    database.brought_up_to_date(backup.members[DATABASE], audit_of=None)
    settings = None
    if text := backup.members.get("settings.toml"):
        if where.settings is None:
            raise Misconfigured(
                "The backup has a settings file, and there is none here.",
                hint="Say where it goes: pvemcp --config FILE restore …",
            )
        names = frozenset(
            name.removeprefix("files/") for name in backup.members if name.startswith("files/")
        )
        settings = adapted(text, names, where, {} if choices.same_host else choices.host_bound)
    left_out = [] if choices.same_host else ["firewall.nft"]
    if choices.same_cluster and where.cluster is not None and where.cluster.exists():
        left_out.append(SHARED)  # the cluster has it newer
    return Restoration(
        backup,
        where,
        settings,
        choices.replace_audit or database.calls_in(where.state) == 0,
        tokens,
        service,
        tuple(name for name in left_out if name in backup.members),
    )


def restore(planned: Restoration, *, start: bool, said: Said) -> None:
    """Do what was planned: all of it, or nothing. Raises the Fault that was in the way."""
    where = planned.where
    journal = where.secrets / JOURNAL
    with (
        guarded(lambda: recover(where, planned.tokens, planned.service, said=said, wait=True)),
        alone(where.secrets),
    ):
        _take_back(journal, planned.service, planned.tokens, said)  # a former one
        try:
            _restore(planned, journal, start=start, said=said)
        except BaseException as problem:
            said("taking everything back")
            _take_back(journal, planned.service, planned.tokens, said)
            if isinstance(problem, Fault):
                problem.message += " The old state is in place again."
            raise


def _restore(planned: Restoration, journal: Path, *, start: bool, said: Said) -> None:
    service, where = planned.service, planned.where
    # What comes is noted before it is done, for whoever has to take it back.
    note: dict[str, Any] = {"units": service.now(), "tokens": []}

    def makes(token: str) -> None:
        said(f"making the PVE token {token}")
        note["tokens"].append(token)
        Switch(journal, [], note).prepare(said)

    Switch(journal, [], note).prepare(said)
    renewed = planned.tokens.apply(makes)
    said("stopping the service")
    service.stop()
    refuse_other_users(where.state / FILE)
    content = database.brought_up_to_date(
        _with_tokens(planned.backup.members[DATABASE], renewed),
        audit_of=None if planned.use_audit else where.state,
    )
    content = database.settled(content, where.state)
    if SHARED in planned.left_out:
        content = without_shared(content)
    switch = Switch(journal, planned.targets(content, renewed), note)
    switch.prepare(said)
    switch.run(said)
    if start:
        said("starting the service")
        service.start()
    switch.finish(said)
    said("done")


def _with_tokens(content: bytes, renewed: Mapping[str, ApiToken]) -> bytes:
    with database.opened(content) as db:
        for old, token in renewed.items():
            db.execute(
                "UPDATE grants SET token_id = ?, token_secret = ? WHERE token_id = ?",
                (token.id, token.secret, old),
            )
        return db.serialize()


def recover(
    where: Places, tokens: Tokens, service: Service, *, said: Said, wait: bool = False
) -> bool:
    """Take back a restore that was killed; whether there was one. Raises a Fault."""
    with alone(where.secrets, wait=wait):
        return _take_back(where.secrets / JOURNAL, service, tokens, said)


def _take_back(journal: Path, service: Service, tokens: Tokens, said: Said) -> bool:
    found = noted(journal)
    if found is None:
        return False
    if found.stage == DONE:
        take_back(journal)
        said("The restore was complete; what it left over is gone.")
        return True
    if found.stage == SWITCHING:
        service.stop()  # it may have started with the new state
    take_back(journal)
    for line in tokens.remove(found.note["tokens"]):
        said(line)
    service.bring_back(found.note["units"])
    said("The restore was ended half-way: the old state is in place again.")
    return True
