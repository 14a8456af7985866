"""An API description of the size that a real host publishes, made from the simulator's."""

from __future__ import annotations

import json
from typing import Any

from pvemcp.sim.apidoc import render
from pvemcp.sim.catalogue import ENDPOINTS

METHODS = 649
"""As many as PVE 9.1 has."""
METHOD_BYTES = 1817
"""Mean size of one method there, as compact JSON."""
_PARAMETERS = 5


def apidoc() -> bytes:
    """Return the simulator's `apidoc.js`, filled up with made-up methods to METHODS."""
    text = render(ENDPOINTS).decode()
    tree, _ = json.JSONDecoder().raw_decode(text, text.index("["))
    tree += [
        _made_up(number)
        for number in range(METHODS - sum(endpoint.method.path != "/" for endpoint in ENDPOINTS))
    ]
    return f"const apiSchema = {json.dumps(tree, indent=1)}\n;\n".encode()


def _made_up(number: int) -> dict[str, Any]:
    words = f"Made up for the benchmark, number {number}. "
    size = METHOD_BYTES // (_PARAMETERS + 2)
    text = (words * size)[: size - 60]
    parameter = {"type": "string", "optional": 1, "description": text, "typetext": "<string>"}
    method = {
        "allowtoken": 1,
        "description": text,
        "method": "GET",
        "name": f"bench{number}",
        "parameters": {
            "additionalProperties": 0,
            "properties": {f"option{n}": parameter for n in range(_PARAMETERS)},
        },
        "permissions": {"check": ["perm", "/", ["Sys.Audit"]]},
        "returns": {"type": "object"},
    }
    path = f"bench{number}"
    return {"path": f"/{path}", "text": path, "leaf": 1, "info": {"GET": method}}
