"""Where commands run, and by whom."""
# ruff: noqa: RUF009 - setting is dataclasses.field with a help text

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvemcp.settings import values
from pvemcp.settings.setting import setting


@dataclass(frozen=True)
class Commands:
    """Part of Settings: where commands run, and by whom."""

    helper_socket: Path = setting(
        Path("/run/pvemcp-helper.sock"),
        values.absolute,
        "Socket of the root helper, here or on `ssh_host`.",
    )
    exec_file: Path = setting(
        Path("/etc/pvemcp/exec.toml"),
        values.absolute,
        "What the helper may run; its own file, only root's.",
    )
    mirror_dir: Path = setting(
        Path("/run/pvemcp-mirror"),
        values.absolute,
        "Folder in which root shows the service files of `/etc/pve`: certificates, the cluster's "
        "nodes and shared clients.",
    )
    peer_port: int = setting(
        8081,
        values.integer(0, 65535),
        "Port on which the nodes of a cluster pass commands to each other, the same on all; it is "
        "open on the node's own address while there are other nodes. 0: no commands on others.",
    )
    ssh_host: str = setting(
        "",
        values.words,
        "PVE host on which commands run, when pvemcp itself is elsewhere. They are run by the "
        "helper there, which the package brings.",
    )
    ssh_user: str = setting(
        "pvemcp", values.words, "User on `ssh_host`: one whom the helper there serves."
    )
    ssh_port: int = setting(22, values.integer(1, 65535), "Port of SSH on `ssh_host`.")
    ssh_key_path: Path | None = setting(
        None, values.path, "Private key for `ssh_host`, without a passphrase (mode 0600)."
    )
    ssh_known_hosts: Path | None = setting(
        None,
        values.path,
        "File with the host key of `ssh_host`; an unknown key is refused. Default: "
        "`~/.ssh/known_hosts` of the service's user.",
    )
