"""One request to PVE, ready to be sent: matched, validated, rated, encoded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from pvemcp.call import Effect
from pvemcp.errors import Denied, Invalid
from pvemcp.pve.description import Description
from pvemcp.pve.effects import effect_of, forbidden, unavailable
from pvemcp.pve.schema import Method
from pvemcp.pve.validate import validate

LARGEST_BODY = 512 * 1024
"""Bytes: pveproxy's limit since PVE 8.4."""
LARGEST_QUERY = 6000
"""Characters: pveproxy takes 8 KiB of headers in all."""

_PLACEHOLDER = re.compile(r"\{([^{}/]+)\}")
_SLOW = re.compile(r"/agent/|/agent$|/scan/|/content$|/file-restore/|/apt/|/report$")
"""Methods that keep one of a node's three single-threaded workers busy for seconds."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What will be sent. `path` is for people and the policy, `target` for the wire.

    Query and body may hold secrets, so they stay out of its repr.
    """

    method: Method
    path: str
    target: str = field(repr=False)
    effect: Effect
    body: bytes | None = field(default=None, repr=False)
    content_type: str = ""
    node: str = ""
    lane: tuple[str, int] = ("", 1)
    checked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """All parameters as PVE wants them, those of the path too."""

    @property
    def verb(self) -> str:
        """GET, POST, PUT or DELETE."""
        return self.method.verb


def prepare(
    description: Description, verb: str, path: str, *, params: Mapping[str, Any]
) -> Prepared:
    """Match, validate, rate and encode one call.

    `{name}` in the path is filled from the parameters. Raises Invalid for what is wrong, Denied for
    what no client may use.
    """
    rest = dict(params)
    match = description.match(verb.upper(), fill(path, rest))
    method = match.method
    _refuse_forbidden(method)
    clean = validate(method, _merged(match.values, rest))
    checked = dict(clean)
    if reason := unavailable(method.verb, method.path, clean):
        raise Invalid(f"{method.verb} {method.path} does not work here: {reason}")
    plain = method.path
    target = "/api2/json" + method.path
    for name in match.values:
        value = str(clean.pop(name))
        plain = plain.replace(f"{{{name}}}", value, 1)
        target = target.replace(f"{{{name}}}", quote(value, safe=":@!"), 1)
    query, body, content_type = _encoded(method.verb, clean)
    node = match.values.get("node", "")
    if node == "localhost":  # pveproxy's own alias: rules and audit would not know the node
        raise Invalid(
            "localhost is no node's name", hint="inventory_find(kind='nodes') names them."
        )
    return Prepared(
        method=method,
        path=plain,
        target=f"{target}?{query}" if query else target,
        effect=effect_of(method.verb, method.path, checked),
        body=body,
        content_type=content_type,
        node=node,
        lane=(f"{node} slow", 4) if _SLOW.search(method.path) else (node, 1),
        checked=checked,
    )


def fill(path: str, params: dict[str, Any]) -> str:
    """Fill `{name}` in a path from the parameters, which lose what was used."""
    if "{" not in path:
        return path
    used = set(_PLACEHOLDER.findall(path))
    absent = [name for name in used if not _usable(params.get(name))]
    if absent:
        raise Invalid(
            f"the path needs a value for {', '.join(sorted(absent))[:200]}",
            hint="Write the value into the path, or give it as a parameter of that name.",
        )
    try:
        values = {name: quote(str(params.pop(name)), safe="") for name in used}
    except (ValueError, UnicodeError):
        raise Invalid("a value of the path is not a usable text") from None
    return _PLACEHOLDER.sub(lambda found: values[found[1]], path)


def _usable(value: Any) -> bool:
    """An empty value would turn the path into that of another method."""
    return value != "" and isinstance(value, (str, int)) and not isinstance(value, bool)


def _refuse_forbidden(method: Method) -> None:
    if reason := forbidden(method.verb, method.path):
        raise Denied(
            f"{method.verb} {method.path} is closed to every client of this service",
            hint=f"Because {reason}.",
        )
    if not method.allow_token:
        raise Denied(
            f"PVE refuses API tokens for {method.verb} {method.path}",
            hint="A person can do it in PVE's web interface.",
        )


def _merged(values: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
    twice = {
        name: f"is {values[name]!r} in the path, and something else as a parameter"
        for name, value in params.items()
        if name in values and value is not None and str(value)[:2000] != values[name]
    }
    if twice:
        raise Invalid("a parameter contradicts the path", detail=twice)
    return {**params, **values}


def _encoded(verb: str, params: Mapping[str, Any]) -> tuple[str, bytes | None, str]:
    """Return query, body and content type: JSON only where a form cannot say it."""
    if not params:
        return "", None, ""
    if verb in {"GET", "DELETE"}:
        query = urlencode(params, doseq=True, quote_via=quote)
        _refuse_size(len(query), LARGEST_QUERY)
        return query, None, ""
    if any(isinstance(value, (list, dict)) for value in params.values()):
        body, content_type = json.dumps(params).encode(), "application/json"
    else:
        form = urlencode(params, quote_via=quote)
        body, content_type = form.encode(), "application/x-www-form-urlencoded"
    _refuse_size(len(body), LARGEST_BODY)
    return "", body, content_type


def _refuse_size(size: int, limit: int) -> None:
    if size > limit:
        raise Invalid(f"the parameters take {size} bytes; PVE accepts {limit}")
