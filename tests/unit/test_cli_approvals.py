"""The command line for approvals and changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pvemcp.access.approvals import Approvals, Question
from pvemcp.access.policy import Judgement
from pvemcp.call import ApiToken, Call, Effect, Intent, Principal, Verdict
from pvemcp.journal.book import Book
from pvemcp.journal.change import Recipe, Request
from pvemcp.store import Store
from tests.unit.test_cli import Commands


@pytest.fixture
def pvemcp(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def asked_for(pvemcp: Commands, *, confirm: str = "") -> str:
    """Put a question to a person into the database; return its id."""
    who = Principal("laptop", Effect.DESTROY, ApiToken("a@pve!t", "s"), "g1")
    call = Call(who, "guest_power", {"guests": 105, "action": "stop"}, client="claude-code 2.1")
    question = Question("guest_power", call.arguments, b"d", "Plan\x1b[2J of 105", confirm=confirm)
    with Store(pvemcp.state) as store:
        return Approvals(store).ask(call, question, Judgement(Verdict.ASK, "default")).id


def state_of(pvemcp: Commands, id_: str) -> str:
    """Return the state of an approval."""
    with Store(pvemcp.state) as store:
        return Approvals(store).get(id_).state


def test_a_person_sees_a_plan_and_approves_it(pvemcp: Commands) -> None:
    assert "Nothing waits" in pvemcp("approvals", "list").stdout
    id_ = asked_for(pvemcp)
    listed = pvemcp("approvals", "list").stdout
    assert (id_ in listed, "laptop" in listed) == (True, True)
    shown = pvemcp("approvals", "show", id_).stdout
    assert "Plan\\x1b[2J of 105" in shown
    assert ", in 10 min\n" in shown
    assert re.search(r", asked \S+ \S+ CET, ", pvemcp("approvals", "show", id_, TZ="CET-1").stdout)
    pvemcp("approvals", "approve", id_, answer=130)
    assert state_of(pvemcp, id_) == "waiting"
    pvemcp("approvals", "approve", id_, "--yes")
    assert state_of(pvemcp, id_) == "approved"
    pvemcp("approvals", "deny", id_)
    assert state_of(pvemcp, id_) == "denied"
    assert json.loads(pvemcp("approvals", "list", "--all", "--json").stdout)[0]["id"] == id_


@pytest.mark.parametrize("given", [("--yes",), ("--confirm", "106"), ("--confirm", "")])
def test_what_would_be_lost_must_be_typed(pvemcp: Commands, given: tuple[str, ...]) -> None:
    id_ = asked_for(pvemcp, confirm="105")
    assert "type 105" in pvemcp("approvals", "approve", id_, *given, answer=2).stderr
    assert state_of(pvemcp, id_) == "waiting"
    pvemcp("approvals", "approve", id_, "--confirm", "105")
    assert state_of(pvemcp, id_) == "approved"


def test_an_unknown_approval_is_named(pvemcp: Commands) -> None:
    assert "no approval ap-nope" in pvemcp("approvals", "show", "ap-nope", answer=2).stderr


def test_changes_are_listed_and_shown_before_and_after(pvemcp: Commands) -> None:
    principal = Principal("laptop", Effect.CHANGE, ApiToken("a@pve!b", "secret-of-the-token"))
    call = Call(principal, "api_change", {})
    path = "/nodes/pve1/qemu/100/config"
    params = {"node": "pve1", "vmid": 100, "cores": 4, "cipassword": "swordfish"}
    intent = Intent("PUT", path, Effect.CHANGE, template="/x", params=params, node="pve1")
    with Store(pvemcp.state) as store:
        book = Book(store)
        id_ = book.open(call, intent, "guest qemu/100", {"cores": 2})
        recipe = Recipe((Request("PUT", path, {"cores": 2}),))
        book.close(id_, "done", after={"cores": 4}, recipe=recipe)
    head, row = pvemcp("changes", "list").stdout.splitlines()
    assert head.split() == ["ID", "TIME", "CLIENT", "WHAT", "OUTCOME", "UNDO"]
    assert row.split()[0] == id_
    assert "laptop" in row
    shown = pvemcp("changes", "show", id_).stdout
    assert "cores: 2 -> 4" in shown
    assert f"PUT {path} cores=2" in shown
    for words in (("list", "--json"), ("show", id_, "--json")):
        assert "swordfish" not in pvemcp("changes", *words).stdout
    assert "needs no confirmation" in pvemcp("changes", "confirm", id_, answer=2).stderr
    assert "pvemcp changes list" in pvemcp("changes", "show", "ch-0", answer=2).stderr
