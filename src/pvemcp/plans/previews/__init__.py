"""Previews by PVE method: `preview` finds the one for an intent."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from pvemcp.call import Intent
from pvemcp.errors import Fault, Missing
from pvemcp.journal.undoable import promise
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews import (
    acts,
    guest,
    networks,
    pools,
    pruned,
    snapshots,
    stores,
    things,
    volumes,
)
from pvemcp.plans.previews.elevation import elevation
from pvemcp.plans.previews.looking import line
from pvemcp.plans.previews.named import named
from pvemcp.plans.previews.plain import plain, target_of
from pvemcp.pve.client import Pve

Maker = Callable[[Pve, Intent], Awaitable[Preview]]

_GUEST = r"/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}"
_BY_METHOD: tuple[tuple[re.Pattern[str], Maker], ...] = tuple(
    (re.compile(pattern), maker)
    for pattern, maker in (
        (r"GRANT ", elevation),
        (rf"DELETE {_GUEST}", guest.destroy),
        (rf"POST {_GUEST}/status/\w+", guest.power),
        (rf"(?:PUT|POST) {_GUEST}/config", guest.reconfigure),
        (rf"PUT {_GUEST}/unlink", guest.unlink),
        (rf"POST {_GUEST}/snapshot/\{{snapname\}}/rollback", snapshots.rollback),
        (rf"DELETE {_GUEST}/snapshot/\{{snapname\}}", snapshots.unsnapshot),
        (r"DELETE /nodes/\{node\}/storage/\{storage\}/content/\{volume\}", volumes.delete),
        (r"DELETE /nodes/\{node\}/storage/\{storage\}/prunebackups", pruned.prune),
        (rf"\w+ {_GUEST}/firewall/.*", things.thing),
        (rf"\w+ {_GUEST}(?:/.*)?", acts.any_guest),
        (r"POST /nodes/\{node\}/(?:qemu|lxc)", things.make),
        (r"POST /nodes/\{node\}/status", things.node_power),
        (r"(?:PUT|DELETE) /storage/\{storage\}", things.storage),
        (r"DELETE /nodes/\{node\}/(?:disks/\w+|ceph/pool)/\{name\}", stores.disk_store),
        (r"\w+ .*/firewall/.*", things.lockout),
        (r"PUT /nodes/\{node\}/network", networks.reload),
        (r"DELETE /nodes/\{node\}/network", networks.revert),
        (r"\w+ /nodes/\{node\}/network.*", networks.interface),
        (r"PUT /cluster/sdn", networks.apply),
        (r"POST /cluster/sdn/rollback", networks.rollback),
        (r"\w+ /cluster/sdn/(?:zones|vnets|controllers).*", networks.sdn_object),
        (r"(?:PUT|DELETE) /pools(?:/\{poolid\})?", pools.pool),
        (r"(?:PUT|POST|DELETE) /.*", things.thing),
    )
)


async def preview(pve: Pve, intent: Intent) -> Preview:
    """Look up what an intent means. What cannot be seen is `unseen`.

    Raises Missing where PVE says that the target is not there: nobody need be asked about it.
    """
    method = f"{intent.verb} {intent.template}"
    maker = next((maker for pattern, maker in _BY_METHOD if pattern.fullmatch(method)), plain)
    try:
        made = await maker(pve, intent)
        said = promise(intent.verb, intent.template, intent.params).text
        undo = pve.call.whole or made.undo or said
        made = replace(made, undo=undo)
    except Missing:
        raise
    except Fault as fault:
        found = await plain(pve, intent)
        made = Preview(
            intent, target_of(intent), does=found.does, unseen=(line(fault.message),),
            confirm=found.confirm,
        )  # fmt: skip
    return replace(made, also=await named(pve, intent, made.target))
