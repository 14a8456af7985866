"""The service's rules in PVE's firewall, at the level of this host; known by their comments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pvemcp.errors import Conflict, Fault, Invalid
from pvemcp.setup.networks import Network, parse

MARK = "pvemcp: "
ALLOW = f"{MARK}may reach the MCP service (change with pvemcp firewall)"
DROP = f"{MARK}nobody else may"
LONGEST = 512
"""Characters of a rule's source in PVE."""


class Api(Protocol):
    """What is needed of PVE's API, as an administrator: a part of PveAccess."""

    def get(self, path: str, /, **params: Any) -> Any:
        """Read."""

    def post(self, path: str, /, **params: Any) -> Any:
        """Make something new."""

    def delete(self, path: str, /, **params: Any) -> Any:
        """Remove something."""


class PveRules:
    """Rules of the node that is asked: who is let in, and below it that nobody else is."""

    where = "PVE's firewall, at the level of this host"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, Any] = {}
        """What was read, until the next change: pvesh takes a second or two for each answer."""

    def is_on(self) -> bool:
        """Whether rules of this host count: the cluster's firewall is on, and this host's is."""
        # A host's is on unless it is switched off; the cluster's is off unless it is switched on.
        return bool(
            int(self._get("/cluster/firewall/options").get("enable", 0))
            and int(self._get(f"{self._path}/options").get("enable", 1))
        )

    def sources(self) -> list[Network] | None:
        """Return who is let in, or None when there is no rule of ours. Raises Conflict."""
        ours = self._ours()
        given = [one.get("source", "") for one in ours if one["action"] == "ACCEPT"]
        try:
            return parse(one for text in given for one in text.split(",")) if ours else None
        except Invalid:
            raise Conflict(
                f"A rule of pvemcp in PVE's firewall was changed by hand: source {given}.",
                hint="Give it CIDRs again, or take all rules away: pvemcp firewall remove",
            ) from None

    def ports(self) -> list[int]:
        """Return the ports that are guarded. A rule changed by hand guards none of ours."""
        texts = {str(one.get("dport", "")) for one in self._ours()}
        found = texts.pop().split(",") if len(texts) == 1 else []
        return [int(one) for one in found] if all(one.isdigit() for one in found) else []

    def rules(self) -> list[str]:
        """Return our rules, a line each."""
        return [
            f"{one['pos']}: {one['type']} {one['action']} {one.get('proto', '')} "
            f"{one.get('dport', '')} from {one.get('source', 'anywhere')}"
            + ("" if int(one.get("enable", 0)) else " (switched off)")
            for one in self._ours()
        ]

    def problem(self) -> str:
        """Return why the rules do not count; empty when they do."""
        if not self.is_on():
            return "PVE's firewall was switched off, and with it these rules"
        off = [one for one in self._ours() if not int(one.get("enable", 0))]
        return "a rule of it was switched off in PVE" if off else ""

    def write(self, sources: Sequence[Network], ports: Sequence[int]) -> None:
        """Put our rules on top, and take the former ones away."""
        before, wanted = len(self._ours()), _rules(sources, ports)
        try:
            # Each new rule goes on top of the others: the last shall be first.
            for rule in reversed(wanted):
                self._post(rule)
        except Fault:
            # Counted, as one whose answer was lost may have been made.
            while len(self._ours()) > before:
                self._delete(0)
            raise
        for _ in range(before):
            self._delete(len(wanted))

    def remove(self) -> bool:
        """Take our rules away; return whether there were any."""
        there = self._ours()
        for _ in there:
            self._delete(0)
        return bool(there)

    def _delete(self, at: int) -> None:
        """Delete the rule of ours that has so many others of ours above it."""
        rule, path = self._ours()[at], f"{self._path}/rules"
        self._known.pop(path)
        self._api.delete(f"{path}/{rule['pos']}", digest=rule["digest"])

    def _post(self, rule: dict[str, Any]) -> None:
        path = f"{self._path}/rules"
        self._known.pop(path, None)
        self._api.post(path, **rule)

    def _ours(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._get(f"{self._path}/rules")
        return [row for row in rows if str(row.get("comment", "")).startswith(MARK)]

    @property
    def _path(self) -> str:
        rows: list[dict[str, Any]] = self._get("/cluster/status")
        node = next(row["name"] for row in rows if row["type"] == "node" and row.get("local"))
        return f"/nodes/{node}/firewall"

    def _get(self, path: str) -> Any:
        if path not in self._known:
            self._known[path] = self._api.get(path)
        return self._known[path]


def _rules(sources: Sequence[Network], ports: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rules from top to bottom."""
    # `enable` is 0 unless said; a source may not mix the families.
    usual = {"type": "in", "proto": "tcp", "dport": ",".join(map(str, ports)), "enable": 1}
    lists = [one for version in (4, 6) for one in _lists(sources, version)]
    allow = [{**usual, "action": "ACCEPT", "source": one, "comment": ALLOW} for one in lists]
    return [*allow, {**usual, "action": "DROP", "comment": DROP}]


def _lists(sources: Sequence[Network], version: int) -> list[str]:
    """Return the networks of a family, comma-separated, in as few texts as PVE takes."""
    found: list[str] = []
    for text in (str(one) for one in sources if one.version == version):
        if found and len(found[-1]) + len(text) < LONGEST:
            found[-1] += f",{text}"
        else:
            found.append(text)
    return found
