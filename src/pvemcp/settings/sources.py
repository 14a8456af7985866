"""Where the values of settings come from: a TOML file and the environment, which wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvemcp.errors import Misconfigured

PREFIX = "PVEMCP_"
CONFIG_VARIABLE = "PVEMCP_CONFIG"
SYSTEM_CONFIG = Path("/etc/pvemcp/pvemcp.toml")
SYSTEM_STATE = Path("/var/lib/pvemcp")


def config_path(config: Path | None, env: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if env.get(CONFIG_VARIABLE):
        return Path(env[CONFIG_VARIABLE])
    return SYSTEM_CONFIG if os.access(SYSTEM_CONFIG, os.F_OK) else None


def from_file(path: Path, known: tuple[str, ...]) -> dict[str, Any]:
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise Misconfigured(
            f"The settings file {path} cannot be read: {exc.strerror}.",
            hint=f"Name another with --config or {CONFIG_VARIABLE}, or repair its permissions.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(
            f"The settings file {path} is not valid TOML: {exc}",
            hint='A line reads NAME = "TEXT", for example pve_url = "https://pve1:8006".',
        ) from None
    for name in given:
        if name not in known:
            raise _unknown(f"{name} (in {path})", name, known)
    return given


def from_environment(env: Mapping[str, str], names: tuple[str, ...]) -> dict[str, Any]:
    known = {PREFIX + name.upper(): name for name in names}
    given: dict[str, Any] = {}
    for variable, value in env.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise _unknown(variable, variable, (*known, CONFIG_VARIABLE))
        if value.strip():
            given[known[variable]] = value.strip()
    return given


def _unknown(shown: str, name: str, known: tuple[str, ...]) -> Misconfigured:
    from difflib import get_close_matches  # noqa: PLC0415 - only the message needs it

    # A variable's name in the file, or a variable in lower case, is the right word in wrong dress.
    bare = name.upper().removeprefix(PREFIX)
    dressed = [one for one in known if one.upper().removeprefix(PREFIX) == bare]
    near = dressed or get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
    return Misconfigured(f"Unknown setting {shown}.", hint=hint)


def default_state_dir(env: Mapping[str, str]) -> str:
    if env.get("STATE_DIRECTORY"):  # systemd sets it from StateDirectory=, colons between several
        return env["STATE_DIRECTORY"].split(":")[0]
    if os.geteuid() == 0 or os.access(SYSTEM_STATE, os.W_OK):
        return str(SYSTEM_STATE)
    home = Path(env["HOME"]) if env.get("HOME") else Path("~").expanduser()
    return str(Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "pvemcp")
