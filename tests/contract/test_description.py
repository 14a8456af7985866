"""The description of a real PVE 9.1 and its recorded answers against what we make of them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pvemcp.errors import (
    Conflict,
    Denied,
    Fault,
    Invalid,
    Missing,
    Rejected,
    Unauthenticated,
    Unavailable,
    Uncertain,
)
from pvemcp.pve import effects, patterns
from pvemcp.pve.description import Description
from pvemcp.pve.faults import Asked, fault_of
from pvemcp.pve.schema import Method, Parameter
from pvemcp.pve.transport import Reply
from pvemcp.pve.validate import validate

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "pve"
APIDATA = SHARED / "apidata.json"
RECORDED = SHARED / "recorded" / "responses.jsonl"

pytestmark = pytest.mark.skipif(
    not (APIDATA.exists() and RECORDED.exists()), reason="the recorded data of PVE are not here"
)


@cache
def pve() -> Description:
    return Description.parse(APIDATA.read_text("utf-8"), source="PVE 9.1.3")


@cache
def methods() -> tuple[Method, ...]:
    return tuple(pve().methods())


def recorded(*statuses: int) -> list[dict[str, Any]]:
    lines = RECORDED.read_text("utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["status"] in statuses]


def example(parameter: Parameter | None) -> str:
    if parameter is not None and parameter.enum:
        return str(parameter.enum[0])
    kind = parameter.format if parameter is not None else ""
    known = {"pve-vmid": "100", "pve-userid": "root@pam", "pve-replication-job-id": "100-0"}
    if isinstance(kind, str) and kind in known:
        return known[kind]
    return "1" if parameter is not None and parameter.type == "integer" else "abc"


def concrete(method: Method) -> str:
    known = {p.name: p for p in method.parameters}
    return re.sub(r"\{([^}]+)\}", lambda found: example(known.get(found[1])), method.path)


def test_all_methods_of_pve_9_are_read() -> None:
    assert len(pve()) == len(methods()) == 649


def test_the_path_of_every_method_matches_that_method() -> None:
    for method in methods():
        match = pve().match(method.verb, concrete(method))
        assert match.method.path == method.path, method.path


def test_every_method_that_writes_has_a_reviewed_effect() -> None:
    unreviewed = [
        f"{m.verb} {m.path}"
        for m in methods()
        if m.verb != "GET" and not any(not r.when for r in effects.rules_for(m.verb, m.path))
    ]
    assert unreviewed == []


def test_every_rule_is_about_a_method_that_exists_and_says_why() -> None:
    names = [f"{m.verb} {m.path}" for m in methods()]
    in_use = {id(rule) for m in methods() for rule in effects.rules_for(m.verb, m.path)}
    for rule in effects.table():
        assert rule.why
        assert id(rule) in in_use, rule
        for pattern in rule.methods:
            assert any(pattern.fullmatch(name) for name in names), pattern.pattern


def test_every_condition_of_a_rule_is_about_a_parameter_that_exists() -> None:
    for rule in effects.table():
        named = [m for m in methods() if rule.names(f"{m.verb} {m.path}")]
        for name, _ in rule.when:
            assert any(p.name == name for m in named for p in m.parameters), rule


def test_every_method_is_found_by_the_words_of_its_path() -> None:
    for path in (
        "/nodes/{node}/qemu/{vmid}/snapshot",
        "/cluster/backup",
        "/nodes/{node}/disks/zfs",
    ):
        words = re.sub(r"\{.*?\}|/", " ", path)
        assert path in {m.path for m in pve().search(words, 4)}


def test_no_pattern_of_pve_can_be_made_to_hang_by_a_value() -> None:
    every = {p.pattern for m in methods() for p in m.parameters if p.pattern}
    for pattern in every:
        for part in ("a", "1", "-", ".", "a-", "1.", "a;", "/a", "A-a", " ", "a=,"):
            patterns.matches(pattern, part * (2000 // len(part)) + "!")
    unread = sum(patterns.matches(pattern, "a") is None for pattern in every)
    assert unread <= 10


def _judge(row: dict[str, Any]) -> None:
    """Match and validate a recorded request; raises Invalid as the client would."""
    match = pve().match(row["method"], row["path"])
    given = row["params"] or {}
    pairs = list(given.items()) if isinstance(given, dict) else [tuple(pair) for pair in given]
    params: dict[str, Any] = dict(match.values)
    for name, value in pairs:
        params[name] = [params[name], value] if name in params else value
    validate(match.method, params)


DECIDED_BY_PVE = re.compile(
    r"No such|does not exist|already exists|no such|unknown option|is local node|not an EVPN"
    r"|unable to parse worker upid"
)
"""Reasons of a 400 that only PVE can know."""


def test_recorded_refusals_that_the_description_explains_are_refused_here() -> None:
    judged = 0
    for row in recorded(400):
        errors = (row["json"] or {}).get("errors") or {}
        if not errors or all(DECIDED_BY_PVE.search(text) for text in errors.values()):
            continue
        judged += 1
        with pytest.raises(Fault) as caught:
            _judge(row)
        if caught.value.detail:
            assert set(errors) == set(caught.value.detail), row["name"]
    assert judged >= 10


def test_recorded_requests_that_pve_took_pass_here() -> None:
    judged = 0
    for row in recorded(200):
        path = row["path"]
        if path.startswith(("/api2/extjs", "/api2/json//")) or path in {
            "/api2/json",
            "/api2/json/",
        }:
            continue
        judged += 1
        try:
            _judge(row)
        except Invalid as fault:
            pytest.fail(f"{row['method']} {path} {row['params']}: {fault}")
    assert judged > 200


def test_recorded_refusals_become_faults_that_say_what_to_do() -> None:
    judged = mute = 0
    for row in recorded(400, 401, 403, 404, 424, 500, 501, 506, 595, 596):
        body = json.dumps(row["json"]) if row["json"] else (row.get("body") or "")
        try:
            method = pve().match(row["method"], row["path"]).method
        except Invalid:
            method = Method(row["path"], row["method"])
        asked = Asked(method, row["path"], "ops@pve!mcp", "pve1")
        fault, _ = fault_of(Reply(row["status"], row["reason"], body.encode()), asked)
        judged += 1
        mute += not (fault.hint or fault.detail)
        assert fault.message
        assert type(fault) in BY_STATUS[row["status"]], (row["name"], fault)
    assert judged > 100
    assert mute < judged / 20


BY_STATUS: dict[int, tuple[type[Fault], ...]] = {
    400: (Invalid, Missing, Conflict),
    401: (Unauthenticated,),
    403: (Denied,),
    404: (Missing,),
    424: (Conflict,),
    500: (Missing, Conflict, Denied, Rejected, Uncertain, Invalid),
    501: (Invalid,),
    506: (Rejected,),
    595: (Unavailable, Uncertain),
    596: (Unavailable, Uncertain),
}
