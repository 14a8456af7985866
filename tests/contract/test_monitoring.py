"""The alert rules and the board that are shipped: they parse, and ask only for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.scenarios.test_http import web
from tests.scenarios.test_monitoring import get

FOLDER = Path(__file__).parents[2] / "packaging" / "monitoring"
NAME = re.compile(r"\bpvemcp_[a-z_]+\b")
LABEL = re.compile(r"by \(([a-z, ]+)\)")


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((FOLDER / "pvemcp.rules.yml").read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-pvemcp.json").read_text())
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in board()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_each_rule_says_what_is_wrong_and_how_bad_it_is() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 5
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]


def test_expressions_are_balanced_and_the_board_has_no_two_panels_in_one_place() -> None:
    for text in expressions():
        assert all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board()["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board()["panels"]}) == len(places)


async def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    async with web() as w:
        async with w.client() as client:
            await client.call("api_read", path="/version")
            await client.call("host_run", command="true")
        text = (await get(w, "/metrics", secret=w.secret))[2]
    families = list(text_string_to_metric_families(text))
    known = {name for family in families for name in names_of(family)}
    known |= {"pvemcp_certificate_expiry_seconds"}  # with TLS
    asked = {name for text in expressions() for name in NAME.findall(text)}
    assert asked <= known
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    labels |= {"instance", "reason", "limit", "channel"}
    for text in expressions():
        for found in LABEL.findall(text):
            assert set(found.split(", ")) <= labels


def names_of(family: Any) -> set[str]:
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + end for end in kinds.get(family.type, ("",))}
