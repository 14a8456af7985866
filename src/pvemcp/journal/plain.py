"""Settings that PVE itself describes: what GET shows, PUT writes back, POST makes anew.

No table of them: the way back is found in the API description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.journal.change import DIGEST, Recipe, Request, State, differences, never
from pvemcp.journal.subject import Facts, Subject, absent_or, flat
from pvemcp.pve.client import Pve
from pvemcp.pve.description import Description
from pvemcp.pve.schema import Method, Parameter

_COVERED = re.compile(
    r"/storage.*|/pools.*|.*/firewall/.*|/cluster/(?:backup|replication|options|mapping).*"
    r"|/cluster/ha/(?:resources|rules|groups)(?:/\{\w+\})?"
    r"|/cluster/(?:metrics|notifications|acme/plugins)/?.*"
    r"|/cluster/sdn/(?:vnets|zones|controllers|ipams|dns).*"
    r"|/nodes/\{node\}/(?:config|dns|time|hosts)"
    r"|/nodes/\{node\}/storage/\{storage\}/content/\{volume\}"
    r"|/nodes/\{node\}/(?:qemu|lxc)/\{vmid\}/snapshot/\{snapname\}/config"
)
_LASTING = frozenset(
    ("/nodes/{node}/storage/{storage}/content/{volume}", "/cluster/replication/{id}")
)
"""What is deleted there takes data with it."""
_LAST = re.compile(r"/\{(\w+)\}$")
_PLACED = re.compile(r"\{(\w+)\}")
_CONTROL = frozenset((DIGEST, "lock-token"))
"""Parameters that are no settings."""
_SECRET = re.compile(r"passw|secret|token|(?:^|[-_])key(?:s|ring)?$|credential")
_MASKED = re.compile(r"\*{3,}")
_UNSET: Mapping[str, Any] = {"notes": "", "protected": 0, "comment": "", "description": ""}
"""What stands for "not there" where a method has no `delete`."""


def plain_subject(
    description: Description, verb: str, template: str, params: Mapping[str, Any]
) -> Subject | None:
    """Return the subject of a described setting, or None when there is no way back to be found."""
    if not _COVERED.fullmatch(template):
        return None
    values = {k: v for k, v in params.items() if f"{{{k}}}" in template}
    if verb == "POST":
        return _made(description, template, params)
    if description.method("GET", template) is None:
        return None
    if verb == "DELETE" and (template in _LASTING or _parent(description, template) is None):
        return None

    async def read(pve: Pve) -> State:
        return flat(await absent_or(pve, template, **values))

    undo = _remade if verb == "DELETE" else written_back
    return Subject(_kind(template), _id(values, template), read, undo)


def _made(description: Description, template: str, params: Mapping[str, Any]) -> Subject | None:
    child = _child(description, template)
    if child is None:
        if description.method("GET", template) is None:
            return None
        return _overwritten(template, params)  # such as POST /nodes/{node}/hosts
    name = _LAST.findall(child)[0]
    values = {k: v for k, v in params.items() if f"{{{k}}}" in child}
    if name in values:

        async def read(pve: Pve) -> State:
            return flat(await absent_or(pve, child, **values))

        return Subject(_kind(child), _id(values, child), read, _unmade)

    async def names(pve: Pve) -> State:
        rows = await pve.get(template, **values) or []
        return {str(row[name]): row for row in rows if name in row}

    return Subject(_kind(child), _id(values, template), names, _unnamed)


def _overwritten(template: str, params: Mapping[str, Any]) -> Subject:
    values = {k: v for k, v in params.items() if f"{{{k}}}" in template}

    async def read(pve: Pve) -> State:
        return flat(await absent_or(pve, template, **values))

    return Subject(_kind(template), _id(values, template), read, written_back)


def written_back(facts: Facts) -> Recipe:
    """Take a change of settings back: former values are set, new ones deleted."""
    method = facts.description.method(facts.verb, facts.template)
    unseen = not facts.before and _LAST.search(facts.template)  # a whole may be empty
    if method is None or unseen:
        return never("the former values could not be seen")
    if new := facts.text("rename"):
        return _renamed_back(facts, new)
    known = {p.name: p for p in method.parameters}
    changed = [n for n in differences(facts.before, facts.after) if _parameter(known, n)]
    lost = hidden(facts, method)
    # Without `delete` a method may write the whole anew, as that of a firewall alias does.
    placed = set(_PLACED.findall(facts.template))
    whole = () if "delete" in known else known.keys() - placed - _CONTROL
    setting = {
        n: _sent(_parameter(known, n), facts.before[n])
        for n in (*changed, *whole)
        if n in facts.before
    }
    gone = [n for n in changed if n not in facts.before]
    if "delete" in known and gone:
        setting["delete"] = gone if known["delete"].type == "array" else ",".join(gone)
    elif gone:
        lost += tuple(f"{n} cannot be unset" for n in gone if n not in _UNSET)
        setting |= {n: _UNSET[n] for n in gone if n in _UNSET}
    if not setting or not changed:
        return never("; ".join(lost) or "nothing has changed")
    setting |= _required(method, facts)
    if missing := _missing(method, facts, setting):
        return never(f"PVE does not take it without {', '.join(missing)}, which was not set before")
    request = Request(facts.verb, _path(facts), setting)
    return Recipe((request,), lost, keys=tuple(changed))


def _path(facts: Facts) -> str:
    """Return the path with the name as it was spelt: that of a firewall alias is set anew."""
    name = _LAST.findall(facts.template)
    spelt = str(facts.before.get(name[0], "")) if name else ""
    if spelt and spelt.lower() == facts.text(name[0]).lower():
        return f"{facts.path.rpartition('/')[0]}/{spelt}"
    return facts.path


def _parameter(known: Mapping[str, Parameter], name: str) -> Parameter | None:
    """Return the parameter of a setting: `acmedomain0` is one of `acmedomain[n]`."""
    return known.get(name) or known.get(f"{name.rstrip('0123456789')}[n]")


def _sent(parameter: Parameter | None, value: Any) -> Any:
    """Return a value as it is written: some lists are shown taken apart."""
    if isinstance(value, list) and parameter is not None and parameter.type == "string":
        return ";".join(map(str, value))
    return value


def _missing(method: Method, facts: Facts, setting: State) -> list[str]:
    placed = set(_PLACED.findall(facts.template))
    names = (p.name for p in method.parameters if not p.optional and p.name not in placed)
    return [name for name in names if name not in setting]


def _required(method: Method, facts: Facts) -> State:
    names = [p.name for p in method.parameters if not p.optional]
    placed = set(_PLACED.findall(facts.template))
    return {n: facts.before[n] for n in names if n in facts.before and n not in placed}


def hidden(facts: Facts, method: Method) -> tuple[str, ...]:
    """Return a line for each secret that was set: PVE never shows what it was before."""
    lost = []
    for parameter in method.parameters:
        name = parameter.name
        if name not in facts.params or name in _CONTROL or not _SECRET.search(name.lower()):
            continue
        before = facts.before.get(name)
        if before is None and name in facts.after:
            continue  # it is deleted again
        if before is None or _MASKED.search(str(before)):
            lost.append(f"{name}: PVE does not show what it was before")
    return tuple(lost)


def _renamed_back(facts: Facts, new: str) -> Recipe:
    name = _LAST.findall(facts.template)
    if not name:
        return never("it was renamed in a way that is not known here")
    old = str(facts.before.get(name[0]) or facts.text(name[0]))
    path = f"{facts.path.rpartition('/')[0]}/{new}"
    back = {n: v for n, v in facts.before.items() if n in ("cidr", "comment")}
    return Recipe((Request("PUT", path, {**back, "rename": old}),))


def _unmade(facts: Facts) -> Recipe:
    child = _child(facts.description, facts.template)
    if not facts.after or facts.before or child is None:
        return never("it was there before")
    name = _LAST.findall(child)[0]
    path = facts.path if child == facts.template else f"{facts.path}/{facts.params[name]}"
    return Recipe((Request("DELETE", path),))


def _unnamed(facts: Facts) -> Recipe:
    made = [name for name in facts.after if name not in facts.before]
    if len(made) != 1:
        return never("which one was made could not be told")
    return Recipe((Request("DELETE", f"{facts.path}/{made[0]}"),), keys=(made[0],))


def _remade(facts: Facts) -> Recipe:
    parent = _parent(facts.description, facts.template)
    if parent is None or not facts.before or facts.after:
        return never("it is not gone, or was not there")
    name = _LAST.findall(facts.template)[0]
    accepted = {p.name for p in parent.parameters} - _CONTROL
    placed = set(_PLACED.findall(parent.path))
    kept = {n: v for n, v in facts.before.items() if n in accepted - placed}
    lost = [f"{n}: PVE does not show it" for n, v in kept.items() if _MASKED.fullmatch(str(v))]
    kept = {n: v for n, v in kept.items() if not _MASKED.fullmatch(str(v))}
    path = facts.path
    if name not in placed:
        kept.setdefault(name, facts.params[name])
        path = path.rpartition("/")[0]
    secret = sorted(n for n in accepted - set(kept) if _SECRET.search(n.lower()))
    if secret:
        lost.append(f"PVE shows no secrets ({', '.join(secret)}), if there were any")
    return Recipe((Request("POST", path, kept),), tuple(lost))


def _child(description: Description, template: str) -> str | None:
    """Return the template of the item that a POST makes: below it, or itself (a metric server)."""
    method = description.method("POST", template)
    for parameter in method.parameters if method else ():
        child = f"{template}/{{{parameter.name}}}"
        if description.method("GET", child) and description.method("DELETE", child):
            return child
    itself = _LAST.search(template) and description.method("DELETE", template)
    return template if itself else None


def _parent(description: Description, template: str) -> Method | None:
    """Return the method that makes an item: of its collection, or of the item itself."""
    found = _LAST.search(template)
    if found is None:
        return None
    method = description.method("POST", template[: found.start()])
    named = method is not None and any(p.name == found[1] for p in method.parameters)
    return method if named else description.method("POST", template)


def _kind(template: str) -> str:
    words = [each for each in template.split("/") if each and not each.startswith("{")]
    if "firewall" in words:
        return "firewall"
    return {"storage": "storage", "pools": "pool"}.get(words[-1], " ".join(words[-2:]))


def _id(values: Mapping[str, Any], template: str) -> str:
    if "vmid" in values:
        return f"{'lxc' if '/lxc/' in template else 'qemu'}/{values['vmid']}"
    return "/".join(str(value) for value in values.values()) or template.strip("/")
