"""Settings that the simulator keeps and does not act on: of nodes, notifications and metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pvemcp.pve.schema import Parameter
from pvemcp.sim.declare import (
    Ask,
    Endpoint,
    Handler,
    choice,
    endpoint,
    flag,
    index,
    perm,
    text,
    whole,
)  # fmt: skip
from pvemcp.sim.refusal import failed
from pvemcp.sim.validate import split_list
from pvemcp.sim.world import World

_CONTROL = frozenset(("node", "digest", "delete", "property"))


def digest(values: Mapping[str, Any]) -> str:
    """Return what changes with every setting."""
    said = repr(sorted(values.items()))
    return hashlib.sha1(said.encode(), usedforsecurity=False).hexdigest()


def written(ask: Ask, values: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Return settings as a request leaves them; raises the 500 of a digest that is another."""
    if ask.args.get("digest") not in (None, digest(values)):
        raise failed("detected modified configuration - file changed by other user? Try again.")
    gone = ask.args.get("delete", ())
    gone = split_list(gone) if isinstance(gone, str) else gone
    given = {k: v for k, v in ask.args.items() if k not in _CONTROL | {key}}
    return {k: v for k, v in values.items() if k not in gone} | given


def keep(world: World, path: str, values: dict[str, Any], usual: Mapping[str, Any]) -> None:
    """Keep what differs from how a node is made."""
    if values == usual:
        world.sections.pop(path, None)
    else:
        world.sections[path] = values


# Named settings: `world.sections[path][name]` ------------------------------------------------


def _all(path: str, key: str) -> Handler:
    def handle(ask: Ask) -> list[dict[str, Any]]:
        return [{**values, key: name} for name, values in ask.world.sections[path].items()]

    return handle


def _there(ask: Ask, path: str, key: str) -> dict[str, Any]:
    values: dict[str, Any] | None = ask.world.sections[path].get(ask.args[key])
    if values is None:
        raise failed(f"no such {key} '{ask.args[key]}'")
    return values


def _one(path: str, key: str) -> Handler:
    def handle(ask: Ask) -> dict[str, Any]:
        values = _there(ask, path, key)
        return {**values, key: ask.args[key], "digest": digest(values)}

    return handle


def _values_of_one(path: str, key: str) -> Handler:
    def handle(ask: Ask) -> dict[str, Any]:
        return dict(_there(ask, path, key))

    return handle


def _make(path: str, key: str, **usual: Any) -> Handler:
    def handle(ask: Ask) -> None:
        if ask.args[key] in ask.world.sections[path]:
            raise failed(f"'{ask.args[key]}' already exists")
        ask.world.sections[path][ask.args[key]] = {**usual, **written(ask, {}, key)}

    return handle


def _set(path: str, key: str) -> Handler:
    def handle(ask: Ask) -> None:
        ask.world.sections[path][ask.args[key]] = written(ask, _there(ask, path, key), key)

    return handle


def _drop(path: str, key: str) -> Handler:
    def handle(ask: Ask) -> None:
        ask.world.sections[path].pop(ask.args[key], None)

    return handle


def _node_config(ask: Ask) -> dict[str, Any]:
    return dict(ask.world.sections[f"config {ask.node}"])


def _set_node_config(ask: Ask) -> None:
    there = ask.world.sections
    there[f"config {ask.node}"] = written(ask, there[f"config {ask.node}"])


# Declarations --------------------------------------------------------------------------------

_DIGEST = text("digest", "Refuse when the configuration has changed.", max_length=64)


_NAME = text("name", "The name.", optional=False, format="pve-configid")
_MATCHERS = "/cluster/notifications/matchers"
_TEXTS = {"type": "string"}
_IDS = {"type": "string", "format": "pve-configid"}


def _many(name: str, about: str, items: Mapping[str, Any] = _TEXTS) -> Parameter:
    return Parameter(name, "array", optional=True, description=about, items=items)


_MATCHER = (
    text("comment", "Notes."),
    flag("disable", "Whether it is off.", default=0),
    flag("invert-match", "Whether it is the opposite."),
    *(_many(name, "Which.") for name in ("match-calendar", "match-field", "match-severity")),
    choice("mode", "All or any.", ("all", "any"), default="all"),
    _many("target", "Who is told.", _IDS),
)
_SEE, _LIST = (
    {"check": ["or", *(["perm", "/mapping/notifications", [f"Mapping.{each}"]] for each in names)]}
    for names in (("Modify", "Audit"), ("Modify", "Audit", "Use"))
)
_NOTIFY = perm("/mapping/notifications", "Mapping.Modify")
_SERVERS = "/cluster/metrics/server"
_SERVER_ID = text("id", "The name.", optional=False, format="pve-configid")
_SERVER = (
    text("server", "Where it is.", optional=False, format="address"),
    whole("port", "Its port.", optional=False, minimum=1, maximum=65536),
    text("path", "Where in Graphite.", format="graphite-path"),
    flag("disable", "Whether nothing is sent."),
)
_MEASURE = perm("/", "Sys.Modify")
_NODE = "/nodes/{node}/config"
_ACME = {
    "account": {"type": "string", "optional": 1, "default": "default", "format": "pve-configid"},
    "domains": {"type": "string", "optional": 1, "format": "pve-acme-domain-list"},
}
_DOMAIN = {
    "alias": {"type": "string", "optional": 1, "format": "pve-acme-alias"},
    "domain": {"type": "string", "default_key": 1, "format": "pve-acme-domain"},
    "plugin": {"type": "string", "optional": 1, "default": "standalone", "format": "pve-configid"},
}
_WAKE = {
    "bind-interface": {"type": "string", "optional": 1, "format": "pve-iface"},
    "broadcast-address": {"type": "string", "optional": 1, "format": "ipv4"},
    "mac": {"type": "string", "default_key": 1, "format": "mac-addr"},
}
_PROPERTIES = ("acme", *(f"acmedomain{n}" for n in range(6)), "ballooning-target", "description",
               "startall-onboot-delay", "wakeonlan")  # fmt: skip

ENDPOINTS: tuple[Endpoint, ...] = (
    endpoint("GET", _MATCHERS, _all(_MATCHERS, "name"), about="Who is told of what.",
             permissions=_LIST, protected=True, returns=index("name")),
    endpoint("POST", _MATCHERS, _make(_MATCHERS, "name", origin="user-created"),
             about="Make a matcher.", permissions=_NOTIFY, protected=True,
             parameters=(_NAME, *_MATCHER)),
    endpoint("GET", f"{_MATCHERS}/{{name}}", _one(_MATCHERS, "name"), about="A matcher.",
             permissions=_SEE, protected=True, parameters=(_NAME,), returns="object"),
    endpoint("PUT", f"{_MATCHERS}/{{name}}", _set(_MATCHERS, "name"), about="Change a matcher.",
             permissions=_NOTIFY, protected=True,
             parameters=(_NAME, *_MATCHER, _DIGEST,
                         _many("delete", "Settings to remove.", _IDS))),
    endpoint("DELETE", f"{_MATCHERS}/{{name}}", _drop(_MATCHERS, "name"),
             about="Remove a matcher.", permissions=_NOTIFY, protected=True,
             parameters=(_NAME,)),
    endpoint("GET", _SERVERS, _all(_SERVERS, "id"), about="Where measurements go.",
             permissions=perm("/", "Sys.Audit"), returns=index("id")),
    endpoint("GET", f"{_SERVERS}/{{id}}", _values_of_one(_SERVERS, "id"),
             about="A server.",
             permissions=perm("/", "Sys.Audit"), parameters=(_SERVER_ID,), returns="object"),
    endpoint("POST", f"{_SERVERS}/{{id}}", _make(_SERVERS, "id"), about="Add a server.",
             permissions=_MEASURE, protected=True,
             parameters=(_SERVER_ID, *_SERVER,
                         choice("type", "What it is.", ("graphite", "influxdb", "opentelemetry"),
                                optional=False, format="pve-configid"))),
    endpoint("PUT", f"{_SERVERS}/{{id}}", _set(_SERVERS, "id"), about="Change a server.",
             permissions=_MEASURE, protected=True,
             parameters=(_SERVER_ID, *_SERVER, _DIGEST,
                         text("delete", "Settings to remove.", format="pve-configid-list",
                              max_length=4096))),
    endpoint("DELETE", f"{_SERVERS}/{{id}}", _drop(_SERVERS, "id"), about="Remove a server.",
             permissions=_MEASURE, protected=True, parameters=(_SERVER_ID,)),
    endpoint("GET", _NODE, _node_config, about="Settings of a node.", returns="object",
             permissions=perm("/", "Sys.Audit"),
             parameters=(choice("property", "Only this.", _PROPERTIES, default="all"),)),
    endpoint("PUT", _NODE, _set_node_config, about="Change a node.", protected=True,
             permissions=perm("/", "Sys.Modify"),
             parameters=(text("acme", "Account.", format=_ACME),
                         text("acmedomain[n]", "A name.", format=_DOMAIN),
                         whole("ballooning-target", "Percent.", minimum=0, maximum=100,
                               default=80),
                         text("description", "Notes.", max_length=65536),
                         whole("startall-onboot-delay", "Seconds.", minimum=0, maximum=300,
                               default=0),
                         text("wakeonlan", "Its card.", format=_WAKE),
                         text("delete", "Settings to remove.", format="pve-configid-list"),
                         text("digest", "Refuse when it has changed.", max_length=40))),
)  # fmt: skip
