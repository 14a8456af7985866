"""An installation of a user's own, with everything that a backup holds."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path

from pvemcp.access.grants import Grants
from pvemcp.access.shared import SharedClient, SharedClients, encode, take_over
from pvemcp.call import ApiToken, Effect
from pvemcp.settings import Settings
from pvemcp.setup.backup import archive, make, manifest, signing
from pvemcp.setup.backup.opened import Backup, open_backup
from pvemcp.setup.backup.places import Places
from pvemcp.setup.backup.sealing import Identity, Recipient, new_identity, seal
from pvemcp.store import Store
from tests.unit.test_retention import fill

WHEN = 1_900_000_000.0
NAME = f"pvemcp-{socket.gethostname().partition('.')[0]}-20300317T174640Z.age"
TOKEN = ApiToken("pvemcp@pve!laptop", "11111111-2222-3333-4444-555555555555")


SHARED = SharedClient(
    id="0123456789abcdef",
    name="shared",
    hash="ab" * 32,
    ceiling="read",
    created=1.0,
    token_id="pvemcp@pve!shared",
    token_secret="99999999-2222-3333-4444-555555555555",
)


@dataclass
class Installation:
    """Its folder, its client's secret, and the key of its backups."""

    root: Path
    secret: str
    key: Identity
    recipient: Recipient

    @property
    def places(self) -> Places:
        return places_in(self.root)

    @property
    def settings(self) -> Settings:
        return load(self.root)

    @property
    def grants(self) -> Path:
        return self.root / "state"

    def backup(
        self,
        to: Path | None = None,
        *,
        at: float = WHEN,
        audit: bool = False,
        keep: int | None = None,
    ) -> Path:
        """Make a backup."""
        made = make.make(
            to or self.root / "backups",
            self.places,
            self.settings,
            self.recipient,
            whole_audit=audit,
            keep=keep,
            clock=lambda: at,
        )
        return made.path

    def open(self, path: Path) -> Backup:
        """Open a backup with its key."""
        return open_backup(path, lambda: self.key)

    def forged(self, path: Path, members: dict[str, bytes], **changes: object) -> Path:
        """Write a backup with other members, correctly signed: this host was broken into."""
        secret = signing.signing_key(self.places.secrets, make=False)
        assert secret is not None
        whole = make.contents(self.places, self.settings, whole_audit=False, made=WHEN)
        about = manifest.parse(whole.pop(manifest.NAME))
        del whole[manifest.SIGNATURE]
        whole |= members
        described = replace(about, members=manifest.listed(whole), **changes).as_bytes()  # type: ignore[arg-type]
        signed = {manifest.NAME: described, manifest.SIGNATURE: signing.sign(described, secret)}
        path.write_bytes(seal(archive.pack(signed | whole), self.recipient))
        return path


def places_in(root: Path) -> Places:
    """Return the places of an installation below a folder, as they are on a host."""
    return Places(
        settings=root / "etc/pvemcp.toml",
        state=root / "state",
        exec_file=root / "etc/exec.toml",
        secrets=root / "secrets",
        backups=root / "backups",
        units=root / "units",
        firewall=root / "etc/firewall.nft",
        cluster=root / "cluster/clients.json",
    )


def load(root: Path) -> Settings:
    """Read the settings of the installation below a folder."""
    return Settings.load(root / "etc/pvemcp.toml", {}, files=False)


def install(root: Path) -> Installation:
    """Make an installation with a client, an audit, and files of root's."""
    etc = root / "etc"
    etc.mkdir(parents=True)
    for name in ("cert.pem", "key.pem", "token"):
        (etc / name).write_text(f"the {name}\n")
        (etc / name).chmod(0o600)
    (etc / "pvemcp.toml").write_text(
        f'# of {root}\nlisten = "127.0.0.1:8443"\ntls_cert = "{etc}/cert.pem"\n'
        f'tls_key = "{etc}/key.pem"\npve_token_id = "pvemcp@pve!all"\n'
        f'pve_token_secret_file = "{etc}/token"\nstate_dir = "{root}/state"\n'
        f'exec_file = "{etc}/exec.toml"\n'
    )
    (etc / "exec.toml").write_text("# what may run\n")
    (etc / "firewall.nft").write_text("table inet pvemcp {}\n")
    for name in ("pvemcp.toml", "firewall.nft"):
        (etc / name).chmod(0o600)
    (root / "units/pvemcp.service.d").mkdir(parents=True)
    (root / "units/pvemcp.service.d/own.conf").write_text("[Service]\nMemoryMax=1G\n")
    (root / "cluster").mkdir()
    (root / "cluster/clients.json").write_bytes(encode(SharedClients(3, (SHARED,))))
    with Store(root / "state") as store:
        _, secret = Grants(store).create("laptop", Effect.CHANGE, token=TOKEN)
        store.key("request-state")
        take_over(store, SharedClients(3, (SHARED,)))
        fill(store, [1.0, 2.0, 3.0])
    own = signing.signing_key(root / "secrets", make=True)
    assert own is not None
    identity, recipient = new_identity()
    return Installation(root, secret, replace(identity, signer=signing.public(own)), recipient)
