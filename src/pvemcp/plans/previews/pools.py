"""Previews of pools: who comes in, who goes out, and who is in a pool that is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pvemcp.call import Intent, Target
from pvemcp.plans.preview import Preview
from pvemcp.plans.previews.diff import config_changes, names
from pvemcp.plans.previews.looking import line, look, value
from pvemcp.plans.previews.plain import plain
from pvemcp.pve.client import Pve


async def pool(pve: Pve, intent: Intent) -> Preview:
    """Show a pool's notes and members from what to what; all of it when the pool is deleted."""
    name = str(intent.params.get("poolid"))
    base = replace(await plain(pve, intent), target=Target("pool", intent.path))
    seen = await look({
        "what is there now": pve.get("/pools", poolid=name),
        "backup jobs": pve.get("/cluster/backup"),
    })  # fmt: skip
    base = replace(base, unseen=(*base.unseen, *seen.unseen))
    rows = seen.rows("what is there now")
    if not rows:
        return base
    now = _settings(rows[0])
    jobs = [str(row.get("id")) for row in seen.rows("backup jobs") if row.get("pool") == name]
    backed = (("backup jobs of its guests", line(", ".join(jobs))),) if jobs else ()
    base = replace(base, state=now, facts=backed)
    if intent.verb == "DELETE":
        facts = tuple((key, value(key, text)) for key, text in now.items())
        return replace(
            base, facts=(*facts, *backed), lost=(f"the pool {line(name)} as it is above",)
        )
    changes, _ = config_changes(now, _after(now, intent.params))
    return replace(base, changes=tuple(changes))


def _settings(row: Mapping[str, Any]) -> dict[str, str]:
    members = row.get("members") or []
    vms = sorted(int(each["vmid"]) for each in members if each.get("vmid"))
    storages = sorted({str(each["storage"]) for each in members if each.get("type") == "storage"})
    found = {"comment": str(row.get("comment") or ""), "vms": ",".join(map(str, vms)),
             "storage": ",".join(storages)}  # fmt: skip
    return {key: text for key, text in found.items() if text}


def _after(now: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that a request leaves: with `delete` it takes the members out."""
    out = str(given.get("delete", "")) in ("1", "True")
    after = {"comment": str(given["comment"])} if "comment" in given else {}
    for key in ("vms", "storage"):
        there, named = names(now.get(key)), names(given.get(key))
        if named:
            left = [each for each in there if each not in named]
            both = left if out else [*left, *named]
            after[key] = ",".join(sorted(both, key=lambda each: (len(each), each)))
    return after
