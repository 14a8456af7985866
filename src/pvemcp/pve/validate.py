"""Checking a method's parameters before anything is sent, in PVE's own dialect.

What is certainly wrong is refused with the right form beside it; what cannot be known here (whether
a storage exists, a format whose rule PVE does not publish) passes, and PVE decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pvemcp.errors import Invalid
from pvemcp.pve import formats, patterns, property_string
from pvemcp.pve.nearest import nearest_hint
from pvemcp.pve.schema import Method, Parameter, parameter_of

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL_BUT_NUL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BYTES = frozenset({"input-data"})
"""Parameters that are bytes, shown as Latin-1 characters: any byte may be in them."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?"
)
_HUGE = 10**40
_FAMILY = re.compile(r"^(.*?)[0-9]+$", re.DOTALL)
_SECRET = re.compile(r"pass|secret|token|key|ticket|otp|sshkeys", re.IGNORECASE)
_PROPERTIES = frozenset(
    {"prune-backups", "pve-startup-order", "backup-performance", "backup-fleecing"}
    | {f"pve-qm-{name}" for name in ("boot", "hostpci", "ide", "ipconfig", "smbios1", "watchdog")}
)
"""Named formats that are property strings; GET answers with an object for some of them."""
_IGNORED = frozenset({"_dc"})
"""Names that PVE drops from any request (`_dc` is its web interface's cache breaker)."""


class Wrong(ValueError):  # noqa: N818 - as the Fault tree names its errors
    """One value is wrong; the text says what is right."""


def validate(method: Method, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as PVE wants them: booleans 1 or 0, lists joined or real arrays.

    `params` holds the path's parameters too; None means "not given". Raises one Invalid whose
    detail names every parameter that is wrong, unknown or missing.
    """
    known = {parameter.name: parameter for parameter in method.parameters}
    clean: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in params.items():
        if value is None or name in _IGNORED:
            continue
        try:
            clean[name] = _take(method, known, name=name, value=value)
        except Wrong as wrong:
            problems[_short(name)] = str(wrong)
    problems.update(_absent(known.values(), clean, problems))
    if problems:
        raise _refusal(method, problems)
    return clean


def _take(method: Method, known: Mapping[str, Parameter], *, name: str, value: Any) -> Any:
    parameter = known.get(name) or _family(known, name)
    if parameter is not None:
        return _render(parameter, value)
    if not method.extra_parameters and f"{{{name}}}" not in method.path:
        raise Wrong(f"unknown parameter{nearest_hint(name, _choices(name, known))}")
    if isinstance(value, (str, int, float)) and _checked_text(name, name):
        return _checked_text(name, _plain(value))
    raise Wrong("must be a text or a number")


def _family(known: Mapping[str, Parameter], name: str) -> Parameter | None:
    """Find `net[n]` for net0."""
    found = _FAMILY.match(name)
    return known.get(f"{found[1]}[n]") if found else None


def _choices(name: str, known: Mapping[str, Parameter]) -> Iterable[str]:
    digits = name[len(name.rstrip("0123456789")) :] or "0"
    return (other.replace("[n]", digits[:4]) for other in known)


def _absent(
    parameters: Iterable[Parameter], clean: Mapping[str, Any], problems: Mapping[str, str]
) -> dict[str, str]:
    absent = {}
    given = clean.keys() | problems.keys()
    for parameter in parameters:
        if parameter.name not in given:
            if not parameter.optional:
                absent[parameter.name] = f"is missing; {_right(parameter)}"
        elif parameter.requires and parameter.requires not in given:
            absent[parameter.name] = f"needs {parameter.requires} too"
    return absent


def _refusal(method: Method, problems: Mapping[str, str]) -> Invalid:
    place = f"{method.verb} {method.path}"
    names = ", ".join(p.name for p in method.parameters)
    hint = f"Parameters of {place}: {_short(names, 600)}." if names else ""
    unknown = any(text.startswith("unknown") for text in problems.values())
    count = "one parameter is" if len(problems) == 1 else f"{len(problems)} parameters are"
    return Invalid(f"{place}: {count} wrong", hint=hint if unknown else "", detail=problems)


def _render(parameter: Parameter, value: Any) -> Any:
    try:
        match parameter.type:
            case "boolean":
                return _boolean(value)
            case "integer":
                return _integer(parameter, value)
            case "number":
                return _number(parameter, value)
            case "array":
                return _array(parameter, value)
            case "object":
                return value
            case _:
                return _string(parameter, value)
    except Wrong as wrong:
        raise Wrong(f"{wrong}{_got(parameter, value)}") from None


def _boolean(value: Any) -> int:
    if isinstance(value, (bool, int, str)) and str(value) in {"True", "False", "1", "0"}:
        return int(str(value) in {"True", "1"})
    raise Wrong("must be true or false (1 or 0)")


def _integer(parameter: Parameter, value: Any) -> int:
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) and parameter.minimum != 0:  # `enable` of a rule is 0 or 1
        raise Wrong("must be a whole number")
    if not (
        whole or isinstance(value, int) or (isinstance(value, str) and _INTEGER.fullmatch(value))
    ):
        raise Wrong("must be a whole number")
    number = int(value)
    _in_range(parameter, number)
    if abs(number) >= _HUGE:
        raise Wrong("must be a number of reasonable size")
    if isinstance(parameter.format, str):
        _in_format(parameter, str(number))
    return number


def _number(parameter: Parameter, value: Any) -> Any:
    text = isinstance(value, str) and _NUMBER.fullmatch(value)
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE
    if not (text or real) or not math.isfinite(float(value)):
        raise Wrong("must be a number")
    _in_range(parameter, float(value))
    return value


def _in_range(parameter: Parameter, number: float) -> None:
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and number < low) or (high is not None and number > high):
        raise Wrong(f"must be {_range(low, high)}")


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:g}" if low is not None and abs(low) < 10**6 else f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"


def _array(parameter: Parameter, value: Any) -> list[Any]:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    element = parameter_of(parameter.name, parameter.items)
    return [_render(element, item) for item in given]


def _string(parameter: Parameter, value: Any) -> str:
    form = parameter.format
    if isinstance(value, (list, tuple)):
        value = _joined(parameter, value)
    elif isinstance(value, Mapping) and (isinstance(form, Mapping) or form in _PROPERTIES):
        value = property_string.render(value)
    flag = isinstance(value, bool) and not isinstance(form, Mapping)
    if flag or not isinstance(value, (str, int, float)):
        raise Wrong("must be a text")
    text = _plain(value)
    if parameter.name not in _BYTES:
        text = _checked_text(parameter.name, text, nul="\\0" in parameter.pattern)
    _in_lengths(parameter, text)
    _in_enum(parameter, text)
    _in_format(parameter, text)
    _in_pattern(parameter.pattern, text)
    return text


def _joined(parameter: Parameter, value: Iterable[Any]) -> str:
    if not (isinstance(parameter.format, str) and parameter.format.endswith("-list")):
        raise Wrong("must be one text, not a list")
    parts = [_plain(item) for item in value if isinstance(item, (str, int))]
    if any(len(formats.split_list(part)) != 1 for part in parts):
        raise Wrong("has an element that is empty or holds a separator")
    return ",".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, (int, float)) and not abs(value) < _HUGE:
        raise Wrong("must be a number of reasonable size")
    return str(int(value)) if isinstance(value, bool) else str(value)


def _checked_text(name: str, text: str, *, nul: bool = False) -> str:
    if (_CONTROL_BUT_NUL if nul else _CONTROL).search(text):
        raise Wrong(f"{_short(name)!r} holds a control character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Wrong(f"{_short(name)!r} is not valid Unicode") from None
    return text


def _in_lengths(parameter: Parameter, text: str) -> None:
    low, high = parameter.min_length, parameter.max_length
    if (low is not None and len(text) < low) or (high is not None and len(text) > high):
        raise Wrong(f"must be {_range(low, high)} characters long, and is {len(text)}")


def _in_enum(parameter: Parameter, text: str) -> None:
    if parameter.enum and text not in {str(item) for item in parameter.enum}:
        raise Wrong(f"must be one of {_short(', '.join(map(str, parameter.enum)), 400)}")


def _in_format(parameter: Parameter, text: str) -> None:
    form = parameter.format
    if isinstance(form, Mapping):
        found = property_string.problem(text, form, _subvalue_problem)
    else:
        found = formats.problem(form, text) if form else ""
    if found:
        raise Wrong(found)


def _in_pattern(pattern: str, text: str) -> None:
    if pattern and patterns.matches(pattern, text) is False:
        raise Wrong(f"must match {_short(pattern, 120)}")


def _subvalue_problem(key: str, schema: Mapping[str, Any], value: str) -> str:
    try:
        _render(parameter_of(key, schema), value)
    except Wrong as wrong:
        return str(wrong)
    return ""


def _got(parameter: Parameter, value: Any) -> str:
    if isinstance(value, (list, tuple, Mapping)) or _SECRET.search(parameter.name):
        return ""
    if isinstance(parameter.format, Mapping):
        return f"; form: {_short(parameter.typetext, 300)}" if parameter.typetext else ""
    if isinstance(value, int) and abs(value) >= _HUGE:
        return ""
    return f", not {_short(str(value))!r}"


def _right(parameter: Parameter) -> str:
    """Say in a few words what a parameter wants."""
    if parameter.enum:
        kind = f"one of {', '.join(map(str, parameter.enum))}"
    else:
        kind = parameter.typetext or parameter.type
    purpose = parameter.description.split("\n", 1)[0].partition(". ")[0].rstrip(".")
    return f"{_short(kind, 200)}: {_short(purpose, 120)}" if purpose else _short(kind, 200)


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
