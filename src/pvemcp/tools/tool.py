"""The @tool decorator: schema, hints, policy and documentation of a tool from one declaration."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from pvemcp.access.elevation import Raising
from pvemcp.audit import Audit
from pvemcp.call import Effect
from pvemcp.errors import Invalid
from pvemcp.host.runner import Host
from pvemcp.journal.changes import Changes
from pvemcp.pve.client import Pve
from pvemcp.pve.nearest import nearest_hint

GIVEN = (Pve, Host, Changes, Raising, Audit)
"""Types of the parameters that the server gives a tool: PVE and the host, for the call's caller,
the journal of changes, and what raises the caller's ceiling."""

Format = Literal["text", "json"]
"""How a result is written: a compact text for a model, or JSON for a script."""

Where = Annotated[
    list[str] | str | None,
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    Field(description="all of: 'status=stopped', 'tags=web', 'name~db*', 'mem>80%'"),
]
"""Conditions on rows (see conditions.py); one alone may be a bare text."""


def conditions(where: list[str] | str | None) -> list[str]:
    """Return conditions as a list, however they were given."""
    return [where] if isinstance(where, str) else where or []


ON_NODES = ("Sys.Audit", "Sys.Modify")
"""What commands on a node need there: the first to read, the second to change."""
COMMON: Mapping[str, Any] = {
    "dry_run": (Annotated[bool, Field(description="only show the plan")], False),
    "approval": (Annotated[str, Field(description="id of the approved plan")], ""),
}
"""Arguments of every tool that may write; the server takes them, not the tool."""
_KEPT = ("type", "enum", "items", "description")
"""What of a JSON schema is worth its tokens: bounds are checked, and told when they are broken."""


@dataclass(frozen=True, slots=True)
class Started:
    """A tool's answer when a PVE task goes on and the client follows it as an MCP task."""

    upid: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as declared: `run` answers with text or a Started task."""

    name: str
    description: str
    run: Callable[..., Awaitable[str | Started]]
    needs: Mapping[str, type]
    """Which parameters are not arguments: they are given what `GIVEN` names."""
    effect: Effect
    """The least effect with which the tool is of use; below it, it is not listed."""
    reach: Effect
    """The strongest effect that it can have; the destructive hint comes from it."""
    privileges: tuple[str, ...]
    """Privileges of which the caller's PVE token must hold one, anywhere; empty: none."""
    always: bool
    """Clients that defer tools load this one at once."""
    arguments: type[BaseModel]
    schema: Mapping[str, Any]

    def parse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return validated arguments. Raises Invalid that names every wrong one."""
        try:
            parsed = self.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            raise self._invalid(error) from None
        return {name: getattr(parsed, name) for name in type(parsed).model_fields}

    def _invalid(self, error: ValidationError) -> Invalid:
        known = list(self.arguments.model_fields)
        found: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(problem["loc"][0]) if problem["loc"] else self.name
            said = found.setdefault(name[:80], [])
            text = _explain(name, problem["type"], problem["msg"], known)
            if text not in said:  # a parameter of several types complains once for each
                said.append(text)
        detail = {name: " or ".join(said[:3]) for name, said in list(found.items())[:10]}
        usage = ", ".join(known) or "none"
        return Invalid(
            f"{self.name}: wrong arguments",
            detail=detail,
            hint=f"Arguments of {self.name}: {usage}.",
        )


def _explain(name: str, kind: str, message: str, known: list[str]) -> str:
    if kind == "missing":
        return "is required"
    if kind != "extra_forbidden":
        return message[0].lower() + message[1:]
    return f"unknown argument{nearest_hint(name, known)}"


def tool(
    *,
    effect: Effect = Effect.READ,
    reach: Effect | None = None,
    privileges: tuple[str, ...] = (),
    always: bool = False,
) -> Callable[[Callable[..., Awaitable[str | Started]]], Tool]:
    """Declare a tool from a typed coroutine function.

    Parameters of the types in `GIVEN` are given by the server, the others are arguments. The
    docstring is the description that the model reads. A parameter's `Annotated[..., Field]`
    gives its own description and bounds. Unknown names and coerced values are refused.
    """

    def declare(run: Callable[..., Awaitable[str | Started]]) -> Tool:
        parameters = inspect.signature(run, eval_str=True).parameters.values()
        needs = {p.name: p.annotation for p in parameters if p.annotation in GIVEN}
        fields: dict[str, Any] = {
            p.name: (p.annotation, ... if p.default is p.empty else p.default)
            for p in parameters
            if p.name not in needs
        }
        if (reach or effect) > Effect.READ:
            fields |= COMMON
        config = ConfigDict(extra="forbid", strict=True)
        model = create_model(run.__name__, __config__=config, **fields)
        return Tool(
            name=run.__name__,
            description=" ".join(inspect.getdoc(run).split()),  # type: ignore[union-attr]
            run=run,
            needs=needs,
            effect=effect,
            reach=reach or effect,
            privileges=privileges,
            always=always,
            arguments=model,
            schema=_schema(model),
        )

    return declare


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    full = model.model_json_schema()
    result: dict[str, Any] = {
        "type": "object",
        "properties": {name: _compact(p) for name, p in full.get("properties", {}).items()},
    }
    if required := full.get("required"):
        result["required"] = required
    result["additionalProperties"] = False
    return result


def _compact(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a caller needs of a parameter: every token is paid in every session."""
    if options := declared.get("anyOf"):
        merged = [_compact(option) for option in options if option != {"type": "null"}]
        # Not a list in `type`: some model providers take only one type there.
        kept: dict[str, Any] = merged[0] if len(merged) == 1 else {"anyOf": merged}
    else:
        kept = {key: declared[key] for key in _KEPT if key in declared}
        if "items" in kept:
            kept["items"] = _compact(kept["items"])
        if "enum" in kept:
            kept.pop("type", None)
    if "description" in declared:
        kept["description"] = declared["description"]
    default = declared.get("default")
    if default not in (None, "", [], {}, next(iter(kept.get("enum", ())), None)):
        kept["default"] = default
    return kept
