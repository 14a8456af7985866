"""The API description that the simulator publishes, in the shape of PVE's apidoc.js."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pvemcp.pve.schema import Method, Parameter
from pvemcp.sim.declare import Endpoint

_VIEWER = """
// The viewer of a real host follows here; a reader takes the array alone.
let apiSchemaSource = "pvemcp simulator [not a real host]";
"""


def render(endpoints: Iterable[Endpoint]) -> bytes:
    """Return the script: `const apiSchema = [...]` and some JavaScript after it."""
    tree = json.dumps(_tree(endpoints), indent=1, sort_keys=True)
    return f"const apiSchema = {tree}\n;\n{_VIEWER}".encode()


def _tree(endpoints: Iterable[Endpoint]) -> list[dict[str, Any]]:
    top: list[dict[str, Any]] = []
    nodes: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        method = endpoint.method
        node = _place(top, nodes, method.path)
        if node is not None:
            node.setdefault("info", {})[method.verb] = describe(method)
    return top


def _place(
    top: list[dict[str, Any]], nodes: dict[str, dict[str, Any]], path: str
) -> dict[str, Any] | None:
    """Return the tree node of a path, made with those above it; None for the root."""
    siblings, walked, node = top, "", None
    for part in filter(None, path.split("/")):
        walked += f"/{part}"
        if walked not in nodes:
            if node is not None:
                node["leaf"] = 0
                siblings = node.setdefault("children", [])
            nodes[walked] = {"path": walked, "text": part, "leaf": 1}
            siblings.append(nodes[walked])
        node = nodes[walked]
    return node


def describe(method: Method) -> dict[str, Any]:
    """Return the published form of a method."""
    properties = {parameter.name: _parameter(parameter) for parameter in method.parameters}
    described: dict[str, Any] = {
        "allowtoken": int(method.allow_token),
        "description": method.description,
        "method": method.verb,
        "name": method.name,
        "parameters": {"additionalProperties": int(method.extra_parameters)},
        "returns": dict(method.returns),
    }
    if properties:
        described["parameters"]["properties"] = properties
    if method.permissions is not None:
        described["permissions"] = dict(method.permissions)
    if method.protected:
        described["protected"] = 1
    if method.proxy_to:
        described["proxyto"] = method.proxy_to
    return described


_KEYS = (
    ("default", "default"),
    ("pattern", "pattern"),
    ("format", "format"),
    ("minimum", "minimum"),
    ("maximum", "maximum"),
    ("min_length", "minLength"),
    ("max_length", "maxLength"),
    ("requires", "requires"),
    ("typetext", "typetext"),
    ("items", "items"),
)


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"type": parameter.type}
    if parameter.description:
        described["description"] = parameter.description
    if parameter.optional:
        described["optional"] = 1
    if parameter.enum:
        described["enum"] = list(parameter.enum)
    for attribute, key in _KEYS:
        value = getattr(parameter, attribute)
        if value not in (None, "", {}):
            described[key] = value
    if "typetext" not in described and not parameter.enum and not parameter.pattern:
        described["typetext"] = _typetext(parameter)
    return described


def _typetext(parameter: Parameter) -> str:
    word = f"<{parameter.type}>"
    if parameter.minimum is None and parameter.maximum is None:
        return word
    low = "-N" if parameter.minimum is None else f"{parameter.minimum:.0f}"
    high = "N" if parameter.maximum is None else f"{parameter.maximum:.0f}"
    return f"{word} ({low} - {high})"
