"""What a service does beside answering requests, for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pvemcp.access import shared
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.access.replies import TurnedAway
from pvemcp.access.shared import Shared
from pvemcp.access.told import Told
from pvemcp.audit import Audit
from pvemcp.call import ApiToken
from pvemcp.gating import as_client, cutting, ending_jobs
from pvemcp.host.cluster import Cluster
from pvemcp.peers.door import PeerDoor
from pvemcp.peers.hearing import Hearing
from pvemcp.peers.requests import Client, Requests
from pvemcp.peers.spread import Spread
from pvemcp.retention import anchoring, keep_recordings_within, keep_within
from pvemcp.server import Service
from pvemcp.settings import Settings
from pvemcp.store import Store
from pvemcp.syslog import Receiver, Syslog

Work = Callable[[], Coroutine[Any, Any, None]]
"""Goes on until it is cancelled."""


@dataclass(frozen=True, slots=True)
class Background:
    """The parts that work for ever."""

    settings: Settings
    store: Store
    grants: Grants
    default: ApiToken | None
    service: Service
    spread: Spread
    syslog: Syslog | None
    turned_away: TurnedAway

    def works(self) -> tuple[Work, ...]:
        """Return the door for other nodes, freezes, shared clients, retention, the audit's head."""
        audit, host, gate = self.service.audit, self.service.host, self.service.gate
        tell = self.syslog.send if self.syslog is not None else None
        pve_of = as_client(self.service.pve, self.grants, self.default)
        return (
            *([self.syslog.run] if self.syslog is not None else []),
            self._door().run,
            self.spread.run,
            shared_clients(self.settings, self.store, self.grants).watch,
            lambda: keep_within(self.store, self.settings),
            lambda: keep_recordings_within(audit, self.store, self.settings),
            lambda: anchoring(audit, self.settings.audit_anchor_file, tell=tell),
            lambda: cutting(host, gate.policy, self.grants),
            lambda: gate.changes.overdue.watch(pve_of),
            lambda: ending_jobs(host, gate.policy, self.grants),
        )

    def _door(self) -> PeerDoor:
        def client(id_: str) -> Client | None:
            found = self.grants.shared(id_)
            token = found.token or self.default if found else None
            return (found.name, found.ceiling, token) if found and token else None

        service, hearing = self.service, Hearing(self.spread.freezes)
        requests = Requests(
            service.host, service.pve, service.audit, client, hearing, service.admit
        )
        return PeerDoor(self.spread.cluster, requests, self.turned_away)


def shared_clients(settings: Settings, store: Store, grants: Grants) -> Shared:
    """Return what keeps the clients as the cluster has them."""
    return Shared(store, settings.mirror_dir / shared.FILE, grants.forget)


def spread_of(settings: Settings, store: Store, audit: Audit) -> Spread:
    """Return what tells other nodes of freezes."""
    cluster = Cluster(settings.mirror_dir, settings.peer_port)
    return Spread(cluster, Freezes(store, event=audit.event), Told(store))


def syslog_of(settings: Settings, audit: Audit) -> Syslog | None:
    """Return what sends the audit to another machine, if it is to go there."""
    if not settings.audit_syslog:
        return None
    made = Syslog(Receiver.parse(settings.audit_syslog, settings.audit_syslog_ca))
    if settings.audit_syslog_rows:
        audit.copy = made.send
    return made
