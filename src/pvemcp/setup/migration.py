"""What the settings of the construction that pvemcp replaces become."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

KEYS = (
    "PROXMOX_HOST", "PROXMOX_USER", "PROXMOX_TOKEN_NAME", "PROXMOX_TOKEN_VALUE",
    "PROXMOX_VERIFY_SSL", "ENABLE_PROXMOX_API", "SSH_TARGET", "SSH_HOST", "SSH_USER", "SSH_PORT",
    "SSH_KEY_PATH", "ENABLE_SSH", "ENABLE_DANGEROUS_COMMANDS", "ENABLE_LOCAL_EXECUTION",
)  # fmt: skip
SECRET = "PROXMOX_TOKEN_VALUE"  # noqa: S105 - its name
REFUSED = "refused: "
_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Old:
    """The old settings, read; `__repr__` shows no secret."""

    values: Mapping[str, str] = field(repr=False)

    def on(self, name: str, *, default: bool = False) -> bool:
        """Whether a switch is on."""
        given = self.values.get(name, "").strip().lower()
        return given in {"1", "true", "yes", "on"} if given else default

    @property
    def host(self) -> str:
        """Where PVE is: a name or an address, with a port if one was given."""
        given = self.values.get("PROXMOX_HOST", "").strip()
        return urlsplit(given if "://" in given else f"//{given}").netloc

    @property
    def url(self) -> str:
        """The same as the URL of an API."""
        parts = urlsplit(f"//{self.host}")
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"https://{name}:{parts.port or 8006}"

    @property
    def token(self) -> str:
        """`USER@REALM!NAME` of the old token, or empty. The user may carry the name already."""
        user, name = self.values.get("PROXMOX_USER", ""), self.values.get("PROXMOX_TOKEN_NAME", "")
        if "!" in user or not name:
            return user if "!" in user else ""
        return name if "!" in name else f"{user}!{name}"

    @property
    def ssh_user(self) -> str:
        """Who logged in over SSH."""
        target = self.values.get("SSH_TARGET", "")
        return self.values.get("SSH_USER", "") or target.rpartition("@")[0].rpartition(":")[2]

    def is_here(self, own: tuple[str, ...]) -> bool:
        """Whether PVE is on this machine, which has these names and addresses."""
        name = (urlsplit(f"//{self.host}").hostname or "").lower()
        return name in _LOCAL or name in {one.lower() for one in own}


@dataclass(frozen=True, slots=True)
class Became:
    """What one setting becomes; a text that begins with `refused` was unsafe."""

    name: str
    value: str
    text: str


def translate(old: Old, *, client: str, role: str, here: bool) -> Iterator[Became]:
    """Say for each setting of the old file what it becomes; the secret is never shown."""
    texts = {
        **_of_pve(old, client, role, here=here),
        **_of_ssh(old, here=here),
        **_of_switches(old, role),
    }
    for name in KEYS:
        if name in old.values:
            value = old.values[name]
            shown = "(not shown)" if name == SECRET else _shown(value)
            yield Became(name, shown, texts[name])
    for name in old.values.keys() - set(KEYS):
        yield Became(name, "(not shown)", "nothing: pvemcp has no such setting")


def _of_pve(old: Old, client: str, role: str, *, here: bool) -> dict[str, str]:
    own = f"the client {client} with its own token pvemcp@pve!{client} and the role {role}"
    if old.token.startswith("root@pam!"):
        user = f"{REFUSED}a token of root@pam may do nearly everything. Instead: {own}"
    else:
        user = f"{own}; the old token is not used any more"
    plain = old.values.get("PROXMOX_HOST", "").startswith("http://")
    host = "pve_url: PVE on this machine" if here else f"pve_url = {old.url}"
    verify = (
        "the certificate is verified, as before"
        if old.on("PROXMOX_VERIFY_SSL", default=True)
        else f"{REFUSED}without it anybody in between can read the token. Instead PVE's "
        "certificate is verified by its own authority, "
        + ("which is on this machine" if here else "given with --pve-ca-file")
    )
    return {
        "PROXMOX_HOST": f"{REFUSED}plain http. Instead: {host}" if plain else host,
        "PROXMOX_USER": user,
        "PROXMOX_TOKEN_NAME": user,
        SECRET: f"nothing: {own} gets a secret of its own",
        "PROXMOX_VERIFY_SSL": verify,
        "ENABLE_PROXMOX_API": "the API is always used; what a client may do there says its role",
    }


def _of_ssh(old: Old, *, here: bool) -> dict[str, str]:
    used = old.on("ENABLE_SSH", default="SSH_HOST" in old.values or "SSH_TARGET" in old.values)
    if here:
        text = "nothing: commands run on this machine, by the helper, without SSH"
    elif used:
        text = (
            "commands on the host need the package there: see docs/how-to/commands-elsewhere.md "
            "(ssh_host, ssh_user = pvemcp, ssh_key_path with a new key)"
        )
    else:
        text = "nothing: SSH was not used"
    user = text
    if old.ssh_user == "root":
        user = f"{REFUSED}logging in as root. {text[0].upper()}{text[1:]}"
    return {
        **dict.fromkeys(("SSH_TARGET", "SSH_HOST", "SSH_PORT", "SSH_KEY_PATH", "ENABLE_SSH"), text),
        "SSH_USER": user,
    }


def _of_switches(old: Old, role: str) -> dict[str, str]:
    dangerous = f"the role {role}"
    if old.on("ENABLE_DANGEROUS_COMMANDS") and role != "admin":
        dangerous = (
            f"{REFUSED}everything for everybody. Instead: the role {role}; --role admin also lets "
            "the client destroy"
        )
    return {
        "ENABLE_DANGEROUS_COMMANDS": dangerous,
        "ENABLE_LOCAL_EXECUTION": "commands run in sandboxes, as /etc/pvemcp/exec.toml says: what "
        "only reads by every client, what changes by one whose token has Sys.Modify on the node",
    }


def _shown(value: str) -> str:
    clean = re.sub(r"[^\x20-\x7e]", "?", value)
    return clean if len(clean) <= 60 else f"{clean[:57]}…"
