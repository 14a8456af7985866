"""The commands about policy, freezes and elevations, and what doctor says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvemcp.access.elevation import Elevations
from pvemcp.access.freeze import Freezes
from pvemcp.access.grants import Grants
from pvemcp.call import ApiToken, Call, Effect, Principal
from pvemcp.health.policy import check_policy
from pvemcp.settings import Settings
from pvemcp.settings.policy import rules
from pvemcp.store import Store
from tests.unit.test_cli import Commands


@pytest.fixture
def pvemcp(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_a_raised_ceiling_is_shown_and_ended_by_a_person(pvemcp: Commands) -> None:
    pvemcp("grant", "create", "laptop", "--ceiling", "read")
    assert "Nobody is elevated." in pvemcp("elevation", "list").stdout
    with Store(pvemcp.state) as store:
        [grant] = Grants(store).list()
        call = Call(
            Principal("laptop", Effect.READ, ApiToken("a@pve!b", ""), grant.id), "elevate", {}
        )
        call.approval, call.approved_by = "ap-1", "alice@pve (page)"
        Elevations(store).give(call, Effect.CHANGE, 10, "disk\nfull")
    shown = pvemcp("elevation", "list").stdout
    for part in ("laptop may change until", "instead of read", "alice@pve (page)", "disk full"):
        assert part in shown
    assert "change until" in pvemcp("grant", "list").stdout
    assert json.loads(pvemcp("grant", "list", "--json").stdout)[0]["raised"]["to"] == "change"
    assert "may read again" in pvemcp("elevation", "end", "laptop").stdout
    assert "laptop is not elevated" in pvemcp("elevation", "end", "laptop", answer=2).stderr
    with Store(pvemcp.state) as store:
        who = Principal("laptop", Effect.READ, ApiToken("a@pve!b", ""), grant.id)
        assert Elevations(store).ceiling(who) is Effect.READ


RULES = """
[[policy]]
name = "vault"
verdict = "deny"
effect = ["read", "change", "destroy"]
tag = "vault"

[[policy]]
name = "sandbox"
verdict = "ask"
profile = "change"
channel = "person"
persons = 2

[[policy]]
name = "gone"
verdict = "ask"
client = "laptpo"

[[policy]]
name = "shells"
verdict = "record"
profile = "read"
"""


def test_the_policy_is_shown_and_tried_out(pvemcp: Commands, tmp_path: Path) -> None:
    file = tmp_path / "pvemcp.toml"
    file.write_text(RULES)

    def tried(*options: str) -> str:
        return pvemcp("--config", str(file), "policy", "test", *options).stdout

    shown = pvemcp("--config", str(file), "policy", "show").stdout
    assert shown.index("1. deny  vault") < shown.index("2. ask  sandbox") < shown.index("Then:")
    guest = ("--path", "/nodes/pve1/qemu/105/config")
    assert tried(*guest, "--tag", "vault") == "deny (rule 'vault')\n"
    assert tried(*guest, "--tag", "vault", "--effect", "read") == "deny (rule 'vault')\n"
    assert tried(*guest, "--effect", "read").startswith("allow ")
    assert tried(*guest, "--effect", "read", "--unseen") == "deny (rule 'vault')\n"
    assert tried(*guest, "--unseen") == "deny (rule 'vault')\n"
    assert tried(*guest) == "allow (default: change is allowed)\n"
    assert tried(*guest, "--effect", "destroy").startswith("ask (default: destroy asks)")
    sandbox = tried("--path", "host/change", "--tool", "host_run")
    assert sandbox == "ask, 2 persons, not in the client's own dialog (rule 'sandbox')\n"
    assert "4. record  shells: profile = read" in shown
    reading = tried("--path", "host/read", "--tool", "shell_open", "--effect", "read")
    assert reading == "a shell there is recorded (rule 'shells')\nallow (no rule denies it)\n"
    assert tried(*guest, "--client", "laptpo") == "ask (rule 'gone')\n"


def test_a_wrong_rule_stops_the_service_and_says_how_to_repair_it(
    pvemcp: Commands, tmp_path: Path
) -> None:
    file = tmp_path / "pvemcp.toml"
    file.write_text('[[policy]]\nname = "prod"\nverdict = "ask"\ntags = "prod"\n')
    for command in (("policy", "show"), ("serve",)):
        said = pvemcp("--config", str(file), *command, answer=2).stderr
        for part in ("policy rule 'prod'", "unknown key 'tags'", "Keys: name, verdict"):
            assert part in said


def test_doctor_looks_at_rules_together_and_tells_of_freezes(tmp_path: Path) -> None:
    given = [
        {"name": "all", "verdict": "allow", "effect": ["change", "destroy"]},
        {"name": "late", "verdict": "deny", "tag": "prod", "client": "laptpo"},
    ]
    with Store(tmp_path) as store:
        grants = [Grants(store).create("laptop", Effect.READ)[0]]
        Freezes(store).freeze("all", client="laptop", by="root", reason="odd")
    settings = Settings(state_dir=tmp_path, policy=rules("policy", given))
    found = [f"{check.message} {check.repair}" for check in check_policy(settings, grants)]
    for part in (
        "2 rules",
        "'all' allows what destroys",
        "'late' never decides",
        "laptpo, and no grant",
        "frozen since",
        "pvemcp thaw --client laptop",
    ):
        assert any(part in text for text in found), (part, found)
    [fine] = check_policy(Settings(state_dir=tmp_path / "none"), grants)
    assert (fine.ok, fine.repair) == (True, "")


def test_the_service_is_frozen_and_thawed_in_one_line(pvemcp: Commands) -> None:
    pvemcp("grant", "create", "laptop", "--ceiling", "read")
    assert "Nothing is frozen." in pvemcp("freeze", "--status").stdout
    assert "changes of every client are frozen" in pvemcp("freeze").stdout
    assert (
        "everything of client laptop is frozen"
        in pvemcp(
            "freeze", "--all", "--client", "laptop", "--reason", "odd", SUDO_USER="alice"
        ).stdout
    )
    assert "by alice: odd" in pvemcp("freeze", "--status").stdout
    assert "No grant has the name laptpo" in pvemcp("freeze", "--client", "laptpo", answer=2).stderr
    assert "Still: everything of client laptop" in pvemcp("thaw").stdout
    assert pvemcp("thaw", "--client", "laptop").stdout == "Thawed.\n"
    assert "not frozen" in pvemcp("thaw", answer=2).stderr
