"""Configurations: what GET config and GET pending show, what PUT and POST change."""

from __future__ import annotations

from typing import Any

from pvemcp.sim.declare import Ask
from pvemcp.sim.refusal import failed
from pvemcp.sim.world import Guest

SECRET = "*" * 10
"""How PVE shows a password of cloud-init."""


def show_config(ask: Ask, guest: Guest) -> dict[str, Any]:
    """Return a configuration with its digest: with pending changes, as it is, or a snapshot's."""
    if name := ask.args.get("snapshot"):
        if name not in guest.snapshots:
            raise failed(f"snapshot '{name}' does not exist")
        return _masked(guest.snapshots[name].config)
    config = dict(guest.config)
    if not ask.args.get("current"):
        config |= guest.pending
    shown = {key: value for key, value in config.items() if value is not None}
    if guest.parent:
        shown["parent"] = guest.parent
    return _masked({**shown, "digest": guest.digest()})


def show_pending(guest: Guest) -> list[dict[str, Any]]:
    """Return every key with its present value, and the pending one or the wish to delete it."""
    present = _masked({**guest.config, "digest": guest.digest()})
    rows = [{"key": key, "value": value} for key, value in present.items()]
    by_key = {str(row["key"]): row for row in rows}
    for key, value in guest.pending.items():
        row = by_key.get(key)
        if row is None:
            row = {"key": key}
            rows.append(row)
        row |= {"delete": 1} if value is None else {"pending": value}
    return rows


def _masked(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "cipassword": SECRET} if "cipassword" in config else dict(config)
