"""Finding a method of the PVE API, and describing it as a person would want to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from pvemcp.errors import Invalid
from pvemcp.pve.client import Pve
from pvemcp.pve.description import Description
from pvemcp.pve.effects import effect_of, forbidden, unavailable, worst_effect
from pvemcp.pve.schema import Method, Parameter
from pvemcp.tools.render import to_json, within_budget
from pvemcp.tools.tool import tool

Verb = Literal["GET", "POST", "PUT", "DELETE"]
VERBS: tuple[Verb, ...] = ("GET", "POST", "PUT", "DELETE")


@tool(always=True)
async def api_search(pve: Pve, query: str, limit: Annotated[int, Field(ge=1, le=50)] = 12) -> str:
    """Find PVE API methods by words of path, parameters or purpose."""
    description = await pve.description()
    found = description.search(query, limit)
    if not found:
        raise Invalid(f"no method matches {query!r}", hint="Try fewer or more general words.")
    lines = [
        f"{m.verb} {m.path}  {_purpose(m)} [{_effect(m)}; {_short(privileges(m), 60)}]"
        for m in found
    ]
    return "\n".join([*lines, "Details: api_describe(path, method)."])


@tool()
async def api_describe(pve: Pve, path: str, method: Verb | None = None) -> str:
    """Describe the PVE API methods of a path: effect, privileges, parameters, result."""
    description = await pve.description()
    if method is not None:
        return _described(description.match(method, path).method)
    found, *others = _methods(description, path)
    also = [f"{m.verb}: {_purpose(m)} [{_effect(m)}]" for m in others]
    return "\n".join([_described(found), *(["also here:", *also] if also else [])])


def _methods(description: Description, path: str) -> list[Method]:
    """Return all methods of a path, what reads first. Raises Invalid for a path without any."""
    found = []
    for verb in VERBS:
        try:
            found.append(description.match(verb, path).method)
        except Invalid as fault:
            wrong = fault
    if not found:
        raise wrong
    return found


def _described(found: Method) -> str:
    lines = [f"{found.verb} {found.path}", found.description.strip(), f"effect: {_effect(found)}"]
    reason = forbidden(found.verb, found.path) or unavailable(found.verb, found.path, {})
    if reason:
        lines.append(f"not available through this service: {reason}")
    lines.append(f"needs: {privileges(found)}")
    if not found.allow_token:
        lines.append("PVE refuses API tokens here.")
    lines.append("parameters:" if found.parameters else "parameters: none")
    ordered = sorted(found.parameters, key=lambda p: (p.optional, p.name))
    lines += [f"  {_parameter(p)}" for p in ordered]
    lines.append(f"returns: {_returns(found.returns)}")
    return within_budget("\n".join(lines), rest="the parameters above come first by need")


def _purpose(method: Method) -> str:
    return _short(method.description.strip().split("\n", 1)[0], 100)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _effect(method: Method) -> str:
    if forbidden(method.verb, method.path):
        return "forbidden"
    usual, worst = effect_of(method.verb, method.path, {}), worst_effect(method.verb, method.path)
    return str(usual) if usual == worst else f"{usual}, with some parameters {worst}"


def privileges(method: Method) -> str:
    """Write which privileges a method needs, from PVE's permission tree."""
    if method.permissions is None:
        return "root@pam only, no API token"
    match method.permissions:
        case {"check": check}:
            return _check(check)
        case {"user": "world"}:
            return "nothing"
        case {"user": _}:
            return "any user; PVE checks or filters inside"
        case _:
            return str(method.permissions.get("description") or "see PVE's documentation")


def _check(check: Any) -> str:
    match check:
        case ["and" | "or" as word, *parts]:
            return f" {word} ".join(f"({_check(part)})" for part in parts)
        case ["perm", path, [*names], *options]:
            either = " or " if "any" in options else ", "
            return f"{either.join(map(str, names)) or 'access'} on {path}"
        case ["userid-group", [*names], *_]:
            return f"{', '.join(map(str, names))} on the user's group"
        case ["userid-param", "self"]:
            return "the user itself"
        case ["userid-param", name]:
            return f"{name} on the user's realm"
        case ["perm-modify", path]:
            return f"Permissions.Modify on {path}"
        case _:
            return to_json(check)


def _parameter(p: Parameter) -> str:
    parts = [p.typetext or _type(p)]
    if p.default is not None:
        parts.append(f"default {p.default}")
    if p.requires:
        parts.append(f"with {p.requires}")
    need = "" if p.optional else " (required)"
    about = _short(" ".join(p.description.split()), 200)
    return f"{p.name}{need}: {', '.join(parts)}. {about}".rstrip()


def _type(p: Parameter) -> str:
    if p.enum:
        return " | ".join(map(str, p.enum))
    text = p.type
    if p.minimum is not None or p.maximum is not None:
        text += f" {_bound(p.minimum)}..{_bound(p.maximum)}"
    if isinstance(p.format, Mapping):
        text += f" of keys {', '.join(p.format)}"
    elif p.format:
        text += f" ({p.format})"
    return text


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _returns(returns: Mapping[str, Any]) -> str:
    match returns.get("type"):
        case None | "null":
            return "nothing"
        case "array":
            items = returns.get("items") or {}
            names = ", ".join(items.get("properties") or ())
            return f"a list of {items.get('type', 'values')}" + (f" with {names}" if names else "")
        case "object":
            names = ", ".join(returns.get("properties") or ())
            return "an object" + (f" with {names}" if names else "")
        case kind:
            return str(kind)
