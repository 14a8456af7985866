"""Where commands run in this installation, and what PVE must grant for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pvemcp.access.policy import permit
from pvemcp.call import ApiToken, Call, Effect
from pvemcp.errors import Denied, Unavailable
from pvemcp.host import members
from pvemcp.host.bubblewrap import find
from pvemcp.host.cluster import Cluster
from pvemcp.host.executor import Executor, Helper, Nowhere
from pvemcp.host.peer import Peer
from pvemcp.host.runner import Elsewhere, Runner, no_cluster
from pvemcp.host.ssh import Door, Ssh
from pvemcp.host.transcript import Mask
from pvemcp.pve.client import PveClient
from pvemcp.settings import Settings

PRIVILEGES = {
    Effect.READ: "Sys.Audit",
    Effect.CHANGE: "Sys.Modify",
    Effect.DESTROY: "Sys.Modify",
}
"""What a token must hold on /nodes/NODE: PVE asks the same of who reads or changes a node."""


def executor(settings: Settings) -> Executor:
    """Return what runs commands here: the root helper, else bubblewrap, else nothing."""
    if settings.ssh_host and settings.ssh_key_path is not None:
        known = settings.ssh_known_hosts or Path("~/.ssh/known_hosts").expanduser()
        return Ssh(
            Door(
                host=settings.ssh_host,
                user=settings.ssh_user,
                port=settings.ssh_port,
                key=settings.ssh_key_path,
                known_hosts=known,
                socket=settings.helper_socket,
            )
        )
    if settings.helper_socket.exists():
        return Helper(settings.helper_socket, settings.exec_file)
    if not settings.pve_is_local:
        return Nowhere(
            "pvemcp is not on the PVE host",
            "Set ssh_host and ssh_key_path: the helper of the package there runs them.",
        )
    own = (settings.source, settings.pve_token_secret_file, settings.tls_key)
    found = find(settings.state_dir, *filter(None, own))
    if isinstance(found, str):
        hint = (
            "Install the package on the PVE host, or bubblewrap here for commands that only read."
        )
        return Nowhere(f"the root helper is not here, and {found}", hint)
    return found


def runner(
    settings: Settings, pve: PveClient, mask: Callable[[], Mask], by: Executor | None = None
) -> Runner:
    """Return the runner of all commands: `by` an executor, or what the settings ask for."""
    others = elsewhere(Cluster(settings.mirror_dir, settings.peer_port))
    return Runner(by or executor(settings), permit, Rights(pve).require, mask, others)


def elsewhere(cluster: Cluster) -> Elsewhere:
    """Return what finds the other nodes of this cluster, if this host shows one."""

    def find(node: str) -> Executor:
        if not cluster.port or not (cluster.folder / members.FILE).exists():
            return no_cluster(node)
        return Peer(cluster, node)

    return find


class Rights:
    """Asks PVE whether a token may have a node's commands run.

    When PVE is down, what it last said counts: that is when commands on the host are needed most.
    """

    def __init__(self, pve: PveClient) -> None:
        self._pve = pve
        self._last: dict[tuple[ApiToken, str], frozenset[str]] = {}

    async def require(self, call: Call, effect: Effect, node: str) -> None:
        """Raise Denied unless the token holds the privilege of that effect on the node."""
        path, privilege = f"/nodes/{node}".rstrip("/"), PRIVILEGES[effect]
        key = (call.principal.token, path)
        try:
            found = await self._pve.bind(call).permissions(path)
            self._last[key] = frozenset(found.get(path, {}))
        except Unavailable as fault:
            if key not in self._last:
                raise Unavailable(
                    f"PVE does not say whether this token may run commands: {fault.message}",
                    hint=fault.hint,
                ) from None
        if privilege not in self._last[key]:
            raise Denied(
                f"commands with the effect {effect} on {node} need {privilege} on {path}, which "
                f"the PVE token {call.principal.token.id} lacks",
                hint="An administrator can give it a role with that privilege.",
            )
