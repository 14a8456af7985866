"""What every session pays for: the tool list, kept as a file so that a change is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvemcp.call import Effect
from pvemcp.server import INSTRUCTIONS
from pvemcp.tools.registry import TOOLS, listing
from pvemcp.tools.tool import Tool

SNAPSHOT = Path(__file__).with_name("tools.json")


def test_the_tool_list_is_the_committed_one() -> None:
    """`make format` writes the file anew; read its diff as a client would."""
    assert json.loads(SNAPSHOT.read_text()) == listing(Effect.DESTROY)


def test_the_tool_list_stays_small() -> None:
    size = len(json.dumps(listing(Effect.DESTROY), separators=(",", ":")).encode())
    assert size / 4 < 5000


def test_the_instructions_stay_under_two_thousand_characters() -> None:
    assert len(INSTRUCTIONS) < 2000


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_hints_are_true_to_the_declared_effects(tool: Tool) -> None:
    (entry,) = [entry for entry in listing(Effect.DESTROY) if entry["name"] == tool.name]
    hints = entry["annotations"]
    assert hints["readOnlyHint"] == (tool.reach is Effect.READ)
    assert hints.get("destructiveHint", False) == (tool.reach is Effect.DESTROY)
    assert tool.effect <= tool.reach


def test_a_grant_that_may_only_read_is_offered_only_what_reads() -> None:
    listed = {entry["name"]: entry["annotations"]["readOnlyHint"] for entry in listing(Effect.READ)}
    assert [name for name, reads in listed.items() if not reads] == ["elevate"]
