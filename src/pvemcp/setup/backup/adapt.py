"""The settings of a backup as they must read here: paths, addresses, names."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pvemcp.call import ApiToken
from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings, is_loopback
from pvemcp.settings.values import split_listen
from pvemcp.setup import toml_lines
from pvemcp.setup.backup.archive import damaged
from pvemcp.setup.backup.places import NOT_OURS, Places


@dataclass(frozen=True, slots=True)
class Adapted:
    """The text of the settings file, and where the files that it names go."""

    text: str
    files: Mapping[str, Path]
    """By the name of the setting."""
    changed: Mapping[str, tuple[Any, Any]]
    """What was and what is, by the name of the setting; None is not set."""
    token_id: str
    """The PVE token of the settings; empty without one."""

    def with_token(self, renewed: Mapping[str, ApiToken]) -> str:
        """Return the text with the token that takes the place of that in it."""
        token = renewed.get(self.token_id)
        if token is None:
            return self.text
        values = {"pve_token_id": token.id}
        if "pve_token_secret" in toml_lines.loads(self.text):
            values["pve_token_secret"] = token.secret
        return toml_lines.changed(self.text, values)


def adapted(
    text: bytes, names: frozenset[str], where: Places, host_bound: Mapping[str, Any]
) -> Adapted:
    """Return the settings of a backup for this installation.

    `names` are the settings whose files are in the backup; `host_bound` is what this host needs in
    place of what the other one had. Raises Invalid, Misconfigured.
    """
    given = _parsed(text)
    wanted: dict[str, Any] = {}
    for name, value in (("state_dir", where.state), ("exec_file", where.exec_file)):
        if name in given and Path(str(given[name])) != value:
            wanted[name] = str(value)
    files = {}
    for name in _path_settings() & names & given.keys():
        files[name] = _place(Path(str(given[name])), name, where)
        if files[name] != Path(str(given[name])):
            wanted[name] = str(files[name])
    for name, value in _bound(given, host_bound).items():
        own = name in files and name.startswith("tls_")  # its own certificate comes with it
        if not own and given.get(name) != value:
            wanted[name] = value
    return Adapted(
        toml_lines.changed(text.decode(), wanted),
        files,
        {name: (given.get(name), value) for name, value in wanted.items()},
        str(given.get("pve_token_id", "")),
    )


def _bound(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this host needs: the port stays, and the names under which clients come."""
    result = dict(wanted)
    host, port = split_listen(str(given.get("listen", "127.0.0.1:8080")))
    if is_loopback(host) or host in {"::", "0.0.0.0"}:  # noqa: S104 - it is as good here
        result.pop("listen", None)
    elif "listen" in wanted:
        result["listen"] = f"{str(wanted['listen']).rpartition(':')[0]}:{port}"
    if "allowed_hosts" in wanted:  # its clients may come under the old name, once DNS says so
        both = (*wanted["allowed_hosts"], *given.get("allowed_hosts", ()))
        result["allowed_hosts"] = list(dict.fromkeys(both))
    return result


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        given = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise damaged("its settings are not valid TOML") from None
    known = {item.name for item in fields(Settings) if item.metadata}
    if strange := sorted(given.keys() - known):
        raise Misconfigured(
            f"The backup has settings that this pvemcp does not know: {', '.join(strange)}.",
            hint="Install the version that made it, or a newer one; nothing was changed.",
        )
    return given


def _path_settings() -> frozenset[str]:
    return frozenset(item.name for item in fields(Settings) if item.type == "Path | None")


def _place(path: Path, name: str, where: Places) -> Path:
    """Return where a file goes: its old path if that is the installation's own, else beside.

    Whoever wrote the settings of a backup must not choose which file of this host is written.
    """
    assert where.settings is not None  # noqa: S101 - there are settings to restore
    own = where.settings.parent
    plain = path.is_absolute() and ".." not in path.parts and not str(path).startswith(NOT_OURS)
    reserved = path in {where.settings, where.exec_file, where.firewall}
    if plain and not reserved and path.parent in {own, where.state}:
        return path
    return own / f"restored-{name.replace('_', '-')}"


def configured_token(members: Mapping[str, bytes]) -> ApiToken | None:
    """Return the PVE token of the settings in a backup; None without one."""
    given = _parsed(members.get("settings.toml", b""))
    secret = members.get("files/pve_token_secret_file", b"").decode("utf-8", "replace").strip()
    token = ApiToken(
        str(given.get("pve_token_id", "")), secret or str(given.get("pve_token_secret", ""))
    )
    return token if token.id and token.secret else None
