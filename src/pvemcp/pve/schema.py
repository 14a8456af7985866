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
