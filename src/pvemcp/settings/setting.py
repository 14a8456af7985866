"""How one setting is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

Parser = Callable[[str, Any], Any]
"""Takes a setting's name and a value as it was given; raises Misconfigured."""


def setting(default: Any, parse: Parser, text: str, *, hidden: bool = False) -> Any:
    """Return a dataclass field with how it is parsed and the text of the reference page.

    A `hidden` one does not show its value in a repr.
    """
    return field(default=default, repr=not hidden, metadata={"parse": parse, "help": text})
