"""All steps of `pvemcp setup`, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvemcp.errors import Conflict, Internal, Missing
from pvemcp.settings import Settings
from pvemcp.setup import toml_lines
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, USER_PATH, AccountStep
from pvemcp.setup.authority import COPY, AuthorityStep
from pvemcp.setup.certificate import CertificateStep
from pvemcp.setup.client_step import PREFIX, ClientStep
from pvemcp.setup.clients import Book, Clients, Wanted
from pvemcp.setup.firewall import Firewall, ports_of
from pvemcp.setup.nft_table import NftTable
from pvemcp.setup.place import MIRROR, Place, listen_everywhere
from pvemcp.setup.plan import Records
from pvemcp.setup.pve_rules import PveRules
from pvemcp.setup.roles import RolesStep
from pvemcp.setup.settings_file import SettingsStep
from pvemcp.setup.step import Step
from pvemcp.setup.units import UnitsStep


@dataclass(frozen=True, slots=True)
class Setup:
    """What one run of set-up works with."""

    access: PveAccess
    grants: Book
    records: Records
    settings: Path
    wanted: dict[str, Any]
    """Settings."""
    client: Wanted | None
    """The first client; None when there is one."""
    authority: Path | None = None
    """The file that --pve-ca-file names."""
    on_host: bool = False
    """PVE is this machine's own."""
    names: tuple[str, ...] = ()
    """Names and addresses of this machine."""

    def steps(self) -> list[Step]:
        """Return every step."""
        found: list[Step] = [
            RolesStep(self.access),
            AccountStep(self.access),
            *([self._authority_step(self.authority)] if self.authority else []),
            self._settings_step(),
        ]
        if self.client is not None:
            found.append(self.client_step(self.client))
        return [*found, self._certificate(), self._firewall(), UnitsStep(self.settings)]

    def _certificate(self) -> CertificateStep:
        return CertificateStep(self.names)

    def _firewall(self) -> Firewall:
        # Only this machine's own PVE can let somebody in here.
        pve = PveRules(self.access) if self.on_host else None
        return Firewall(self._ports, NftTable(), pve)

    def _ports(self) -> list[int]:
        """Return the ports of the service as they are set, or will be."""
        if "listen" in toml_lines.loads(self._written()):
            return ports_of(Settings.load(self.settings, {}, files=False))
        return ports_of(replace(Settings(), listen=self.wanted.get("listen", Settings().listen)))

    def _written(self) -> str:
        return self.settings.read_text("utf-8") if self.settings.exists() else ""

    def warnings(self) -> list[str]:
        """Return what clients will stumble over."""
        return self._certificate().warnings()

    def client_step(self, wanted: Wanted) -> ClientStep:
        """Return the step that makes a client."""
        known = any(grant.name == wanted.name for grant in self.grants.list())
        return ClientStep(Clients(self.access, self.grants), wanted, known=known)

    def _settings_step(self) -> SettingsStep:
        return SettingsStep(self.settings, self.wanted, self.records.of(SettingsStep.name))

    def kept(self) -> list[str]:
        """Return the settings that stay as somebody else wrote them."""
        return self._settings_step().kept()

    def _authority_step(self, given: Path) -> AuthorityStep:
        return AuthorityStep(given, self.settings.with_name(COPY))

    def find(self) -> Callable[[str], Step]:
        """Return what finds the step that takes an entry of the records back."""
        known = {step.name: step for step in self.steps()}

        def step(name: str) -> Step:
            if name in known:
                return known[name]
            if name == AuthorityStep.name:
                return self._authority_step(Path())
            if name.startswith(PREFIX):
                return self.client_step(Wanted(name.removeprefix(PREFIX)))
            raise Internal(
                f"The records name a step that this pvemcp does not have: {name}.",
                hint="Take it back with the version that made it.",
            )

        return step


def settings_for(place: Place, trust: dict[str, str], *, listen: str = "") -> dict[str, Any]:
    """Return the settings that set-up wants."""
    return {
        **trust,
        "listen": listen or listen_everywhere(),
        "tls_cert": str(MIRROR / "tls.crt"),
        "tls_key": str(MIRROR / "tls.key"),
        "allowed_hosts": list(place.names),
    }


def refuse_strangers(access: PveAccess, records: Records) -> None:
    """Refuse to remove our account while it has tokens that the records do not know of."""
    made = any(one.record.get("user") for one in records.entries)
    recorded = {one.step.removeprefix(PREFIX) for one in records.entries}
    try:
        rows = access.get(f"{USER_PATH}/token") if made else []
    except Missing:
        return
    names = {str(row["tokenid"]).partition(".")[0] for row in rows}
    if strange := sorted(names - recorded):
        raise Conflict(
            f"{USER} has clients that this set-up did not make: {', '.join(strange)}.",
            hint="Nothing was changed. If they may go, end each first: pvemcp client revoke NAME. "
            "They may belong to another installation.",
        )
