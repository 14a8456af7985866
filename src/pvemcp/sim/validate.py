"""Parameter checks with the texts that PVE 9.1 answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pvemcp.pve.schema import Method, Parameter
from pvemcp.sim.refusal import rejected

_FAMILY = re.compile(r"^(.*?)(\d+)$")
_DNS = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
)
_NODE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_CONFIG_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]+")
_STORAGE_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]")
_USER_ID = re.compile(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+")
_POOL_ID = re.compile(r"[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}")
_NAME = re.compile(r"[A-Za-z0-9.\-_]+")
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})", re.ASCII)
_TRUTH = frozenset({"1", "on", "yes", "true", "0", "off", "no", "false"})
_LIST = re.compile(r"[,; \0]+")

MISSING = "property is missing and it is not optional"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"


class _Bad(Exception):  # noqa: N818
    """A value that a check refuses; the text is PVE's."""


def split_list(value: str) -> list[str]:
    """Split a value of one of PVE's list formats."""
    return [part for part in _LIST.split(value) if part]


def validated(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters in their own types: booleans as 0/1. Raises the 400 of all errors."""
    declared = {parameter.name: parameter for parameter in method.parameters}
    args: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, value in given.items():
        parameter = find(declared, name)
        if parameter is None:
            if not method.extra_parameters:
                errors[name] = UNKNOWN
            continue
        try:
            args[name] = converted(parameter, value)
        except _Bad as bad:
            errors[name] = str(bad)
    errors |= _missing(declared, given)
    if errors:
        raise rejected(errors)
    return args


def _missing(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, str]:
    errors: dict[str, str] = {}
    for name, parameter in declared.items():
        if not parameter.optional and name not in given:
            errors[name] = MISSING
        if parameter.requires and name in given and parameter.requires not in given:
            errors[parameter.requires] = f"missing property - '{name}' requires this property"
    return errors


def find(declared: Mapping[str, Parameter], name: str) -> Parameter | None:
    """Return the parameter of this name, or the family that it belongs to."""
    if name in declared and not name.endswith("[n]"):
        return declared[name]
    match = _FAMILY.match(name)
    return declared.get(f"{match[1]}[n]") if match else None


def converted(parameter: Parameter, value: Any) -> Any:
    """Return the value in the parameter's type."""
    if parameter.type == "array":
        items = value if isinstance(value, list) else [value]
        return [str(item) for item in items]
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    result = _TYPES[parameter.type](value)
    _check_string(parameter, str(result))
    _check_range(parameter, result)
    return result


def _boolean(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    if str(value) not in {"0", "1"}:
        raise _Bad(f"type check ('boolean') failed - got '{value}'")
    return int(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not _INTEGER.fullmatch(str(value)):
        raise _Bad(f"type check ('integer') failed - got '{value}'")
    return int(value)


def _number(value: Any) -> float | int:
    text = str(value)
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise _Bad(f"type check ('number') failed - got '{value}'")
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def _string(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return str(value)


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "string": _string,
}


def _check_range(parameter: Parameter, value: Any) -> None:
    if not isinstance(value, int | float):
        return
    if parameter.minimum is not None and value < parameter.minimum:
        raise _Bad(f"value must have a minimum value of {parameter.minimum:g}")
    if parameter.maximum is not None and value > parameter.maximum:
        raise _Bad(f"value must have a maximum value of {parameter.maximum:.0f}")


def _check_string(parameter: Parameter, value: str) -> None:
    if isinstance(parameter.format, str):
        _check_format(parameter.format, value)
    elif parameter.format:
        _check_property_string(parameter.format, value)
    if parameter.enum and value not in {str(item) for item in parameter.enum}:
        allowed = ", ".join(str(item) for item in parameter.enum)
        raise _Bad(f"value '{value}' does not have a value in the enumeration '{allowed}'")
    if parameter.type == "string":
        _check_length(parameter, value)
    if parameter.pattern and not re.fullmatch(_python_pattern(parameter.pattern), value):
        raise _Bad("value does not match the regex pattern")


def _python_pattern(pattern: str) -> str:
    return re.sub(r"\(\?\^(\w*):", r"(?\1:", pattern)


def _check_length(parameter: Parameter, value: str) -> None:
    if parameter.max_length is not None and len(value) > parameter.max_length:
        raise _Bad(f"value may only be {parameter.max_length} characters long")
    if parameter.min_length is not None and len(value) < parameter.min_length:
        raise _Bad(f"value must be at least {parameter.min_length} characters long")


def _check_property_string(keys: Mapping[str, Any], value: str) -> None:
    default = next((name for name, key in keys.items() if key.get("default_key")), None)
    aliases = {name for key in keys.values() if (name := key.get("alias") or key.get("keyAlias"))}
    for part in filter(None, value.split(",")):
        name, equals, text = part.partition("=")
        if not equals:
            if default is None:
                raise _Bad(
                    "invalid format - value without key, but schema does not define a default key\n"
                )
            name, text = default, part
        elif name not in keys and name not in aliases:
            raise _Bad(f"invalid format - format error\n{name}: {UNKNOWN}\n")
        _check_property(name, keys.get(name, {}), text)


def _check_property(name: str, key: Mapping[str, Any], text: str) -> None:
    try:
        match key.get("type"):
            case "boolean" if text not in _TRUTH:
                raise _Bad(f"type check ('boolean') failed - got '{text}'")
            case "integer":
                _check_range(Parameter(name, minimum=key.get("minimum")), _integer(text))
            case "number":
                _number(text)
    except _Bad as bad:
        raise _Bad(f"invalid format - format error\n{name}: {bad}\n") from None


def _check_format(name: str, value: str) -> None:
    if not name:
        return
    if name.endswith("-list"):
        for item in split_list(value):
            _check_format(name.removesuffix("-list"), item)
        return
    if name in _FORMATS:
        pattern, complaint = _FORMATS[name]
        if not pattern.fullmatch(value):
            raise _Bad(f"invalid format - {complaint.format(value=value)}\n")
    if name == "pve-storage-id" and len(value) < 2:
        raise _Bad(f"invalid format - storage ID '{value}' cannot be shorter than 2 characters\n")


_SDN_ID = re.compile(r"[a-z][a-z0-9]{0,6}[a-z0-9]", re.IGNORECASE)

_FORMATS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "pve-vmid": (re.compile(r"[1-9][0-9]{2,8}"), "value does not look like a valid VM ID"),
    "pve-node": (_NODE, "value does not look like a valid node name"),
    "pve-configid": (_CONFIG_ID, "invalid configuration ID '{value}'"),
    "pve-iface": (
        re.compile(r"[A-Za-z][A-Za-z0-9_]{1,20}(?:[:.]\d+)?"),
        "invalid network interface name '{value}'",
    ),
    "dns-name": (_DNS, "value does not look like a valid DNS name"),
    "pve-storage-id": (
        re.compile(rf"{_STORAGE_ID.pattern}|."),
        "storage ID '{value}' contains illegal characters",
    ),
    "pve-userid": (_USER_ID, "value '{value}' does not look like a valid user name"),
    "pve-poolid": (_POOL_ID, "value '{value}' does not look like a valid pool name"),
    "pve-roleid": (_NAME, "value '{value}' does not look like a valid role name"),
    "pve-groupid": (_NAME, "value '{value}' does not look like a valid group name"),
    "pve-realm": (
        re.compile(r"[A-Za-z][A-Za-z0-9.\-_]+"),
        "value does not look like a valid realm",
    ),
    "pve-sdn-zone-id": (_SDN_ID, "zone ID '{value}' contains illegal characters"),
    "pve-sdn-vnet-id": (_SDN_ID, "vnet ID '{value}' contains illegal characters"),
    "disk-size": (
        re.compile(r"\d+(?:\.\d+)?[KMGT]?"),
        "value does not look like a valid disk size",
    ),
}
