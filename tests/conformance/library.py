"""Fixture resources, prompts and completions, and what only the session era has."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    GetPromptRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

from pvemcp.opening import Context
from pvemcp.server import COMPLETE
from tests.conformance.fixture import PNG, Result, complete, embedded, image, text
from tests.conformance.rounds import answered, elicitation, field_of, question

_TEXT = "test://static-text"
_BINARY = "test://static-binary"
_WATCHED = "test://watched-resource"
_TEMPLATE = re.compile(r"test://template/([^/]+)/data")
_CACHE = {"resultType": COMPLETE, "ttlMs": 1000, "cacheScope": "private"}

RESOURCES = [
    {"uri": uri, "name": uri.removeprefix("test://"), "description": "A fixture", "mimeType": mime}
    for uri, mime in ((_TEXT, "text/plain"), (_BINARY, "image/png"), (_WATCHED, "text/plain"))
]
TEMPLATES = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "A fixture",
        "mimeType": "application/json",
    }
]
PROMPTS = [
    {
        "name": name,
        "description": "A fixture",
        "arguments": [{"name": each, "required": True} for each in arguments],
    }
    for name, arguments in (
        ("test_simple_prompt", ()),
        ("test_prompt_with_arguments", ("arg1", "arg2")),
        ("test_prompt_with_embedded_resource", ("resourceUri",)),
        ("test_prompt_with_image", ()),
        ("test_input_required_result_prompt", ()),
    )
]


def install(server: Server[Any]) -> None:
    """Serve the fixture resources and prompts."""
    lists = (
        ("resources/list", "resources", RESOURCES),
        ("resources/templates/list", "resourceTemplates", TEMPLATES),
        ("prompts/list", "prompts", PROMPTS),
    )
    for method, key, entries in lists:
        server.add_request_handler(method, PaginatedRequestParams, _lists(key, entries))
    server.add_request_handler("resources/read", ReadResourceRequestParams, _read)
    server.add_request_handler("prompts/get", GetPromptRequestParams, _prompt)
    server.add_request_handler("completion/complete", CompleteRequestParams, _complete)
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _acknowledge)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, _acknowledge)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _acknowledge)


def _lists(
    key: str, entries: list[dict[str, Any]]
) -> Callable[[Context, PaginatedRequestParams], Awaitable[Result]]:
    async def serve(_: Context, __: PaginatedRequestParams) -> Result:
        return {key: entries, **_CACHE}

    return serve


async def _read(_: Context, params: ReadResourceRequestParams) -> Result:
    uri = str(params.uri)
    return {"contents": [{"uri": uri, **_content(uri)}], **_CACHE}


def _content(uri: str) -> dict[str, str]:
    if uri == _BINARY:
        return {"mimeType": "image/png", "blob": PNG}
    if uri in {_TEXT, _WATCHED}:
        return {"mimeType": "text/plain", "text": "The text of a fixture resource."}
    if found := _TEMPLATE.fullmatch(uri):
        made = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
        return {"mimeType": "application/json", "text": json.dumps(made)}
    raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})


async def _prompt(_: Context, params: GetPromptRequestParams) -> Result:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            return _messages(text("A simple prompt."))
        case "test_prompt_with_arguments":
            return _messages(text(f"arg1={given.get('arg1')!r}, arg2={given.get('arg2')!r}"))
        case "test_prompt_with_embedded_resource":
            uri = str(given.get("resourceUri", _TEXT))
            return _messages(embedded(uri, "The resource."), text("Look at the resource."))
        case "test_prompt_with_image":
            return _messages(image(), text("Look at the image."))
        case "test_input_required_result_prompt":
            return _asking(params)
    raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}")


def _asking(params: GetPromptRequestParams) -> Result:
    if not answered(params, "user_context"):
        return question({"user_context": elicitation("In which context?", "context")})
    return _messages(text(f"Context: {field_of(params, 'user_context', 'context')}"))


def _messages(*blocks: dict[str, Any]) -> Result:
    return complete({"messages": [{"role": "user", "content": block} for block in blocks]})


async def _complete(_: Context, params: CompleteRequestParams) -> Result:
    typed = params.argument.value
    found = {"values": [f"{typed}-completed"], "total": 1, "hasMore": False}
    return complete({"completion": found})


async def _acknowledge(_: Context, __: RequestParams) -> Result:
    return {}
