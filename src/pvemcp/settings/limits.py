"""How much a client may use."""

from __future__ import annotations

from dataclasses import dataclass

from pvemcp.settings import values
from pvemcp.settings.setting import setting


@dataclass(frozen=True)
class Limits:
    """Part of Settings: how much a client may use."""

    body_limit: int = setting(
        1024 * 1024,
        values.integer(1024, 64 * 1024 * 1024),
        "Largest request body that is read, in bytes (1024 to 67108864).",
    )
    result_limit: int = setting(
        200_000,
        values.integer(10_000, 10_000_000),
        "Longest text that a call may answer, in characters; the rest is left out, and the answer "
        "says so (10000 to 10000000).",
    )
    requests_per_minute: int = setting(
        3000,
        values.integer(10, 1_000_000),
        "How many HTTP requests one grant may make in a minute; as many may come at once.",
    )
    calls_per_minute: int = setting(
        1200,
        values.integer(1, 1_000_000),
        "How many tool calls one grant may make in a minute; as many may come at once.",
    )
    concurrent_calls_per_grant: int = setting(
        64, values.integer(1, 10_000), "How many calls of one grant may run at once."
    )
    concurrent_calls: int = setting(
        256, values.integer(1, 10_000), "How many calls of all grants together may run at once."
    )
    sessions_per_grant: int = setting(
        100, values.integer(1, 10_000), "How many sessions one grant may have (`pvemcp sessions`)."
    )
    sessions: int = setting(
        1000,
        values.integer(1, 10_000),
        "How many sessions all grants together may have, at about 40 kB each.",
    )
    session_idle: int = setting(
        1800,
        values.integer(60, 7 * 86_400),
        "Seconds without a request after which a session ends (60 to 604800).",
    )
