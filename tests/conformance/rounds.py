"""Fixture tools and a prompt that take several rounds: they return questions, not results.

The revision 2026-07-28 has no requests from server to client; a call that needs input returns
`input_required`, and the client calls again with the answers and the sealed state.
"""

from __future__ import annotations

from typing import Any

from mcp_types import InputResponseRequestParams

from pvemcp.opening import Context
from tests.conformance.fixture import Fixture, Params, Result, Run, declares, text


def question(requests: dict[str, Any], *, state: str | None = None) -> Result:
    """Return a result that asks the client for input."""
    asked: Result = {"resultType": "input_required", "inputRequests": requests}
    return asked if state is None else {**asked, "requestState": state}


def elicitation(message: str, name: str, *, kind: str = "string") -> dict[str, Any]:
    """Return a request for a form with one field."""
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    params = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


def sampling(words: str) -> dict[str, Any]:
    """Return a request for a completion by the client's model."""
    messages = [{"role": "user", "content": text(words)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 100}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}


def answered(params: InputResponseRequestParams, *keys: str) -> bool:
    """Return whether the client answered all of these."""
    return set(keys) <= set(params.input_responses or {})


def field_of(params: InputResponseRequestParams, key: str, name: str) -> str:
    """Return one field of an answered form."""
    form = getattr((params.input_responses or {}).get(key), "content", None) or {}
    return str(form.get(name, "") if isinstance(form, dict) else "")


def asks(requests: dict[str, Any], *, state: str | None = None) -> Run:
    """Return a tool body that wants these answers, and the state back if there is one."""

    async def run(_: Context, params: Params) -> Result:
        if not answered(params, *requests) or params.request_state != state:
            return question(requests, state=state)
        said = "state-ok" if state else f"Hello, {params.input_responses}!"
        return {"content": [text(said)]}

    return run


async def _two_rounds(_: Context, params: Params) -> Result:
    match params.request_state:
        case "second" if answered(params, "step2"):
            return {"content": [text(f"Your colour is {field_of(params, 'step2', 'color')}")]}
        case "first" if answered(params, "step1"):
            form = elicitation("Step 2: What is your favorite color?", "color")
            return question({"step2": form}, state="second")
        case _:
            form = elicitation("Step 1: What is your name?", "name")
            return question({"step1": form}, state="first")


async def _only_declared(ctx: Context, _: Params) -> Result:
    possible = {
        "elicitation": elicitation("What is your name?", "name"),
        "sampling": sampling("Say hello"),
    }
    requests = {name: each for name, each in possible.items() if declares(ctx, name)}
    return question(requests) if requests else {"content": [text("The client can do neither")]}


_NAME = elicitation("What is your name?", "name")
_CONFIRM = elicitation("Please confirm", "ok", kind="boolean")
_ALL = {"user_name": _NAME, "greeting": sampling("Generate a greeting"), "client_roots": ROOTS}
_CAPITAL = {"capital_question": sampling("What is the capital of France?")}
_CALLED = "test_input_required_result_"

TOOLS = (
    Fixture(f"{_CALLED}elicitation", asks({"user_name": _NAME})),
    Fixture(f"{_CALLED}sampling", asks(_CAPITAL)),
    Fixture(f"{_CALLED}list_roots", asks({"client_roots": ROOTS})),
    Fixture(f"{_CALLED}request_state", asks({"confirm": _CONFIRM}, state="confirming")),
    Fixture(f"{_CALLED}tampered_state", asks({"confirm": _CONFIRM}, state="confirming")),
    Fixture(f"{_CALLED}multiple_inputs", asks(_ALL, state="gathering")),
    Fixture(f"{_CALLED}multi_round", _two_rounds),
    Fixture(f"{_CALLED}capabilities", _only_declared),
)
