"""Fixture tools that talk with the client while they run: progress, logs, sampling, forms."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    LoggingLevel,
    SamplingMessage,
    TextContent,
)

from pvemcp.opening import Context
from tests.conformance.fixture import Fixture, Params, Result, declares, text
from tests.conformance.rounds import elicitation, question

PAUSE = 0.05
"""Seconds between two notifications, as the suite asks for."""

DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
_PLAIN = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": _PLAIN},
    "titledSingle": {"type": "string", "oneOf": _TITLED},
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _PLAIN}},
    "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}},
}
PERSON = {
    "username": {"type": "string", "description": "The person's answer"},
    "email": {"type": "string", "description": "The person's email address"},
}


async def _progress(ctx: Context, _: Params) -> Result:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100)
        await asyncio.sleep(PAUSE)
    return {"content": [text("Three steps done")]}


async def _logging(ctx: Context, _: Params) -> Result:
    for step in ("started", "processing data", "completed"):
        await _log(ctx, "info", f"Tool execution: {step}")
        await asyncio.sleep(PAUSE)
    return {"content": [text("Three messages logged")]}


async def _log(ctx: Context, level: LoggingLevel, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await ctx.session.send_log_message(level, words, related_request_id=ctx.request_id)


async def _sampling(ctx: Context, params: Params) -> Result:
    prompt = str((params.arguments or {}).get("prompt", ""))
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        said = await ctx.session.create_message(
            [message], max_tokens=100, related_request_id=ctx.request_id
        )
    return {"content": [text(f"LLM response: {said.content}")]}


async def _form(ctx: Context, message: str, fields: dict[str, Any]) -> Result:
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    answer = await ctx.session.elicit_form(message, schema, ctx.request_id)
    said = f"Elicitation completed: action={answer.action}, content={answer.content}"
    return {"content": [text(said)]}


async def _elicitation(ctx: Context, params: Params) -> Result:
    return await _form(ctx, str((params.arguments or {}).get("message", "")), PERSON)


async def _defaults(ctx: Context, _: Params) -> Result:
    return await _form(ctx, "Every field has a default", DEFAULTS)


async def _enums(ctx: Context, _: Params) -> Result:
    return await _form(ctx, "Choose", ENUMS)


async def _needs_sampling(ctx: Context, _: Params) -> Result:
    if not declares(ctx, "sampling"):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "Missing required client capability",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return {"content": [text("The client can sample")]}


async def _asks(_: Context, __: Params) -> Result:
    return question({"user_name": elicitation("What is your name?", "name")})


def _with(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


TOOLS = (
    Fixture("test_tool_with_progress", _progress),
    Fixture("test_tool_with_logging", _logging),
    Fixture("test_logging_tool", _logging),
    Fixture("test_sampling", _sampling, _with("prompt")),
    Fixture("test_elicitation", _elicitation, _with("message")),
    Fixture("test_elicitation_sep1034_defaults", _defaults),
    Fixture("test_elicitation_sep1330_enums", _enums),
    Fixture("test_missing_capability", _needs_sampling),
    Fixture("test_streaming_elicitation", _asks),
)
