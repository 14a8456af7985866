"""The settings: one TOML file and `PVEMCP_*` environment variables, which win over the file.

Every way to get them wrong ends in a Misconfigured that names the setting and the repair. No
pydantic here: the command line must start fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvemcp.settings import checks, sources
from pvemcp.settings.checks import require_safe_listen, require_token
from pvemcp.settings.commands import Commands
from pvemcp.settings.files import read_secret, refuse_open_file
from pvemcp.settings.keeping import Keeping
from pvemcp.settings.limits import Limits
from pvemcp.settings.safety import Safety
from pvemcp.settings.serving import Serving
from pvemcp.settings.sources import CONFIG_VARIABLE, PREFIX, SYSTEM_CONFIG
from pvemcp.settings.values import is_loopback, split_listen
from pvemcp.settings.watching import Watching

__all__ = [
    "CONFIG_VARIABLE",
    "SYSTEM_CONFIG",
    "Settings",
    "is_loopback",
    "read_secret",
    "require_safe_listen",
    "require_token",
]


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as the reference page shows it."""

    name: str
    env: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class Settings(Watching, Safety, Limits, Keeping, Commands, Serving):
    """Everything that an administrator can set. Made by `load`, which checks it.

    The reference page has its parts in the opposite order, which is that of the fields.
    """

    source: Path | None = field(default=None, repr=False)
    """The settings file that was read, which may hold the secret. Not itself a setting."""

    @classmethod
    def load(cls, config: Path | None, env: Mapping[str, str], *, files: bool = True) -> Settings:
        """Read and check the settings.

        `config` is the file named on the command line; else PVEMCP_CONFIG names it, else
        /etc/pvemcp/pvemcp.toml counts if it exists. A variable that is set but empty counts as
        not set. With `files=False` the files that settings name are not touched, so that a
        command which needs only the state folder works while they are missing.

        Raises Misconfigured.
        """
        parsers = {item.name: item.metadata["parse"] for item in _described()}
        path = sources.config_path(config, env)
        in_file = sources.from_file(path, tuple(parsers)) if path else {}
        given = in_file | sources.from_environment(env, tuple(parsers))
        given.setdefault("state_dir", sources.default_state_dir(env))
        parsed = {name: parsers[name](name, value) for name, value in given.items()}
        settings = cls(**parsed, source=path)
        checks.refuse_contradictions(settings)
        if not files:
            return settings
        if path and in_file.get("pve_token_secret"):
            refuse_open_file("pve_token_secret", path)
        secret = checks.read_files(settings)
        return replace(settings, pve_token_secret=secret) if secret else settings

    @property
    def address(self) -> tuple[str, int]:
        """Host (without brackets) and port to listen on; port 0 takes any free one."""
        return split_listen(self.listen)

    @property
    def loopback_only(self) -> bool:
        """Only this machine can reach the service."""
        return is_loopback(self.address[0])

    @property
    def pve_is_local(self) -> bool:
        """The PVE host is this machine: its files can be read, its requests need no gzip."""
        return is_loopback(urlsplit(self.pve_url).hostname or "")

    @classmethod
    def describe(cls) -> Iterator[Described]:
        """Every setting, in the order of the reference page."""
        for item in _described():
            yield Described(
                name=item.name,
                env=PREFIX + item.name.upper(),
                type=_TYPES[str(item.type)],
                default=", ".join(item.default)
                if isinstance(item.default, tuple)
                else str(item.default or "").replace("True", "true"),
                help=item.metadata["help"],
            )


_TYPES = {
    "str": "text",
    "int": "integer",
    "bool": "true or false",
    "Path": "path",
    "Path | None": "path",
    "tuple[str, ...]": "list of text",
    "tuple[Rule, ...]": "list of tables",
}


def _described() -> Iterator[Field[Any]]:
    return (item for item in fields(Settings) if item.metadata)
