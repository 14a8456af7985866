"""The PVE API description: the value types that describe a method.

The simulator declares its endpoints with these same types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method, in PVE's JSON schema dialect.

    `name` may end in `[n]`: a family such as net0, net1, …. `format` is PVE's name of a format or,
    for a property string, a mapping of its keys.
    """

    name: str
    type: str = "string"
    """string, integer, number, boolean, array or object."""
    optional: bool = False
    description: str = ""
    default: Any = None
    enum: tuple[Any, ...] = ()
    pattern: str = ""
    format: str | Mapping[str, Any] = ""
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    requires: str = ""
    """Name of another parameter that must be given too."""
    typetext: str = ""
    items: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API: a path template such as `/nodes/{node}/qemu` and an HTTP verb."""

    path: str
    verb: str
    """GET, POST, PUT or DELETE."""
    name: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    extra_parameters: bool = False
    """Names outside `parameters` are accepted (additionalProperties)."""
    permissions: Mapping[str, Any] | None = None
    """PVE's permission tree as published; None means root@pam only."""
    protected: bool = False
    """Runs in pvedaemon (as root), not in pveproxy."""
    proxy_to: str = ""
    """Name of the path parameter that names the node which answers."""
    allow_token: bool = True
    returns: Mapping[str, Any] = field(default_factory=dict)


def parameter_of(name: str, schema: Mapping[str, Any]) -> Parameter:
    """Read one parameter from PVE's JSON schema of it."""
    return Parameter(
        name=name,
        type=schema.get("type") or "string",
        optional=bool(schema.get("optional")),
        description=schema.get("description") or "",
        default=schema.get("default"),
        enum=tuple(schema.get("enum") or ()),
        pattern=schema.get("pattern") or "",
        format=schema.get("format") or "",
        minimum=_bound(schema.get("minimum")),
        maximum=_bound(schema.get("maximum")),
        min_length=schema.get("minLength"),
        max_length=schema.get("maxLength"),
        requires=schema.get("requires") or "",
        typetext=schema.get("typetext") or "",
        items=schema.get("items") or {},
    )


def _bound(value: Any) -> float | None:
    """Read a bound: PVE 9.1 publishes some as texts (`"minimum":"0"` of bandwidth limits)."""
    if not isinstance(value, str):
        return value if isinstance(value, (int, float)) else None
    try:
        return float(value)
    except ValueError:
        return None


def method_of(path: str, verb: str, schema: Mapping[str, Any]) -> Method:
    """Read one method from PVE's description of it, as it stands under `info` and a verb."""
    given = schema.get("parameters") or {}
    proxy_to = schema.get("proxyto")
    return Method(
        path=path,
        verb=verb,
        name=schema.get("name") or "",
        description=schema.get("description") or "",
        parameters=tuple(parameter_of(name, about) for name, about in _properties(given).items()),
        extra_parameters=_extra(given),
        permissions=schema.get("permissions"),
        protected=bool(schema.get("protected")),
        proxy_to=proxy_to if isinstance(proxy_to, str) else "",
        allow_token=bool(schema.get("allowtoken", 1)),
        returns=schema.get("returns") or {},
    )


def _properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of all parameters, by name.

    PVE 9.2 composes some methods, such as those of HA rules: `allOf` parts, of which one is `oneOf`
    kinds, told apart by a parameter. What not all kinds demand is optional here.
    """
    found = dict(given.get("properties") or {})
    for part in given.get("allOf") or ():
        found |= _properties(part)
    kinds = [_properties(kind) for kind in given.get("oneOf") or ()]
    if kinds and (name := given.get("type-property")):
        found[name] = given.get("type-property-schema") or {}
    for name, about in ((name, about) for kind in kinds for name, about in kind.items()):
        demanded = all(name in kind and not kind[name].get("optional") for kind in kinds)
        found.setdefault(name, about if demanded else {**about, "optional": 1})
    return found


def _extra(given: Mapping[str, Any]) -> bool:
    """Whether names that are not described are taken."""
    parts = [*(given.get("allOf") or ()), *(given.get("oneOf") or ())]
    return any(map(_extra, parts)) if parts else bool(given.get("additionalProperties", 1))
