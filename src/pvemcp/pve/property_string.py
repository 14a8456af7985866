"""Property strings: PVE's `key=value,key=value` texts inside one parameter.

`virtio=BC:24:11:00:00:01,bridge=vmbr0` is one; a bare first value belongs to the format's default
key, and an alias such as `virtio` stands for two keys (model and macaddr).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.pve.nearest import nearest_hint

Format = Mapping[str, Any]
Check = Callable[[str, Mapping[str, Any], str], str]
"""`(key, schema, value)`: what is wrong with the value of one key, or ""."""

_TRUE = frozenset({"1", "on", "yes", "true"})
_FALSE = frozenset({"0", "off", "no", "false"})


def render(value: Mapping[str, Any]) -> str:
    """Write a mapping as a property string; booleans become 1 and 0, None is left out."""
    parts = (f"{key}={_scalar(item)}" for key, item in value.items() if item is not None)
    return ",".join(parts)


def problem(text: str, form: Format, check: Check) -> str:
    """Say what is wrong with a property string, or ""."""
    values: dict[str, str] = {}
    for part in text.split(","):
        if part.strip() and (found := _take(part, form, values)):
            return found
    for key, value in values.items():
        if found := _value_problem(key, form[key], value, check=check):
            return f"{key}: {found}"
    return _whole_problem(values, form)


def _take(part: str, form: Format, values: dict[str, str]) -> str:
    """Add one part to the values under its real key; return what is wrong with it, or ""."""
    key, separator, value = part.partition("=")
    if not separator:
        key, value = default_key(form), part
        if not key:
            return f"{part[:40]!r} needs a key: use KEY={part[:40]}"
    if key not in form:
        return f"unknown key {key[:40]!r}{nearest_hint(key, form)}; keys: {_keys(form)}"
    if not value:
        return f"key {key} has no value"
    schema = form[key]
    if alias := schema.get("alias"):
        if (of := schema.get("keyAlias")) and _set(values, of, key):
            return f"key {of} is given twice"
        key = alias
    return f"key {key} is given twice" if _set(values, key, value) else ""


def _set(values: dict[str, str], key: str, value: str) -> bool:
    """Set a value and tell whether the key was there before."""
    known = key in values
    values.setdefault(key, value)
    return known


def default_key(form: Format) -> str:
    """Return the key of a bare value, or ""."""
    return next((key for key, schema in form.items() if schema.get("default_key")), "")


def _value_problem(key: str, schema: Mapping[str, Any], value: str, *, check: Check) -> str:
    if schema.get("type") != "boolean":
        return check(key, schema, value)
    return "" if value.lower() in _TRUE | _FALSE else "must be 1 or 0"


def _whole_problem(values: Mapping[str, str], form: Format) -> str:
    for key, schema in form.items():
        if "alias" in schema:
            continue
        if key not in values and not schema.get("optional"):
            return f"key {key} is missing"
        needed = schema.get("requires")
        if key in values and needed and needed not in values:
            return f"key {key} needs key {needed}"
    return ""


def _keys(form: Format) -> str:
    return ", ".join(key for key, schema in form.items() if "alias" not in schema)


def _scalar(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
