"""The fixtures of the official conformance suite, put on the product's own MCP server.

The suite calls tools, resources and prompts by names that it prescribes (`test_simple_text`,
`test://static-text` ...). They are registered on the server that `pvemcp.server.build` returns, so
that the suite exercises the product's transport, door and handlers; every name that is not a
fixture's goes on to the product.
"""

from __future__ import annotations

from typing import Any, cast

from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import (
    ListenHandler,
    PromptsListChanged,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types import CallToolRequestParams, PaginatedRequestParams

from pvemcp.opening import Context
from tests.conformance import library, rounds, talking
from tests.conformance.fixture import (
    Fixture,
    Result,
    Run,
    answers,
    audio,
    complete,
    embedded,
    image,
    text,
)
from tests.conformance.jobs import Jobs

SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
MIRRORED = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}
_JSON = "application/json"

CONTENT = (
    Fixture("test_simple_text", answers([text("Some text.")])),
    Fixture("test_image_content", answers([image()])),
    Fixture("test_audio_content", answers([audio()])),
    Fixture("test_embedded_resource", answers([embedded("test://embedded", "A resource.")])),
    Fixture(
        "test_multiple_content_types",
        answers([text("Several:"), image(), embedded("test://mixed", '{"a": 1}', mime=_JSON)]),
    ),
    Fixture("test_error_handling", answers([text("This tool fails on purpose.")], error=True)),
    Fixture("json_schema_2020_12_tool", answers([text("Valid.")]), SCHEMA_2020_12),
    Fixture("test_mirrored_parameter", answers([text("Mirrored.")]), MIRRORED),
)


def install(server: Server[Any]) -> None:
    """Register every fixture on the product's server."""
    jobs = Jobs()
    triggers = (
        Fixture("test_trigger_tool_change", _publishes(server, ToolsListChanged())),
        Fixture("test_trigger_prompt_change", _publishes(server, PromptsListChanged())),
    )
    tools = (*CONTENT, *talking.TOOLS, *rounds.TOOLS, *jobs.tools(), *triggers)
    _add_tools(server, {tool.name: tool for tool in tools})
    jobs.install(server)
    library.install(server)
    if not any(isinstance(each, RequestStateBoundary) for each in server.middleware):
        sealed = RequestStateSecurity.ephemeral()
        server.middleware.append(RequestStateBoundary(sealed, default_audience=server.name))


def _add_tools(server: Server[Any], fixtures: dict[str, Fixture]) -> None:
    listed = server.get_request_handler("tools/list")
    called = server.get_request_handler("tools/call")
    schema_of = server.get_tool_input_schema
    assert listed is not None
    assert called is not None
    assert schema_of is not None

    async def list_tools(ctx: Context, params: PaginatedRequestParams) -> Any:
        product = cast("dict[str, Any]", await listed.handler(ctx, params))
        return {**product, "tools": [*product["tools"], *(f.entry() for f in fixtures.values())]}

    async def call_tool(ctx: Context, params: CallToolRequestParams) -> Any:
        if fixture := fixtures.get(params.name):
            return complete(await fixture.run(ctx, params))
        return await called.handler(ctx, params)

    server.get_tool_input_schema = lambda name: (
        fixtures[name].schema if name in fixtures else schema_of(name)
    )
    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)


def _publishes(server: Server[Any], event: ServerEvent) -> Run:
    """Return a tool body that tells the product's open streams of a change."""
    entry = server.get_request_handler("subscriptions/listen")
    assert entry is not None
    listen = cast("ListenHandler", entry.handler)

    async def run(_: Context, __: CallToolRequestParams) -> Result:
        await listen._bus.publish(event)  # its only publisher so far is this one
        return {"content": [text("Announced.")]}

    return run
