"""api_read on every GET of this PVE whose path can be filled from what there is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pvemcp.pve.schema import Method
from tests.live.place import Place

_PLACEHOLDER = re.compile(r"\{([^}]+)\}")
_ELSEWHERE = re.compile(
    r"/scan/|/apt/|/query-|/acme/|/aplinfo|/report|/agent/|/disks/smart|socket$"
)
"""Methods that reach out of the host, wake disks or guests, or are no request with an answer."""


async def things(place: Place) -> dict[str, str]:
    """Return one existing name for each placeholder that this PVE has something for."""
    lists = {
        "node": ("/nodes", "node"),
        "storage": ("/storage", "storage"),
        "userid": ("/access/users", "userid"),
        "roleid": ("/access/roles", "roleid"),
        "groupid": ("/access/groups", "groupid"),
        "realm": ("/access/domains", "realm"),
        "poolid": ("/pools", "poolid"),
        "sid": ("/cluster/ha/resources", "sid"),
        "upid": ("/cluster/tasks", "upid"),
    }
    found = {}
    for name, (path, key) in lists.items():
        status, rows = await place.raw(path)
        if status == 200 and rows:
            found[name] = str(rows[0][key])
    for row in (await place.raw("/cluster/resources", type="vm"))[1]:
        found.setdefault(row["type"], f"/nodes/{row['node']}/{row['type']}/{row['vmid']}")
    return found


def filled(template: str, known: dict[str, str]) -> str:
    """Return the path with its placeholders filled, or "" when something is missing."""
    for kind in ("qemu", "lxc"):
        prefix = f"/nodes/{{node}}/{kind}/{{vmid}}"
        if template.startswith(prefix) and kind in known:
            template = template.replace(prefix, known[kind])
    names = _PLACEHOLDER.findall(template)
    if any(name not in known for name in names) or "vmid" in names:
        return ""
    return _PLACEHOLDER.sub(lambda found: known[found[1]], template)


def bare(method: Method, known: dict[str, str]) -> str:
    """Return the path of a GET that wants nothing beyond its path, or ""."""
    if method.verb != "GET" or _ELSEWHERE.search(method.path):
        return ""
    inside = set(_PLACEHOLDER.findall(method.path))
    if any(not p.optional and p.name not in inside for p in method.parameters):
        return ""
    return filled(method.path, known)


@pytest.mark.timeout(600)
async def test_every_get_answers_as_pve_does(place: Place) -> None:
    known = await things(place)
    paths = [path for method in await place.methods() if (path := bare(method, known))]
    assert len(paths) > 100
    wrong: dict[str, str] = {}
    async with place.client() as client:
        for path in paths:
            status, data = await place.raw(path)
            result = await client.raw("api_read", path=path, format="json", limit=1000)
            text = result.content[0].text
            if result.is_error != (status != 200) or text.startswith("internal"):
                wrong[path] = f"PVE {status}, pvemcp: {text[:200]}"
            elif status == 200 and '","cut":"' not in text[:300] and names(data) != names(text):
                wrong[path] = f"other fields: {text[:200]}"
    assert wrong == {}


def names(data: Any) -> Any:
    """Return the fields of an answer: values change from one moment to the next."""
    if isinstance(data, str):
        data = json.loads(data)
        data = data.get("items", data) if isinstance(data, dict) and "total" in data else data
    match data:
        case dict():
            return sorted(data)
        case [dict(), *_]:
            return sorted({name for row in data for name in row})
        case _:
            return None
